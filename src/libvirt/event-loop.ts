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

const handleCallback = koffi.proto('void (int watch, int fd, int events, void *opaque)');
const timeoutCallback = koffi.proto('void (int timer, void *opaque)');
const freeCallback = koffi.proto('void (void *opaque)');

/** Waits for something else from now on; what that is, and what nothing is, depends on its kind. */
type Update = (wanted: number) => void;

interface Registered {
  readonly update: Update;
  readonly nothing: number;
  readonly opaque: Pointer | null;
  readonly release: Pointer | null;
}

const registered = new Map<number, Registered>();
let lastId = 0;
let isImplemented = false;
let accepting = false;

/** Calls for each of the wanted events (0: none) of a descriptor. */
function watch(id: number, fd: number, callback: Pointer, opaque: Pointer | null): Update {
  let events = 0;
  let polling: Poll | undefined;
  return (wanted) => {
    if (wanted === events) return;
    events = wanted;
    polling?.close();
    polling = undefined;
    if (wanted === 0) return;
    const asked = {
      readable: (wanted & READABLE) !== 0,
      writable: (wanted & WRITABLE) !== 0,
      disconnect: true,
    };
    polling = poll(fd, asked, (status, { readable, writable, disconnect }) => {
      const happened =
        (status < 0 ? ERROR : 0) |
        (readable ? READABLE : 0) |
        (writable ? WRITABLE : 0) |
        (disconnect ? HANGUP : 0);
      koffi.call(callback, handleCallback, id, fd, happened, opaque);
    });
  };
}

/** Calls again and again after so many milliseconds; below zero it sleeps. */
function repeat(id: number, callback: Pointer, opaque: Pointer | null): Update {
  let timeout: NodeJS.Timeout | undefined;
  return function update(interval) {
    clearTimeout(timeout);
    timeout = undefined;
    if (interval < 0) return;
    const own = setTimeout(() => {
      koffi.call(callback, timeoutCallback, id, opaque);
      // It goes on unless the callback has updated or removed it.
      if (timeout === own) update(interval);
    }, interval);
    timeout = own;
  };
}

function add(
  { make, ...rest }: Omit<Registered, 'update'> & { readonly make: (id: number) => Update },
  wanted: number,
): number {
  if (!accepting) return -1;
  const id = ++lastId;
  const made = { ...rest, update: make(id) };
  registered.set(id, made);
  made.update(wanted);
  return id;
}

function addHandle(
  fd: number,
  events: number,
  callback: Pointer,
  opaque: Pointer | null,
  release: Pointer | null,
): number {
  const make = (id: number) => watch(id, fd, callback, opaque);
  return add({ make, nothing: 0, opaque, release }, events);
}

function addTimeout(
  interval: number,
  callback: Pointer,
  opaque: Pointer | null,
  release: Pointer | null,
): number {
  const make = (id: number) => repeat(id, callback, opaque);
  return add({ make, nothing: -1, opaque, release }, interval);
}

function update(id: number, wanted: number): void {
  registered.get(id)?.update(wanted);
}

function remove(id: number): number {
  const found = registered.get(id);
  if (found === undefined) return -1;
  registered.delete(id);
  found.update(found.nothing);
  const { release, opaque } = found;
  // libvirt asks that an object is not released before the call that removed it has returned.
  if (release !== null) setImmediate(() => koffi.call(release, freeCallback, opaque));
  return 0;
}

/** The six functions of an event loop, in the order virEventRegisterImpl takes them. */
const IMPLEMENTATION: readonly (readonly [string, (...args: never[]) => unknown])[] = [
  ['int (int fd, int events, void *callback, void *opaque, void *release)', addHandle],
  ['void (int watch, int events)', update],
  ['int (int watch)', remove],
  ['int (int interval, void *callback, void *opaque, void *release)', addTimeout],
  ['void (int timer, int interval)', update],
  ['int (int timer)', remove],
];

/**
 * Runs `open`, which must be synchronous; what it registers joins the event loop. From then on
 * that connection is used on the main thread only.
 */
export function joinEventLoop<Result>(library: Libvirt, open: () => Result): Result {
  if (!isImplemented) {
    isImplemented = true;
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
