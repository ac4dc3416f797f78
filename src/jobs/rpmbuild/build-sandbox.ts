import { chmod, chown, mkdir } from 'node:fs/promises';
import type { EgressLog } from '../../egress/rule.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import type { CommandIo, Executed, UsageWatcher } from '../../sandbox/door/io.ts';
import { planSandbox } from '../../sandbox/door/plan.ts';
import { type KeptCommand, PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { TimeLimits } from '../../sandbox/door/supervise.ts';
import { type CommandUser, commandUser } from '../../sandbox/door/user.ts';
import type { Engine } from '../../sandbox/open.ts';
import { TRANSACTION_CAPABILITIES } from '../../sandbox/policy/capabilities.ts';
import type { Bind, SandboxSpecification } from '../../sandbox/policy/specification.ts';
import type { BuildRequest } from './request.ts';
import { BUILD_HOME, rpmMacros, TOP_DIRECTORY } from './rpmbuild.ts';

/** Who builds where the image has nobody but root: mock's user. */
const BUILDER = '1000:1000';

/** Bytes a build may write when nobody says otherwise. */
const DEFAULT_DISK = 8 * 2 ** 30;

/** Name of the seccomp profile of every phase that runs a package's code. */
const SECCOMP = 'default';

/** Its name where the build writes to the host's disk. */
const ON_DISK = 'default-on-disk';

/** How a sandbox for a build is set up. */
export interface BuildSandboxOptions {
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
  readonly samples?: UsageWatcher | undefined;
  /** Where rpm's folders are; {@link TOP_DIRECTORY} when missing. */
  readonly topDirectory?: string | undefined;
}

/** See {@link BuildSandboxOptions}. */
export interface BuildEgress {
  readonly hosts: readonly string[];
  readonly log: EgressLog;
}

/** How one command in the sandbox is run. */
export interface BuildCommand extends Pick<CommandIo, 'capture' | 'signal'>, TimeLimits {
  /** What it writes, as it comes. */
  readonly onOutput?: (chunk: Buffer) => void;
}

/**
 * A sandbox in which packages are built: an unprivileged user, a private home with rpm's folders, no
 * capability, no network unless asked for. Every command ends with all processes that it left.
 */
export class BuildSandbox {
  readonly sandbox: PlannedSandbox;
  readonly #command: KeptCommand;
  readonly topDirectory: string;
  #egressLog: EgressLog | undefined;
  private constructor(
    sandbox: PlannedSandbox,
    command: KeptCommand,
    topDirectory: string,
    egressLog?: EgressLog,
  ) {
    this.sandbox = sandbox;
    this.#command = command;
    this.topDirectory = topDirectory;
    this.#egressLog = egressLog;
  }

  /** Throws what opening a sandbox throws; nothing is left then. */
  static async open(options: BuildSandboxOptions): Promise<BuildSandbox> {
    const { engine, request, image, egress, topDirectory = TOP_DIRECTORY, signal } = options;
    const { manifest } = image;
    const installer = options.installer === true;
    const builder = manifest.user.uid === 0 ? BUILDER : undefined;
    const user = commandUser(manifest, installer ? '0:0' : builder);
    const disk = request.disk ?? DEFAULT_DISK;
    const hostname = request.hostname ?? 'kiln';
    const home = request.surroundings?.home;
    if (home !== undefined) await makeHome(home, user);
    const { network, binds } = options;
    const inMemory = request.scratch === undefined && home === undefined;
    const onDisk = !inMemory || binds.some(({ readonly }) => !readonly);
    const plan = planSandbox(
      {
        ...{ network, binds, hostname, disk, egress: egress?.hosts, limits: request.limits },
        ...{ allowHostWrite: false, privateTmp: true, namespaces: 0, nested: false, boot: false },
        ...{ label: { kind: 'auto' }, allowMissing: options.engine.allowMissing() },
        scratch: request.scratch?.path,
        volumes: home === undefined ? [] : [{ source: home, target: BUILD_HOME }],
        tmpfs: [
          ...(inMemory ? [{ target: BUILD_HOME, bytes: disk }] : []),
          // Folders on the way to a bind are root's: what lies beside a cache is to be the build's.
          ...(binds.some(({ target }) => target.startsWith(`${BUILD_HOME}/`))
            ? [{ target: `${BUILD_HOME}/.cache`, bytes: disk }]
            : []),
        ],
        files: [
          {
            path: `${BUILD_HOME}/.rpmmacros`,
            mode: 0o644,
            content: rpmMacros(topDirectory, hostname),
          },
        ],
        ...{ owner: user, caller: request.caller },
        shownAs: request.shownAs ?? ['kiln build', request.source.path],
        outlives: request.keepSeconds !== undefined && !installer,
      },
      { tree: image.tree, id: manifest.id, environment: manifest.environment },
    );
    const command = {
      policy: {
        user: user.spec,
        capabilities: installer ? TRANSACTION_CAPABILITIES : [],
        seccomp: onDisk ? ON_DISK : SECCOMP,
      },
      env: { ...options.env, HOME: BUILD_HOME },
      workdir: BUILD_HOME,
    };
    const { samples } = options;
    const sandbox = await PlannedSandbox.open(engine, plan, { signal, samples });
    return new BuildSandbox(sandbox, command, topDirectory, egress?.log);
  }

  /**
   * Comes back to a sandbox that a build was kept in.
   * Throws E_NO_SANDBOX, E_SANDBOX_BUSY, E_INIT_SILENT.
   */
  static async reopen(engine: Engine, id: string, topDirectory: string): Promise<BuildSandbox> {
    const { sandbox, kept } = await PlannedSandbox.reopen(engine, id);
    return new BuildSandbox(sandbox, { ...kept, workdir: BUILD_HOME }, topDirectory);
  }

  /** Runs a command to its end, whatever that is. Throws what starting throws; the signal's reason. */
  async run(
    argv: readonly string[],
    { timeout, stallTimeout, ...io }: BuildCommand,
  ): Promise<Executed> {
    const time = { timeout, stallTimeout };
    const plan = { ...this.#command, argv, time, leftovers: 'ended', disks: [BUILD_HOME] } as const;
    return await this.sandbox.execute(plan, io);
  }

  /** Lets go of the sandbox; `kiln shell` finds it in `workdir` with this sandbox's policy. */
  async keep(seconds: number, workdir: string): Promise<void> {
    await this.#noteEgress();
    await this.sandbox.keep(seconds, { ...this.#command, workdir });
  }

  async close(): Promise<void> {
    try {
      await this.#noteEgress();
    } finally {
      await this.sandbox.close();
    }
  }

  /** Notes what was asked of the proxy, once. */
  async #noteEgress(): Promise<void> {
    const log = this.#egressLog;
    this.#egressLog = undefined;
    for (const entry of (await this.sandbox.closeEgress()) ?? []) log?.add(entry);
  }
}

/** Owners in a volume are those in the sandbox. Each sandbox starts with an empty home. */
async function makeHome(path: string, { uid, gid }: CommandUser): Promise<void> {
  await removeTree(path);
  await mkdir(path, { mode: 0o700 });
  await chmod(path, 0o755);
  await chown(path, uid, gid);
}
