import { closeSync } from 'node:fs';
import { chmod, chown, mkdir } from 'node:fs/promises';
import { copyIn } from '../artifacts/copy-in.ts';
import type { ArtifactWarning } from '../artifacts/warning.ts';
import type { EgressLog } from '../egress/log.ts';
import { type Egress, openEgress } from '../egress/open.ts';
import type { LeasedImage } from '../image/store/images.ts';
import type { ProcessCgroups } from '../kernel/cgroup-files.ts';
import type { CgroupUsage } from '../kernel/cgroup-usage.ts';
import { removeTree } from '../kernel/remove-tree.ts';
import { awaitedLater } from '../promise.ts';
import { TRANSACTION_CAPABILITIES } from '../sandbox/capabilities.ts';
import type { CommandFacts } from '../sandbox/command-facts.ts';
import { listenToOutput } from '../sandbox/door/output.ts';
import { type CommandEnd, supervise } from '../sandbox/door/supervise.ts';
import { type CommandUser, commandUser } from '../sandbox/door/user.ts';
import type { BoxFacts } from '../sandbox/facts.ts';
import { type Engine, openSandbox, reopenSandbox } from '../sandbox/open.ts';
import { commandPolicy } from '../sandbox/policy.ts';
import type { Sandbox } from '../sandbox/sandbox.ts';
import {
  type Bind,
  type CommandPolicy,
  type SandboxSpecification,
  sandboxSpecification,
} from '../sandbox/specification.ts';
import { surroundingsOf } from '../sandbox/surroundings.ts';
import type { BuildRequest } from './request.ts';
import { BUILD_HOME, rpmMacros, TOP_DIRECTORY } from './rpmbuild.ts';
import { Tail } from './tail.ts';

/** Who builds where the image has nobody but root: mock's user. */
const BUILDER = '1000:1000';

/** Bytes a build may write when nobody says otherwise. */
const DEFAULT_DISK = 8 * 2 ** 30;

/** Name of the seccomp profile of every phase that runs a package's code. */
const SECCOMP = 'default';

/** Its name where the build writes to the host's disk. */
const ON_DISK = 'default-on-disk';

/** How a box for a build is set up. */
export interface BuildBoxOptions {
  readonly engine: Engine;
  readonly request: BuildRequest;
  readonly image: LeasedImage;
  readonly network: SandboxSpecification['network'];
  /** Hosts that its commands reach by a proxy, and where is noted what they asked for. */
  readonly egress?: BuildEgress | undefined;
  readonly binds: readonly Bind[];
  /** On top of the image's environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Packages are installed in it: by its root, with the rights that scriptlets have. */
  readonly installer?: boolean;
  /** Aborts the wait for an address of the network. */
  readonly signal?: AbortSignal | undefined;
  /** Where rpm's folders are; {@link TOP_DIRECTORY} when missing. */
  readonly topDirectory?: string | undefined;
}

/** See {@link BuildBoxOptions}. */
export interface BuildEgress {
  readonly hosts: readonly string[];
  readonly log: EgressLog;
}

/** How one command in the box is run. */
export interface BuildCommand {
  /** What it writes, as it comes. */
  readonly onOutput: (chunk: Buffer) => void;
  /** Milliseconds. */
  readonly timeout?: number | undefined;
  readonly stallTimeout?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** How a command ended, and the end of what it wrote. */
export interface BuildCommandEnd extends CommandEnd {
  readonly lines: readonly string[];
}

/**
 * A box in which packages are built: an unprivileged user, a private home with rpm's folders, no
 * capability, no network unless asked for. Every command ends with all processes that it left.
 */
export class BuildBox {
  readonly #sandbox: Sandbox;
  readonly #user: CommandUser;
  readonly #policy: CommandPolicy;
  readonly #cgroups: ProcessCgroups;
  readonly env: Readonly<Record<string, string>>;
  readonly topDirectory: string;
  readonly #egress: WayOut | undefined;
  /** Measured when the last command was started. */
  measured: (BoxFacts & CommandFacts) | undefined;

  private constructor(
    sandbox: Sandbox,
    user: CommandUser,
    policy: CommandPolicy,
    cgroups: ProcessCgroups,
    env: Readonly<Record<string, string>>,
    topDirectory: string,
    egress?: WayOut,
  ) {
    this.#sandbox = sandbox;
    this.#user = user;
    this.#policy = policy;
    this.#cgroups = cgroups;
    this.env = env;
    this.topDirectory = topDirectory;
    this.#egress = egress;
  }

  /** Throws what opening a sandbox throws; nothing is left then. */
  static async open(options: BuildBoxOptions): Promise<BuildBox> {
    const { engine, request, image, topDirectory = TOP_DIRECTORY } = options;
    const { manifest } = image;
    const builder = manifest.user.uid === 0 ? BUILDER : undefined;
    const user = commandUser(manifest, options.installer === true ? '0:0' : builder);
    const capabilities = options.installer === true ? TRANSACTION_CAPABILITIES : [];
    const disk = request.disk ?? DEFAULT_DISK;
    const hostname = request.hostname ?? 'kiln';
    const home = request.surroundings?.home;
    if (home !== undefined) await makeHome(home, user);
    const inMemory = request.scratch === undefined && home === undefined;
    const specification = sandboxSpecification({
      root: image.tree,
      image: manifest.id,
      hostname,
      network: options.network,
      binds: options.binds,
      ...(request.scratch === undefined ? {} : { scratch: request.scratch.path }),
      volumes: home === undefined ? [] : [{ source: home, target: BUILD_HOME }],
      tmpfs: [
        ...(inMemory ? [{ target: BUILD_HOME, bytes: disk }] : []),
        // Folders on the way to a bind are root's: what lies beside a cache is to be the build's.
        ...(options.binds.length > 0 ? [{ target: `${BUILD_HOME}/.cache`, bytes: disk }] : []),
      ],
      files: [
        {
          path: `${BUILD_HOME}/.rpmmacros`,
          mode: 0o644,
          content: rpmMacros(topDirectory, hostname),
        },
      ],
      disk,
      limits: request.limits ?? {},
    });
    const onDisk = !inMemory || options.binds.some(({ readonly }) => !readonly);
    const policy = await commandPolicy(engine.paths, surroundingsOf(specification), {
      user: user.spec,
      capabilities,
      seccomp: onDisk ? ON_DISK : SECCOMP,
    });
    const sandbox = await openSandbox(engine, specification, {
      user,
      caller: request.caller,
      command: ['kiln build', request.source.path],
      signal: options.signal,
      outlives: request.keepSeconds !== undefined && options.installer !== true,
    });
    try {
      const cgroups = sandbox.cgroups;
      const env = { ...manifest.environment, ...options.env, HOME: BUILD_HOME };
      const egress = await wayOut(sandbox, options.egress);
      return new BuildBox(sandbox, user, policy, cgroups, env, topDirectory, egress);
    } catch (error) {
      await sandbox.close();
      throw error;
    }
  }

  /**
   * Comes back to a box that a build was kept in.
   * Throws E_NO_BOX, E_BOX_BUSY, E_INIT_SILENT.
   */
  static async reopen(engine: Engine, id: string, topDirectory: string): Promise<BuildBox> {
    const { sandbox, session } = await reopenSandbox(engine, id);
    const cgroups = sandbox.cgroups;
    const { user, env } = session;
    const [uid = 0, gid = 0] = user.split(':').map(Number);
    const policy = await commandPolicy(engine.paths, session.surroundings, session);
    return new BuildBox(sandbox, { spec: user, uid, gid }, policy, cgroups, env, topDirectory);
  }

  get id(): string {
    return this.#sandbox.id;
  }

  /** Puts files of the host into the box; they are the build user's. */
  async fill(
    items: readonly { readonly source: string; readonly target: string }[],
    warn: (warning: ArtifactWarning) => void,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const [, base] = this.#sandbox.facts.uidMap;
    const rootFd = this.#sandbox.openRoot();
    try {
      await copyIn({
        rootFd,
        items,
        owner: { uid: base + this.#user.uid, gid: base + this.#user.gid },
        onWarning: warn,
        ...(signal === undefined ? {} : { signal }),
      });
    } finally {
      closeSync(rootFd);
    }
  }

  /** Runs a command to its end, whatever that is. Throws what starting throws; the signal's reason. */
  async run(argv: readonly string[], command: BuildCommand): Promise<BuildCommandEnd> {
    const { signal, onOutput } = command;
    signal?.throwIfAborted();
    const process = await this.#sandbox.spawn(argv, {
      policy: this.#policy,
      env: { ...this.#egress?.environment, ...this.env },
      workdir: BUILD_HOME,
    });
    this.measured = { ...this.#sandbox.facts, ...process.facts };
    const kill = () => this.#sandbox.killAll();
    const abort = () => void kill().catch(() => undefined);
    signal?.addEventListener('abort', abort, { once: true });
    const tail = new Tail();
    const take = (chunk: Buffer) => {
      tail.push(chunk);
      onOutput(chunk);
    };
    const output = listenToOutput(process, take, kill);
    process.stdin.end();
    try {
      const { timeout, stallTimeout } = command;
      const end = await supervise(
        process,
        {
          ...(timeout === undefined ? {} : { timeout }),
          ...(stallTimeout === undefined ? {} : { stallTimeout }),
        },
        'ended',
        kill,
      );
      signal?.throwIfAborted();
      output.rethrow();
      return { ...end, lines: tail.lines() };
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  /** Of all processes the box has had. */
  usage(): CgroupUsage {
    return this.#cgroups.usage(this.#sandbox.id);
  }

  /** Whether the box's private file systems, the build's own among them, have no room left. */
  diskIsFull(): boolean {
    return this.#sandbox.diskIsFull([BUILD_HOME]);
  }

  /** A descriptor of the box's root directory; the caller closes it. The tree is hostile. */
  openRoot(): number {
    return this.#sandbox.openRoot();
  }

  /**
   * Throws E_BOX_GONE unless the box lives: with its init its mounts go, and what is read of its tree
   * then is empty, not an error.
   */
  async confirmAlive(): Promise<void> {
    await this.#sandbox.killAll();
  }

  /** Lets go of the box; `kiln shell` finds it in `workdir` with this box's policy. */
  async keep(seconds: number, workdir: string): Promise<void> {
    await this.#egress?.[Symbol.asyncDispose]();
    await this.#sandbox.keep(seconds, {
      user: this.#policy.user,
      capabilities: this.#policy.capabilities,
      seccomp: this.#policy.seccomp?.name ?? SECCOMP,
      env: this.env,
      workdir,
    });
  }

  async close(): Promise<void> {
    try {
      await this.#egress?.[Symbol.asyncDispose]();
    } finally {
      await this.#sandbox.close();
    }
  }
}

type WayOut = AsyncDisposable & Pick<Egress, 'environment'>;

async function wayOut(
  sandbox: Sandbox,
  wanted: BuildEgress | undefined,
): Promise<WayOut | undefined> {
  if (wanted === undefined) return undefined;
  const { hosts, log } = wanted;
  const { environment, close } = await openEgress(sandbox, hosts);
  let closed: Promise<void> | undefined;
  const note = async () => {
    for (const entry of await close()) log.add(entry);
  };
  return {
    environment,
    [Symbol.asyncDispose]: () => {
      closed ??= awaitedLater(note());
      return closed;
    },
  };
}

/** Owners in a volume are those in the box. Each box starts with an empty home. */
async function makeHome(path: string, { uid, gid }: CommandUser): Promise<void> {
  await removeTree(path);
  await mkdir(path, { mode: 0o700 });
  await chmod(path, 0o755);
  await chown(path, uid, gid);
}
