import { Domain, type DomainSummary, identify, readState } from './domain.ts';
import { LibvirtError } from './errors.ts';
import type { Libvirt, Pointer } from './functions.ts';
import { consumeArray, runAsync, takeString } from './library.ts';
import { LifecycleChannel, type LifecycleListener } from './lifecycle.ts';
import { ConnectionPool, type PoolOptions } from './pool.ts';

/** How a domain is made. */
export interface CreateOptions {
  /** The domain ends when this connection is closed or this process dies. */
  readonly autodestroy?: boolean;
  /** Descriptors for the init: they are its 3, 4, …; the caller keeps its own copies. */
  readonly files?: readonly number[];
}

/** A virtual network that libvirt knows. */
export interface NetworkSummary {
  readonly name: string;
  readonly uuid: string;
  readonly active: boolean;
}

/** VIR_DOMAIN_START_AUTODESTROY (libvirt/libvirt-domain.h). */
const START_AUTODESTROY = 2;

function isNoDomain(error: unknown): boolean {
  return error instanceof LibvirtError && error.code === 'E_LIBVIRT_NO_DOMAIN';
}

/** A connection to one libvirt daemon. Make it with {@link openConnection}. */
export class Connection {
  readonly uri: string;
  readonly #pool: ConnectionPool;
  #channel: LifecycleChannel | undefined;

  constructor(pool: ConnectionPool) {
    this.#pool = pool;
    this.uri = pool.uri;
  }

  /** Starts an ephemeral domain: it has no definition and vanishes when it ends. */
  createDomain(xml: string, options: CreateOptions = {}): Promise<Domain> {
    const files = Int32Array.from(options.files ?? []);
    const flags = options.autodestroy === true ? START_AUTODESTROY : 0;
    return this.#domain(
      'create a domain',
      (library, connection) =>
        files.length === 0
          ? runAsync(library.virDomainCreateXML, connection, xml, flags)
          : runAsync(
              library.virDomainCreateXMLWithFiles,
              connection,
              xml,
              files.length,
              files,
              flags,
            ),
      false,
      // Its maker has given up on it.
      (domain) => domain.destroy(),
    );
  }

  /** Stores a definition; `domain.start()` starts it, `domain.undefine()` forgets it. */
  defineDomain(xml: string): Promise<Domain> {
    return this.#domain('define a domain', (library, connection) =>
      runAsync(library.virDomainDefineXML, connection, xml),
    );
  }

  /** @throws LibvirtError E_LIBVIRT_NO_DOMAIN */
  lookupByName(name: string): Promise<Domain> {
    return this.#domain(`find domain ${name}`, (library, connection) =>
      runAsync(library.virDomainLookupByName, connection, name),
    );
  }

  /** @throws LibvirtError E_LIBVIRT_NO_DOMAIN */
  lookupByUuid(uuid: string): Promise<Domain> {
    return this.#domain(`find domain ${uuid}`, (library, connection) =>
      runAsync(library.virDomainLookupByUUIDString, connection, uuid),
    );
  }

  /** All domains, running or only defined. One that ends while the list is made is left out. */
  listDomains(): Promise<DomainSummary[]> {
    return this.#pool.run(async (library, connection, failure) => {
      const list = new BigUint64Array(1);
      const count = await runAsync(library.virConnectListAllDomains, connection, list, 0);
      if (count < 0) throw failure('list the domains');
      const summaries = await consumeArray<DomainSummary | undefined>(
        list[0] ?? 0n,
        count,
        async (native) => {
          try {
            const state = await readState(library, native, failure);
            return { ...identify(library, native), state };
          } catch (error) {
            if (isNoDomain(error)) return undefined;
            throw error;
          }
        },
        library.virDomainFree,
      );
      return summaries.filter((summary) => summary !== undefined);
    });
  }

  /** The version of the daemon's libvirt, as in `11.3.0`. */
  version(): Promise<string> {
    return this.#pool.run(async (library, connection, failure) => {
      const version = new BigUint64Array(1);
      if ((await runAsync(library.virConnectGetLibVersion, connection, version)) < 0) {
        throw failure('read the version');
      }
      // major * 1,000,000 + minor * 1,000 + release
      const number = Number(version[0]);
      return [number / 1e6, (number / 1e3) % 1e3, number % 1e3].map(Math.floor).join('.');
    });
  }

  /** The XML that tells what the driver and the host can do. */
  capabilities(): Promise<string> {
    return this.#pool.run(async (library, connection, failure) => {
      const text = await runAsync(library.virConnectGetCapabilities, connection);
      if (text === null) throw failure('read the capabilities');
      return takeString(text);
    });
  }

  /** All networks, active or only defined. */
  networks(): Promise<NetworkSummary[]> {
    return this.#pool.run(async (library, connection, failure) => {
      const list = new BigUint64Array(1);
      const count = await runAsync(library.virConnectListAllNetworks, connection, list, 0);
      if (count < 0) throw failure('list the networks');
      return consumeArray(
        list[0] ?? 0n,
        count,
        async (native) => {
          const uuid = Buffer.alloc(37);
          library.virNetworkGetUUIDString(native, uuid);
          return {
            name: library.virNetworkGetName(native) ?? '',
            uuid: uuid.toString('latin1', 0, 36),
            active: (await runAsync(library.virNetworkIsActive, native)) === 1,
          };
        },
        library.virNetworkFree,
      );
    });
  }

  /**
   * Tells `listener` of every domain that starts or ends, from now until the result is disposed of.
   * Listening keeps the process alive. @throws LibvirtError E_LIBVIRT_CONNECT
   */
  async onLifecycle(listener: LifecycleListener): Promise<Disposable> {
    // The pool sees to it that the daemon runs; the channel is then opened on the main thread.
    const channel = await this.#pool.run(async (library) => {
      if (this.#channel?.open !== true) this.#channel = new LifecycleChannel(library, this.uri);
      return this.#channel;
    });
    channel.add(listener);
    return { [Symbol.dispose]: () => channel.remove(listener) };
  }

  /** Waits for calls under way and closes; every later call throws E_LIBVIRT_CLOSED. Idempotent. */
  async close(): Promise<void> {
    await this.#pool.close();
    this.#channel?.close();
  }

  /** Like {@link close}, for a process that ends now: its end closes what is open. */
  async leave(): Promise<void> {
    await this.#pool.leave();
    this.#channel?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #domain(
    what: string,
    call: (library: Libvirt, connection: Pointer) => Promise<Pointer | null>,
    repeatable = true,
    late?: (domain: Domain) => Promise<unknown>,
  ): Promise<Domain> {
    return this.#pool.run(
      async (library, connection, failure) => {
        const native = await call(library, connection);
        if (native === null) throw failure(what);
        try {
          const { name, uuid } = identify(library, native);
          return new Domain(this.#pool, name, uuid);
        } finally {
          library.virDomainFree(native);
        }
      },
      repeatable,
      late,
    );
  }
}

/**
 * Connects to a libvirt URI, as `lxc:///system` or `test:///default`.
 *
 * @throws LibvirtError E_LIBVIRT_MISSING, E_LIBVIRT_CONNECT; KilnError E_LIBVIRT_SILENT
 */
export async function openConnection(uri: string, options: PoolOptions = {}): Promise<Connection> {
  const pool = new ConnectionPool(uri, options);
  await pool.run(async () => {});
  return new Connection(pool);
}
