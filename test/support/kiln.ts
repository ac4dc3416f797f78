import { type EngineOptions, type OwnEngine, openEngine } from '../../src/engine.ts';
import { KilnError } from '../../src/errors.ts';
import type { Capability } from '../../src/host/process/process.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import {
  type LeasedImage,
  type ListedImage,
  leaseImage,
  listImages,
} from '../../src/image/store/images.ts';
import { callerIds, type RunRequest } from '../../src/jobs/run/request.ts';
import { type FinishedRun, type RunHooks, run } from '../../src/jobs/run/run.ts';
import type { SandboxProcess } from '../../src/sandbox/command/process.ts';
import { type PlannedVolume, planCommand } from '../../src/sandbox/door/plan.ts';
import { PlannedSandbox } from '../../src/sandbox/door/planned-sandbox.ts';
import type { SandboxSpecification } from '../../src/sandbox/policy/specification.ts';
import { ISOLATION } from './isolation.ts';

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
  /** What the init measured in the sandbox before anything ran. */
  readonly facts: PlannedSandbox['facts'];
  readonly planned: PlannedSandbox;
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

/** Sandboxes and runs of this process, without a daemon. */
export class Kiln implements AsyncDisposable {
  readonly engine: OwnEngine;
  readonly #env: NodeJS.ProcessEnv;
  /** Sandboxes of runs that are over, being removed, and those that could not be. */
  readonly #removals = new Set<Promise<void>>();

  constructor(env: NodeJS.ProcessEnv, options: EngineOptions) {
    this.engine = openEngine(env, options);
    this.#env = env;
  }

  get paths(): StatePaths {
    return this.engine.paths;
  }

  /** The images of the store, the one used last first. */
  images(): Promise<ListedImage[]> {
    return listImages(this.paths);
  }

  /** Runs one command in a sandbox of its own; see {@link run}. */
  async run(request: RunRequest, hooks: RunHooks): Promise<FinishedRun> {
    await using image = await this.#lease(request.image);
    const report = await run(this.engine, image, request, hooks);
    const removed = report.remove();
    this.#removals.add(removed);
    removed.then(
      () => this.#removals.delete(removed),
      () => undefined,
    );
    return { ...report, remove: () => removed };
  }

  async #lease(id: string): Promise<LeasedImage> {
    const image = await leaseImage(this.paths, id);
    if (image !== undefined) return image;
    throw new KilnError('E_IMAGE_MISSING', `there is no image ${id}`, {
      hint: '`kiln image ls` lists them',
    });
  }

  /**
   * Opens a sandbox for any number of commands.
   * Throws E_IMAGE_MISSING, E_NO_USER and what opening a sandbox throws.
   */
  async open(options: OpenOptions): Promise<OpenSandbox> {
    const { image: id, user, capAdd = [], seccomp = 'default', secrets = [], ...rest } = options;
    const image = await this.#lease(id);
    try {
      const plan = planCommand(
        {
          ...{
            isolation: ISOLATION,
            network: 'private',
            binds: [],
            volumes: [],
            allowHostWrite: false,
            protectedPaths: [],
            boot: false,
          },
          ...{ privateTmp: true, namespaces: 0, nested: false, label: { kind: 'auto' } },
          ...{ allowMissing: this.engine.allowMissing(), egress: undefined },
          ...{ argv: [], env: {}, workdir: undefined, time: {}, caller: callerIds(this.#env) },
          ...{ user, capabilities: capAdd, seccomp },
          ...rest,
        },
        image,
      );
      const sandbox = await PlannedSandbox.open(this.engine, plan, { secrets });
      const close = () => sandbox.close();
      return {
        id: sandbox.id,
        facts: sandbox.facts,
        planned: sandbox,
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
      // The sandbox itself holds the image from here on.
      await image[Symbol.asyncDispose]();
    }
  }

  /**
   * Waits until what {@link run} used is removed, and ends the connection to libvirt.
   * Throws E_DESTROY if a sandbox could not be removed.
   */
  async close(): Promise<void> {
    const removals = await Promise.allSettled(this.#removals);
    await this.engine.close();
    const failed = removals.find((one) => one.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Opens kiln: nothing is started yet. */
export function openKiln({
  env = process.env,
  ...options
}: EngineOptions & { readonly env?: NodeJS.ProcessEnv } = {}): Kiln {
  return new Kiln(env, options);
}
