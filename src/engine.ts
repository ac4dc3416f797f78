import { KilnError } from './errors.ts';
import type { Connection } from './host/libvirt/connection.ts';
import { type Driver, pickEngine } from './host/libvirt/pick-engine.ts';
import type { SandboxHost, SandboxOwner } from './host/libvirt/sandbox-host.ts';
import { waitFor, withWaits } from './host/process/wait-for.ts';
import { requireState, statePaths } from './host/state/paths.ts';
import { awaitedLater } from './promise.ts';
import type { RecipeFiles } from './recipe/folder.ts';
import { allowedMissing, type OptionalLayer } from './sandbox/policy/layers.ts';

/** A {@link SandboxHost}, and what jobs know of their caller. */
export interface Engine extends SandboxHost {
  readonly owner: EngineOwner | undefined;
  cwd(): string;
  /** A value for the caller's eyes: with the caller's names for what kiln holds open. */
  renamed<Value>(value: Value): Value;
  /** As holdName() of the caller's paths. Where no caller is, a name is looked up by whoever needs it. */
  holdName(path: string): Promise<void>;
  /** Layers that may be missing on this host, unless a job says otherwise. Throws E_ARGUMENT. */
  allowMissing(): readonly OptionalLayer[];
  /** Whether recipes and locks may name files of the host that lie elsewhere: `--allow-host`. */
  allowHost(): boolean;
  signingPassphrase(): string | undefined;
}

export interface EngineOwner extends SandboxOwner, ImageViewer {
  readonly files: RecipeFiles | undefined;
}

/** Who looks at images, and which of root's that user may see. */
export interface ImageViewer {
  readonly uid: number;
  seesOfRoot(image: { readonly name: string; readonly private: boolean }): boolean;
}

export interface EngineOptions
  extends Pick<Partial<Engine>, 'takeTurn' | 'owner' | 'renamed' | 'holdName'> {
  readonly allowHost?: boolean | undefined;
}

/** Its disposal leaves the connection to the end of this process: libvirtd may take 0.2 s to answer a close. */
export interface OwnEngine extends Engine, AsyncDisposable {
  close(): Promise<void>;
}

/**
 * The engine of one process: the state and the libvirt that `env` names (`KILN_STATE`, `KILN_URI`). Its
 * connections, one for each driver, are made when first needed. Throws E_STATE, and what {@link pickEngine} throws.
 */
export function openEngine(env: NodeJS.ProcessEnv, options: EngineOptions = {}): OwnEngine {
  const { takeTurn, owner, allowHost = false } = options;
  const { renamed = (value) => value, holdName = async () => undefined } = options;
  const paths = statePaths(env);
  requireState(paths.root);
  // A run in a parked sandbox connects to nothing, and is refused all the same.
  pickEngine(paths, env);
  const unneeded = new AbortController();
  const connections = new Map<Driver, Promise<Connection>>();

  const connect = async (driver: Driver) => {
    const { connect } = await import('./host/libvirt/connection.ts');
    try {
      return await withWaits({ signal: unneeded.signal }, () => connect({ paths, env, driver }));
    } catch (error) {
      connections.delete(driver);
      throw error;
    }
  };

  const ended = async (end: (connection: Connection) => Promise<void>) => {
    unneeded.abort(new KilnError('E_INTERRUPTED', 'the call that waited for libvirt has ended'));
    for (const connection of connections.values()) {
      const made = await connection.catch(() => undefined);
      if (made !== undefined) await end(made);
    }
  };

  return {
    paths,
    owner,
    cwd: () => process.cwd(),
    renamed,
    holdName,
    allowMissing: () => allowedMissing(env),
    allowHost: () => allowHost,
    // Unlike arguments, the environment is the user's own.
    signingPassphrase: () => env.KILN_SIGN_PASSPHRASE,
    takeTurn,
    connect: (driver = 'lxc') => {
      const connection = connections.get(driver) ?? awaitedLater(connect(driver));
      connections.set(driver, connection);
      // Whoever waits has limits of its own; the connection is made for all.
      return waitFor(connection, {
        code: 'E_LIBVIRT_SILENT',
        hint: '`kiln doctor` checks whether it answers',
        endAfter: Number.POSITIVE_INFINITY,
      });
    },
    close: () => ended((connection) => connection.close()),
    [Symbol.asyncDispose]: () => ended((connection) => connection.leave()),
  };
}
