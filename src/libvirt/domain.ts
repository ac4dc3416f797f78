import { setTimeout as sleep } from 'node:timers/promises';
import { LibvirtError, VIR_ERR } from './errors.ts';
import type { Libvirt, Pointer } from './functions.ts';
import { runAsync, takeString } from './library.ts';
import type { ConnectionPool, Failure } from './pool.ts';
import { isWatchedNow } from './watched.ts';

/** virDomainState by its number (libvirt/libvirt-domain.h). */
const STATES = [
  'nostate',
  'running',
  'blocked',
  'paused',
  'shutdown',
  'shutoff',
  'crashed',
  'pmsuspended',
] as const;

/** What a domain is doing. An ephemeral domain that has ended does not exist any more. */
export type DomainState = (typeof STATES)[number];

/** What libvirt accounts for a domain: memory in KiB, time in nanoseconds. */
export interface DomainInfo {
  readonly state: DomainState;
  readonly maxMemory: number;
  readonly memory: number;
  readonly cpus: number;
  readonly cpuTime: bigint;
}

/** One line of a list of domains. `id` is null where the domain is not running. */
export interface DomainSummary {
  readonly name: string;
  readonly uuid: string;
  readonly id: number | null;
  readonly state: DomainState;
}

/** virDomainGetID's (unsigned)-1: not running. */
const NO_ID = 0xffffffff;

/** VIR_UUID_STRING_BUFLEN of libvirt/libvirt-host.h: 36 characters and the terminator. */
const UUID_BUFFER = 37;

function stateName(number: number | undefined): DomainState {
  return STATES[number ?? 0] ?? 'nostate';
}

function uuidText(buffer: Uint8Array): string {
  return Buffer.from(buffer.buffer, buffer.byteOffset, UUID_BUFFER - 1).toString('latin1');
}

/** How long a controller may take to accept the daemon's connection; only then is it seen. */
const WATCH_MS = 250;

/** Name, uuid and id of a native domain; no call to the server. */
export function identify(
  library: Libvirt,
  native: Pointer,
): { name: string; uuid: string; id: number | null } {
  const buffer = new Uint8Array(UUID_BUFFER);
  const name = library.virDomainGetName(native);
  if (name === null || library.virDomainGetUUIDString(native, buffer) < 0) {
    throw new LibvirtError('E_LIBVIRT', 'libvirt gave a domain without a name or uuid');
  }
  const id = library.virDomainGetID(native);
  return { name, uuid: uuidText(buffer), id: id === NO_ID ? null : id };
}

/** The state of a native domain. */
export async function readState(
  library: Libvirt,
  native: Pointer,
  failure: Failure,
): Promise<DomainState> {
  const state = new Int32Array(1);
  const result = await runAsync(library.virDomainGetState, native, state, new Int32Array(1), 0);
  if (result < 0) throw failure('read the state of a domain');
  return stateName(state[0]);
}

/**
 * A daemon killed while it started a domain lists that domain as shut off for the rest of its days,
 * although it was never defined, and undefines nothing that was not: so it is defined first.
 * Whether that works is not checked; another caller may be at it too.
 */
async function forgetRemnant(library: Libvirt, native: Pointer): Promise<void> {
  if ((await runAsync(library.virDomainIsPersistent, native)) !== 0) return;
  const text = await runAsync(library.virDomainGetXMLDesc, native, 0);
  if (text === null) return;
  const connection = library.virDomainGetConnect(native);
  const defined = await runAsync(library.virDomainDefineXML, connection, takeString(text));
  if (defined === null) return;
  await runAsync(library.virDomainUndefine, defined);
  library.virDomainFree(defined);
}

/**
 * A domain, known by its uuid. It holds no native handle: each call looks the domain up (one
 * round trip, about 0.1 ms), so there is nothing to free and nothing to use after it was freed.
 * Every method throws LibvirtError, E_LIBVIRT_NO_DOMAIN where the domain is gone.
 */
export class Domain {
  readonly name: string;
  readonly uuid: string;
  readonly #pool: ConnectionPool;

  constructor(pool: ConnectionPool, name: string, uuid: string) {
    this.#pool = pool;
    this.name = name;
    this.uuid = uuid;
  }

  /** The id: for lxc the host pid of the domain's controller (`libvirt_lxc`), whose child is the init. */
  id(): Promise<number | null> {
    return this.#use('read the id of', async (library, native) => identify(library, native).id);
  }

  /** What it is doing. */
  state(): Promise<DomainState> {
    return this.#use('read the state of', (library, native, failure) =>
      readState(library, native, failure),
    );
  }

  /** State, memory, cpus, cpu time. */
  info(): Promise<DomainInfo> {
    return this.#use('read the info of', async (library, native, failure) => {
      // struct _virDomainInfo: unsigned char state; unsigned long maxMem, memory;
      // unsigned short nrVirtCpu; unsigned long long cpuTime. 40 bytes on 64 bits.
      const raw = Buffer.alloc(40);
      if ((await runAsync(library.virDomainGetInfo, native, raw)) < 0) {
        throw failure(`read the info of domain ${this.name}`);
      }
      return {
        state: stateName(raw.readUInt8(0)),
        maxMemory: Number(raw.readBigUInt64LE(8)),
        memory: Number(raw.readBigUInt64LE(16)),
        cpus: raw.readUInt16LE(24),
        cpuTime: raw.readBigUInt64LE(32),
      };
    });
  }

  /** The domain's XML as it is in force. */
  xml(): Promise<string> {
    return this.#use('read the XML of', async (library, native, failure) => {
      const text = await runAsync(library.virDomainGetXMLDesc, native, 0);
      if (text === null) throw failure(`read the XML of domain ${this.name}`);
      return takeString(text);
    });
  }

  /**
   * lxc only: whether the daemon holds a connection to the domain's controller, and so will notice
   * when the domain ends. On a busy machine up to one new domain in twenty has lost it at birth:
   * libvirtd (11.3) registers a controller's socket with its event loop before it knows what the
   * messages on it mean, and hangs up on one that is early. Such a domain works, but no event tells
   * of its end, and it is listed as running, and keeps the daemon up, until {@link destroy} is
   * called. True comes at once and may be too early: ask {@link isWatchedNow} at the end again. False
   * comes after a quarter of a second. The name must be unique on the host.
   */
  async isWatched(): Promise<boolean> {
    const until = performance.now() + WATCH_MS;
    while (!isWatchedNow(this.name)) {
      if (performance.now() > until) return false;
      await sleep(WATCH_MS / 10);
    }
    return true;
  }

  /** Starts a domain that was only defined. */
  start(): Promise<void> {
    return this.#use(
      'start',
      async (library, native, failure) => {
        if ((await runAsync(library.virDomainCreateWithFlags, native, 0)) < 0) {
          throw failure(`start domain ${this.name}`);
        }
      },
      false,
    );
  }

  /** Forgets a defined domain; a running one becomes ephemeral. */
  undefine(): Promise<void> {
    return this.#use(
      'undefine',
      async (library, native, failure) => {
        if ((await runAsync(library.virDomainUndefine, native)) < 0) {
          throw failure(`undefine domain ${this.name}`);
        }
      },
      false,
    );
  }

  /**
   * Ends it: SIGTERM, after 1.6 s SIGKILL (libvirt's own times), then teardown.
   * @returns false where it had ended before
   */
  async destroy(): Promise<boolean> {
    try {
      return await this.#use('destroy', async (library, native, failure) => {
        if ((await runAsync(library.virDomainDestroy, native)) === 0) return true;
        const error = failure(`destroy domain ${this.name}`);
        if (error.libvirt?.code !== VIR_ERR.OPERATION_INVALID) throw error;
        await forgetRemnant(library, native);
        return false;
      });
    } catch (error) {
      if (error instanceof LibvirtError && error.code === 'E_LIBVIRT_NO_DOMAIN') return false;
      throw error;
    }
  }

  #use<Result>(
    what: string,
    work: (library: Libvirt, native: Pointer, failure: Failure) => Promise<Result>,
    repeatable = true,
  ): Promise<Result> {
    return this.#pool.run(async (library, connection, failure) => {
      const native = await runAsync(library.virDomainLookupByUUIDString, connection, this.uuid);
      if (native === null) throw failure(`${what} domain ${this.name}`);
      try {
        return await work(library, native, failure);
      } finally {
        library.virDomainFree(native);
      }
    }, repeatable);
  }
}
