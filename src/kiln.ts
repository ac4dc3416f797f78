import { KilnError } from './errors.ts';
import { type ListedImage, leaseImage, listImages } from './image/store/images.ts';
import { waitFor, withWaits } from './kernel/wait-for.ts';
import type { Connection } from './libvirt/connection.ts';
import { pickEngine } from './libvirt/pick-engine.ts';
import { awaitedLater } from './promise.ts';
import { callerIds, type RunRequest } from './run/request.ts';
import { type FinishedRun, type RunHooks, run } from './run/run.ts';
import type { Capability } from './sandbox/capabilities.ts';
import { type PlannedVolume, planCommand } from './sandbox/door/plan.ts';
import { PlannedSandbox } from './sandbox/door/planned-sandbox.ts';
import { allowedMissing } from './sandbox/layers.ts';
import type { Engine } from './sandbox/open.ts';
import type { SandboxProcess } from './sandbox/process.ts';
import type { SandboxSpecification } from './sandbox/specification.ts';
import { requireState, type StatePaths, statePaths } from './state/paths.ts';

/** Which state directory and which libvirt; the environment says so (`KILN_STATE`, `KILN_URI`). */
export interface KilnOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** Gives a parked sandbox, where somebody keeps some. */
  readonly takeParked?: Engine['takeParked'];
  /** Whose sandboxes are, where they are not root's. */
  readonly owner?: Engine['owner'];
}

/** A sandbox to open: only `image` (an id from {@link Kiln.images}) is needed. */
export interface OpenOptions
  extends Partial<Omit<SandboxSpecification, 'root' | 'image' | 'volumes'>> {
  readonly image: string;
  readonly volumes?: readonly PlannedVolume[];
  /** NAME|UID[:GID]; the image's user when missing. */
  readonly user?: string;
  readonly capAdd?: readonly Capability[];
  /** A shipped profile or the path of one; `default` when missing. */
  readonly seccomp?: string;
}

/** What a command is started with, beyond its arguments. */
interface CommandOptions {
  /** On top of the image's environment. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly terminal?: { readonly rows: number; readonly columns: number };
}

/** An open sandbox. `await using` it, or call `close()`: nothing of it is left then. */
export interface OpenSandbox extends AsyncDisposable {
  readonly id: string;
  /** What the init measured in the box before anything ran. */
  readonly facts: PlannedSandbox['facts'];
  /** Starts a command: like child_process.spawn(), but resolves when it has been exec'd. */
  spawn(
    command: string,
    args?: readonly string[],
    options?: CommandOptions,
  ): Promise<SandboxProcess>;
  /** Ends all commands; the sandbox stays. */
  killAll(): Promise<void>;
  close(): Promise<void>;
}

/** The engine of one process: its state, and its one connection to libvirt. The library for programs is src/api. */
export class Kiln implements AsyncDisposable {
  readonly paths: StatePaths;
  readonly #engine: Engine;
  readonly #env: NodeJS.ProcessEnv;
  #connection: Promise<Connection> | undefined;
  /** Aborted when nobody needs a connection any more that is still being made. */
  readonly #unneeded = new AbortController();
  /** Boxes of runs that are over, being removed, and those that could not be. */
  readonly #removals = new Set<Promise<void>>();

  constructor({ env = process.env, takeParked, owner }: KilnOptions) {
    this.paths = statePaths(env);
    const paths = this.paths;
    requireState(paths.root);
    // A run in a parked box connects to nothing, and is refused all the same.
    pickEngine(paths, env);
    this.#env = env;
    this.#engine = {
      paths,
      owner,
      cwd: () => process.cwd(),
      allowMissing: () => allowedMissing(env),
      // Unlike arguments, the environment is the user's own.
      signingPassphrase: () => env.KILN_SIGN_PASSPHRASE,
      takeParked,
      connect: () => {
        // A run in a parked box needs no libvirt.
        this.#connection ??= awaitedLater(
          import('./libvirt/connect.ts').then(async ({ connect }) => {
            try {
              const { signal } = this.#unneeded;
              return await withWaits({ signal }, () => connect({ paths, env }));
            } catch (error) {
              // What is wrong may be mended: whoever comes next tries anew.
              this.#connection = undefined;
              throw error;
            }
          }),
        );
        // Whoever waits has limits of its own; the connection is made for all.
        return waitFor(this.#connection, {
          code: 'E_LIBVIRT_SILENT',
          hint: '`kiln doctor` tells whether it answers',
          endAfter: Number.POSITIVE_INFINITY,
        });
      },
    };
  }

  /** Paths and the connection to libvirt, which is made when first needed. */
  get engine(): Engine {
    return this.#engine;
  }

  /** The images of the store, the one used last first. */
  images(): Promise<ListedImage[]> {
    return listImages(this.paths);
  }

  /** Runs one command in a sandbox of its own; see {@link run}. */
  async run(request: RunRequest, hooks: RunHooks): Promise<FinishedRun> {
    const report = await run(this.#engine, request, hooks);
    const { removed } = report;
    this.#removals.add(removed);
    removed.then(
      () => this.#removals.delete(removed),
      () => undefined,
    );
    return report;
  }

  /**
   * Opens a sandbox for any number of commands.
   * Throws E_IMAGE_MISSING, E_NO_USER and what opening a sandbox throws.
   */
  async open(options: OpenOptions): Promise<OpenSandbox> {
    const { image: id, user, capAdd = [], seccomp = 'default', secrets = [], ...rest } = options;
    const image = await leaseImage(this.paths, id);
    if (image === undefined) {
      throw new KilnError('E_IMAGE_MISSING', `there is no image ${id}`, {
        hint: '`kiln image ls` lists them',
      });
    }
    try {
      const plan = planCommand(
        {
          ...{ network: 'private', binds: [], volumes: [], allowHostWrite: false, boot: false },
          ...{ privateTmp: true, namespaces: 0, nested: false, label: { kind: 'auto' } },
          ...{ allowMissing: this.#engine.allowMissing(), egress: undefined, outlives: false },
          ...{ argv: [], env: {}, workdir: undefined, time: {}, caller: callerIds(this.#env) },
          ...{ user, capAdd, seccomp },
          ...rest,
        },
        image,
      );
      const sandbox = await PlannedSandbox.open(this.#engine, plan, { secrets });
      const close = () => sandbox.close();
      return {
        id: sandbox.id,
        facts: sandbox.facts,
        spawn: async (command, args = [], { env = {}, cwd, terminal } = {}) => {
          const argv = [command, ...args];
          const workdir = cwd ?? plan.command.workdir;
          const started = { ...plan.command, argv, env, workdir, leftovers: 'left' } as const;
          return (await sandbox.start(started, { terminal })).process;
        },
        killAll: () => sandbox.killAll(),
        close,
        [Symbol.asyncDispose]: close,
      };
    } finally {
      // The box itself holds the image from here on.
      await image[Symbol.asyncDispose]();
    }
  }

  /**
   * Waits until what {@link run} used is removed, and ends the connection to libvirt. Sandboxes that
   * are open are no longer yours to rely on. Throws E_DESTROY if a box could not be removed.
   */
  async close(): Promise<void> {
    await this.#end((connection) => connection.close());
  }

  /** Like {@link close}, for a process that ends now: it does not wait for libvirt's goodbye. */
  async leave(): Promise<void> {
    await this.#end((connection) => connection.leave());
  }

  async #end(close: (connection: Connection) => Promise<void>): Promise<void> {
    const removals = await Promise.allSettled(this.#removals);
    this.#unneeded.abort(new KilnError('E_INTERRUPTED', 'nobody needs libvirt any more'));
    const connection = await this.#connection?.catch(() => undefined);
    if (connection !== undefined) await close(connection);
    const failed = removals.find((one) => one.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Opens kiln: nothing is started yet. */
export function openKiln(options: KilnOptions = {}): Kiln {
  return new Kiln(options);
}
