import koffi from 'koffi';
import { identify } from './domain.ts';
import { failedCall, LibvirtError } from './errors.ts';
import { joinEventLoop } from './event-loop.ts';
import type { Libvirt, Pointer } from './functions.ts';
import { lastError } from './library.ts';

/** virDomainEventType by its number (libvirt/libvirt-domain.h). */
const KINDS = [
  'defined',
  'undefined',
  'started',
  'suspended',
  'resumed',
  'stopped',
  'shutdown',
  'pmsuspended',
  'crashed',
] as const;

/** A domain began or ended something. */
export interface LifecycleEvent {
  readonly name: string;
  readonly uuid: string;
  /** Null where the domain does not run (any more). */
  readonly id: number | null;
  readonly kind: (typeof KINDS)[number];
  /** The reason: a virDomainEvent…DetailType of `kind`. */
  readonly detail: number;
}

/** Who wants to know. */
export interface LifecycleListener {
  onEvent(event: LifecycleEvent): void;
  /** The daemon went away: no further event comes. */
  onLost?(): void;
}

/** VIR_DOMAIN_EVENT_ID_LIFECYCLE. */
const LIFECYCLE = 0;

const channels = new Map<bigint, LifecycleChannel>();
let lastKey = 0n;
let callbacks: { event: bigint; lost: bigint } | undefined;

/** Two native callbacks serve all channels for as long as the process lives: none has to be freed. */
function registerCallbacks(library: Libvirt): { event: bigint; lost: bigint } {
  const event = (
    _connection: Pointer,
    domain: Pointer,
    kind: number,
    detail: number,
    key: bigint | null,
  ): number => {
    const named = KINDS[kind];
    const channel = channels.get(key ?? 0n);
    if (named !== undefined && channel !== undefined) {
      channel.dispatch({ ...identify(library, domain), kind: named, detail });
    }
    return 0;
  };
  const lost = (_connection: Pointer, _reason: number, key: bigint | null): void =>
    channels.get(key ?? 0n)?.lost();
  return {
    event: koffi.register(
      event,
      koffi.pointer(
        koffi.proto('int (void *conn, void *dom, int event, int detail, void *opaque)'),
      ),
    ),
    lost: koffi.register(
      lost,
      koffi.pointer(koffi.proto('void (void *conn, int reason, void *opaque)')),
    ),
  };
}

/**
 * A native connection that carries events, all on the main thread. Opening and closing block it
 * for about 3 ms, and up to 200 ms while the daemon ends a domain.
 */
export class LifecycleChannel {
  readonly #library: Libvirt;
  readonly #connection: Pointer;
  readonly #registration: number;
  readonly #key: bigint;
  readonly #listeners = new Set<LifecycleListener>();
  #open = true;

  /** @throws LibvirtError E_LIBVIRT_CONNECT */
  constructor(library: Libvirt, uri: string) {
    callbacks ??= registerCallbacks(library);
    const { event, lost } = callbacks;
    const key = ++lastKey;
    const [connection, registration] = joinEventLoop(library, () => {
      const opened = library.virConnectOpen(uri);
      if (opened === null) {
        const reason = lastError(library);
        throw new LibvirtError('E_LIBVIRT_CONNECT', `cannot connect to ${uri} for events`, {
          libvirt: reason,
          cause: failedCall('connect', reason, uri),
        });
      }
      const id = library.virConnectDomainEventRegisterAny(
        opened,
        null,
        LIFECYCLE,
        event,
        key,
        null,
      );
      if (id < 0) {
        const error = failedCall('register for events', lastError(library), uri);
        library.virConnectClose(opened);
        throw error;
      }
      // Not every driver has it (test does not); then there is no server to lose either.
      library.virConnectRegisterCloseCallback(opened, lost, key, null);
      return [opened, id] as const;
    });
    this.#library = library;
    this.#connection = connection;
    this.#registration = registration;
    this.#key = key;
    channels.set(key, this);
  }

  /** False once the server was lost or the last listener left. */
  get open(): boolean {
    return this.#open;
  }

  add(listener: LifecycleListener): void {
    this.#listeners.add(listener);
  }

  /** Closes the channel with the last listener. */
  remove(listener: LifecycleListener): void {
    if (this.#listeners.delete(listener) && this.#listeners.size === 0) this.close();
  }

  dispatch(event: LifecycleEvent): void {
    for (const listener of [...this.#listeners]) listener.onEvent(event);
  }

  lost(): void {
    const listeners = [...this.#listeners];
    this.close();
    for (const listener of listeners) listener.onLost?.();
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#listeners.clear();
    channels.delete(this.#key);
    // Not from inside a callback of this very connection.
    setImmediate(() => {
      this.#library.virConnectDomainEventDeregisterAny(this.#connection, this.#registration);
      this.#library.virConnectClose(this.#connection);
    });
  }
}
