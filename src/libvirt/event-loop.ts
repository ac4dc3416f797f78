import koffi from 'koffi';
import type { Libvirt, Pointer } from './functions.ts';

/**
 * libvirt's event loop (virEventRegisterImpl, libvirt/libvirt-event.h) on top of Node's: descriptors
 * are watched by libuv, callbacks run on the main thread, and no thread of its own has to be woken
 * up when the process exits.
 *
 * libvirt knows one event loop a process, and every connection opened later would join it. But a
 * connection that works on pool threads must not: a pool thread would wait for the main thread
 * while it holds the connection's lock, and a callback on the main thread for that lock. So
 * everything is turned away (libvirt then does without events) except inside {@link joinEventLoop}.
 */

/** virEventHandleType. */
const READABLE = 1;
const WRITABLE = 2;
const ERROR = 4;
const HANGUP = 8;

interface Poll {
  close(): void;
}

interface PollEvents {
  readonly readable: boolean;
  readonly writable: boolean;
  readonly disconnect: boolean;
}

/** koffi 3.3 passes libuv's status before the events (uv.cc), which its own types leave out. */
const poll = koffi.node.poll as unknown as (
  fd: number,
  wanted: PollEvents,
  callback: (status: number, events: PollEvents) => void,
) => Poll;

interface Watch {
  readonly fd: number;
  readonly callback: Pointer;
  readonly opaque: Pointer | null;
  readonly release: Pointer | null;
  events: number;
  poll: Poll | undefined;
}

interface Timer {
  readonly callback: Pointer;
  readonly opaque: Pointer | null;
  readonly release: Pointer | null;
  /** Milliseconds between calls; below zero it sleeps. */
  interval: number;
  timeout: NodeJS.Timeout | undefined;
}

const watches = new Map<number, Watch>();
const timers = new Map<number, Timer>();
let lastId = 0;
let registered = false;
let accepting = false;

const handleCallback = koffi.proto('void (int watch, int fd, int events, void *opaque)');
const timeoutCallback = koffi.proto('void (int timer, void *opaque)');
const freeCallback = koffi.proto('void (void *opaque)');

/** libvirt asks that an object is not released before the call that removed it has returned. */
function releaseLater(release: Pointer | null, opaque: Pointer | null): void {
  if (release !== null) setImmediate(() => koffi.call(release, freeCallback, opaque));
}

function watchAgain(id: number, watch: Watch): void {
  watch.poll?.close();
  watch.poll = undefined;
  if (watch.events === 0) return;
  const wanted = {
    readable: (watch.events & READABLE) !== 0,
    writable: (watch.events & WRITABLE) !== 0,
    disconnect: true,
  };
  watch.poll = poll(watch.fd, wanted, (status, { readable, writable, disconnect }) => {
    const events =
      (status < 0 ? ERROR : 0) |
      (readable ? READABLE : 0) |
      (writable ? WRITABLE : 0) |
      (disconnect ? HANGUP : 0);
    koffi.call(watch.callback, handleCallback, id, watch.fd, events, watch.opaque);
  });
}

function arm(id: number, timer: Timer): void {
  clearTimeout(timer.timeout);
  timer.timeout = undefined;
  if (timer.interval < 0) return;
  timer.timeout = setTimeout(() => {
    koffi.call(timer.callback, timeoutCallback, id, timer.opaque);
    // It goes on until it is updated or removed, which the callback may have done.
    if (timers.get(id) === timer && timer.timeout !== undefined) arm(id, timer);
  }, timer.interval);
}

function addHandle(
  fd: number,
  events: number,
  callback: Pointer,
  opaque: Pointer | null,
  release: Pointer | null,
): number {
  if (!accepting) return -1;
  const id = ++lastId;
  const watch: Watch = { fd, events, callback, opaque, release, poll: undefined };
  watches.set(id, watch);
  watchAgain(id, watch);
  return id;
}

function updateHandle(id: number, events: number): void {
  const watch = watches.get(id);
  if (watch === undefined || watch.events === events) return;
  watch.events = events;
  watchAgain(id, watch);
}

function removeHandle(id: number): number {
  const watch = watches.get(id);
  if (watch === undefined) return -1;
  watches.delete(id);
  watch.poll?.close();
  releaseLater(watch.release, watch.opaque);
  return 0;
}

function addTimeout(
  interval: number,
  callback: Pointer,
  opaque: Pointer | null,
  release: Pointer | null,
): number {
  if (!accepting) return -1;
  const id = ++lastId;
  const timer: Timer = { interval, callback, opaque, release, timeout: undefined };
  timers.set(id, timer);
  arm(id, timer);
  return id;
}

function updateTimeout(id: number, interval: number): void {
  const timer = timers.get(id);
  if (timer === undefined) return;
  timer.interval = interval;
  arm(id, timer);
}

function removeTimeout(id: number): number {
  const timer = timers.get(id);
  if (timer === undefined) return -1;
  timers.delete(id);
  clearTimeout(timer.timeout);
  releaseLater(timer.release, timer.opaque);
  return 0;
}

/** The six functions of an event loop, in the order virEventRegisterImpl takes them. */
const IMPLEMENTATION: readonly (readonly [string, (...args: never[]) => unknown])[] = [
  ['int (int fd, int events, void *callback, void *opaque, void *release)', addHandle],
  ['void (int watch, int events)', updateHandle],
  ['int (int watch)', removeHandle],
  ['int (int interval, void *callback, void *opaque, void *release)', addTimeout],
  ['void (int timer, int interval)', updateTimeout],
  ['int (int timer)', removeTimeout],
];

/**
 * Runs `open`, which must be synchronous; what it registers joins the event loop. From then on
 * that connection is used on the main thread only.
 */
export function joinEventLoop<Result>(library: Libvirt, open: () => Result): Result {
  if (!registered) {
    registered = true;
    const functions = IMPLEMENTATION.map(([prototype, run]) =>
      koffi.register(run, koffi.pointer(koffi.proto(prototype))),
    );
    library.virEventRegisterImpl(...functions);
  }
  accepting = true;
  try {
    return open();
  } finally {
    accepting = false;
  }
}
