import { existsSync, readFileSync } from 'node:fs';
import type { Pointer } from '../calls/c-library.ts';
import { isDead, until } from '../process/process.ts';
import type { Awaited } from '../process/wait-for.ts';
import type { StatePaths } from '../state/paths.ts';
import { isWatchedNow } from './controllers.ts';
import { endDaemonOfDeletedState, ensureEmbeddedDaemon } from './embedded/daemon.ts';
import { daemonPid, embeddedFiles } from './embedded/files.ts';
import { LibvirtError, VIR_ERR } from './errors.ts';
import { type Libvirt, runAsync, takeArray, takeString } from './library.ts';
import { type Driver, type Engine, pickEngine } from './pick-engine.ts';
import { ConnectionPool, type PoolOptions } from './pool.ts';

/** VIR_UUID_STRING_BUFLEN of libvirt/libvirt-host.h: 36 characters and the terminator. */
const UUID_BUFFER = 37;

/** VIR_DOMAIN_SAVE_RUNNING of libvirt/libvirt-domain.h. */
const SAVE_RUNNING = 2;

/** How long a controller may take to accept the daemon's connection, which then shows in /proc/net/unix. */
const WATCH_MS = 250;

/** The calls that kiln makes; the pool knows how. */
export class Connection extends ConnectionPool {
  createDomain(xml: string): Promise<Domain> {
    return this.#domain(
      'create a domain',
      (library, connection) => runAsync(library.virDomainCreateXML, connection, xml, 0),
      false,
      (domain) => domain.destroy(),
    );
  }

  /** @param path of what {@link Domain.suspendTo} has written of a domain of this name */
  restoreDomain(path: string, name: string): Promise<Domain> {
    return this.#domain(
      'restore a domain',
      async (library, connection) => {
        const { virDomainRestoreFlags, virDomainLookupByName } = library;
        const restored = await runAsync(
          virDomainRestoreFlags,
          connection,
          path,
          null,
          SAVE_RUNNING,
        );
        return restored < 0 ? null : await runAsync(virDomainLookupByName, connection, name);
      },
      false,
      (domain) => domain.destroy(),
    );
  }

  lookupByName(name: string): Promise<Domain> {
    return this.#domain(`find domain ${name}`, (library, connection) =>
      runAsync(library.virDomainLookupByName, connection, name),
    );
  }

  domainNames(): Promise<string[]> {
    return this.run(async (library, connection, failure) => {
      const list = new BigUint64Array(1);
      const count = await runAsync(library.virConnectListAllDomains, connection, list, 0);
      if (count < 0) throw failure('list the domains');
      return takeArray(list[0] ?? 0n, count).map((native) => {
        const { name } = identify(library, native);
        library.virDomainFree(native);
        return name;
      });
    });
  }

  version(): Promise<string> {
    return this.run(async (library, connection, failure) => {
      const version = new BigUint64Array(1);
      if ((await runAsync(library.virConnectGetLibVersion, connection, version)) < 0) {
        throw failure('read the version');
      }
      const number = Number(version[0]);
      return [number / 1e6, (number / 1e3) % 1e3, number % 1e3].map(Math.floor).join('.');
    });
  }

  capabilities(): Promise<string> {
    return this.run(async (library, connection, failure) => {
      const text = await runAsync(library.virConnectGetCapabilities, connection);
      if (text === null) throw failure('read the capabilities');
      return takeString(text);
    });
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
    return this.run(
      async (library, connection, failure) => {
        const native = await call(library, connection);
        if (native === null) throw failure(what);
        try {
          const { name, uuid } = identify(library, native);
          return new Domain(this, name, uuid);
        } finally {
          library.virDomainFree(native);
        }
      },
      repeatable,
      late,
    );
  }
}

export async function openConnection(uri: string, options: PoolOptions = {}): Promise<Connection> {
  const connection = new Connection(uri, options);
  await connection.run(async () => {});
  return connection;
}

/** Holds no native handle: each call looks the domain up by its uuid, which takes 0.1 ms. */
export class Domain {
  readonly name: string;
  readonly uuid: string;
  readonly #pool: ConnectionPool;

  constructor(pool: ConnectionPool, name: string, uuid: string) {
    this.#pool = pool;
    this.name = name;
    this.uuid = uuid;
  }

  /**
   * lxc only: whether the daemon holds a connection to the domain's controller, and so will notice its end. On
   * a busy machine up to one new domain in twenty has lost it: libvirtd (11.3) registers a controller's socket
   * with its event loop before it can understand messages, and hangs up if one comes early. Such a domain
   * works, but stays listed, and keeps the daemon up, until {@link destroy}.
   * True may be too early: ask {@link isWatchedNow} again at the end. The name must be unique on the host.
   */
  isWatched(): Promise<boolean> {
    return until(() => isWatchedNow(this.name), WATCH_MS, WATCH_MS / 10);
  }

  /** Writes its memory and devices to a file, and ends it. */
  async suspendTo(path: string): Promise<void> {
    const what = `suspend domain ${this.name}`;
    await this.#pool.run(async (library, connection, failure) => {
      const native = await runAsync(library.virDomainLookupByUUIDString, connection, this.uuid);
      if (native === null) throw failure(what);
      try {
        const saved = await runAsync(library.virDomainSaveFlags, native, path, null, SAVE_RUNNING);
        if (saved < 0) throw failure(what);
      } finally {
        library.virDomainFree(native);
      }
    }, false);
  }

  /** SIGTERM, SIGKILL after 1.6 s (libvirt's own times), then teardown. @returns false where it had ended before */
  async destroy(): Promise<boolean> {
    const what = `destroy domain ${this.name}`;
    try {
      return await this.#pool.run(async (library, connection, failure) => {
        const native = await runAsync(library.virDomainLookupByUUIDString, connection, this.uuid);
        if (native === null) throw failure(what);
        try {
          if ((await runAsync(library.virDomainDestroy, native)) === 0) return true;
          const error = failure(what);
          if (error.libvirt?.code !== VIR_ERR.OPERATION_INVALID) throw error;
          await forgetRemnant(library, native);
          return false;
        } finally {
          library.virDomainFree(native);
        }
      });
    } catch (error) {
      if (error instanceof LibvirtError && error.code === 'E_LIBVIRT_NO_DOMAIN') return false;
      throw error;
    }
  }
}

/**
 * Removes a domain that a killed daemon left listed as shut off. libvirt undefines only domains that were
 * defined. The result is not checked: another caller may be doing the same.
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

function identify(library: Libvirt, native: Pointer): { name: string; uuid: string } {
  const uuid = Buffer.alloc(UUID_BUFFER);
  const name = library.virDomainGetName(native);
  if (name === null || library.virDomainGetUUIDString(native, uuid) < 0) {
    throw new LibvirtError('E_LIBVIRT', 'libvirt gave a domain without a name or uuid');
  }
  return { name, uuid: uuid.toString('latin1', 0, UUID_BUFFER - 1) };
}

export interface ConnectOptions {
  readonly paths: StatePaths;
  readonly env: NodeJS.ProcessEnv;
  /** That of containers by default. */
  readonly driver?: Driver | undefined;
  /** How long libvirtd may be silent, ms; {@link patience} by default. */
  readonly endAfter?: number;
}

const SYSTEM_PID_FILES = [
  '/run/virtlxcd.pid',
  '/run/libvirt/virtlxcd.pid',
  '/run/libvirtd.pid',
  '/run/libvirt/libvirtd.pid',
];

function daemonOf(engine: Engine, paths: StatePaths): Awaited {
  const embedded = engine.kind === 'embedded';
  const pid = embedded ? daemonPid(embeddedFiles(paths)) : systemPid();
  const facts = [...(pid === undefined ? [] : [`pid ${pid}`]), embedded ? 'embedded' : engine.uri];
  return { name: `libvirtd (${facts.join(', ')})`, pid };
}

function systemPid(): number | undefined {
  for (const path of SYSTEM_PID_FILES) {
    const pid = existsSync(path) ? Number(readFileSync(path, 'latin1')) : 0;
    if (pid > 0 && !isDead(pid)) return pid;
  }
  return undefined;
}

/**
 * The embedded daemon is started where it does not run, also at a later call after it died or ended idle.
 * @throws LibvirtError E_LIBVIRT_MISSING, E_LIBVIRT_CONNECT, E_LIBVIRT_START, and those of {@link pickEngine};
 * KilnError E_LIBVIRT_SILENT
 */
export async function connect(options: ConnectOptions): Promise<Connection> {
  const { paths, env, driver, endAfter } = options;
  const engine = pickEngine(paths, env, driver);
  if (engine.kind === 'embedded') await endDaemonOfDeletedState(paths);
  const revive = async () => void (await ensureEmbeddedDaemon(paths));
  return openConnection(engine.uri, {
    whom: () => daemonOf(engine, paths),
    log:
      engine.kind === 'system'
        ? '`journalctl -u libvirtd -u virtlxcd -u virtqemud`'
        : embeddedFiles(paths).log,
    endAfter,
    ...(engine.kind === 'system' ? {} : { revive }),
  });
}
