import { chmod, chown, mkdir } from 'node:fs/promises';
import type { Engine } from '../../engine.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import {
  type CommandUser,
  commandUser,
  DEFAULT_DISK,
  DEFAULT_HOSTNAME,
  type KeptCommand,
  planSandbox,
} from '../../sandbox/door/plan.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import {
  type Executed,
  type OpenIo,
  type TimeLimits,
  timeOf,
} from '../../sandbox/door/supervise.ts';
import { DEFAULT_ISOLATION } from '../../sandbox/policy/ground-kinds.ts';
import { limitsOf } from '../../sandbox/policy/limits.ts';
import {
  type Bind,
  type SandboxSpecification,
  TRANSACTION_CAPABILITIES,
} from '../../sandbox/policy/specification.ts';
import { BUILD_HOME, rpmMacros, TOP_DIRECTORY } from './commands.ts';
import type { BuildRequest } from './request.ts';

/** The builder where the image has no user but root: mock's. */
const BUILDER = '1000:1000';

interface BuildSandboxOptions extends OpenIo {
  readonly engine: Engine;
  readonly request: BuildRequest;
  readonly image: LeasedImage;
  readonly network: SandboxSpecification['network'];
  readonly egress?: readonly string[] | undefined;
  readonly binds?: readonly Bind[];
  readonly env?: Readonly<Record<string, string>>;
  readonly installer?: boolean;
  readonly topDirectory?: string | undefined;
}

export interface BuildCommand extends TimeLimits {
  readonly capture?: number;
  readonly signal?: AbortSignal | undefined;
  readonly onOutput?: (chunk: Buffer) => void;
}

/** Builds packages: an unprivileged user, no capability, by default no network. No command leaves processes behind. */
export class BuildSandbox implements AsyncDisposable {
  readonly sandbox: PlannedSandbox;
  readonly command: KeptCommand;
  readonly topDirectory: string;

  private constructor(sandbox: PlannedSandbox, command: KeptCommand, topDirectory: string) {
    this.sandbox = sandbox;
    this.command = command;
    this.topDirectory = topDirectory;
  }

  static async open(options: BuildSandboxOptions): Promise<BuildSandbox> {
    const { engine, request, image, egress, topDirectory = TOP_DIRECTORY } = options;
    const { manifest } = image;
    const { environment = manifest.environment } = request;
    const installer = options.installer === true;
    const builder = manifest.user.uid === 0 ? BUILDER : undefined;
    const user = commandUser(manifest, installer ? '0:0' : builder);
    const disk = request.disk ?? DEFAULT_DISK;
    const hostname = request.hostname ?? DEFAULT_HOSTNAME;
    const home = request.surroundings?.home;
    if (home !== undefined) await makeHome(home, user);
    const { network, binds = [] } = options;
    const inMemory = request.scratch === undefined && home === undefined;
    const writesDisk = !inMemory || binds.some(({ readonly }) => !readonly);
    const macros = rpmMacros(topDirectory, hostname);
    const plan = planSandbox(
      {
        ...{ network, binds, hostname, disk, egress, limits: limitsOf(request) },
        ...{
          isolation: request.isolation ?? DEFAULT_ISOLATION,
          allowHostWrite: false,
          protectedPaths: [],
          privateTmp: true,
          namespaces: 0,
          nested: false,
          boot: false,
        },
        ...{
          label: { kind: 'auto' },
          allowMissing: [...engine.allowMissing(), ...(request.allowMissing ?? [])],
        },
        scratch: request.scratch?.path,
        volumes: home === undefined ? [] : [{ source: home, target: BUILD_HOME }],
        tmpfs: [
          ...(inMemory ? [{ target: BUILD_HOME, size: disk }] : []),
          // Folders on the way to a bind are root's, but the folder of the caches is to be the build's.
          ...(binds.some(({ target }) => target.startsWith(`${BUILD_HOME}/`))
            ? [{ target: `${BUILD_HOME}/.cache`, size: disk }]
            : []),
        ],
        files: [{ path: `${BUILD_HOME}/.rpmmacros`, mode: 0o644, content: macros }],
        ...{ owner: user, caller: request.caller },
        shownAs: request.shownAs ?? ['kiln build', engine.renamed(request.source.path)],
      },
      {
        ...{ tree: image.tree, id: manifest.id, arch: manifest.arch },
        ...{ layers: request.scratch?.layers, environment },
      },
    );
    const command = {
      policy: {
        user: user.spec,
        capabilities: installer ? TRANSACTION_CAPABILITIES : [],
        seccomp: writesDisk ? 'default-on-disk' : 'default',
      },
      env: { ...options.env, HOME: BUILD_HOME },
      workdir: BUILD_HOME,
    };
    const { signal, samples } = options;
    const sandbox = await PlannedSandbox.open(engine, plan, { signal, samples });
    return new BuildSandbox(sandbox, command, topDirectory);
  }

  static async reopen(engine: Engine, id: string, topDirectory: string): Promise<BuildSandbox> {
    const { sandbox, kept } = await PlannedSandbox.reopen(engine, id);
    return new BuildSandbox(sandbox, { ...kept, workdir: BUILD_HOME }, topDirectory);
  }

  async run(argv: readonly string[], command: BuildCommand): Promise<Executed> {
    const time = timeOf(command);
    const plan = { ...this.command, argv, time, leftovers: 'ended', disks: [BUILD_HOME] } as const;
    return await this.sandbox.execute(plan, command);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.sandbox.close();
  }
}

/** Owners in a volume are those in the sandbox. Each sandbox starts with an empty home. */
async function makeHome(path: string, { uid, gid }: CommandUser): Promise<void> {
  await removeTree(path);
  await mkdir(path, { mode: 0o700 });
  await chmod(path, 0o755);
  await chown(path, uid, gid);
}
