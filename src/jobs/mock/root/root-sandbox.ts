import type { Owner } from '../../../artifacts/destination.ts';
import type { CommandStdio } from '../../../sandbox/command/process.ts';
import { type CommandPlan, commandUser, planSandbox } from '../../../sandbox/door/plan.ts';
import { PlannedSandbox } from '../../../sandbox/door/planned-sandbox.ts';
import type { CommandEnd, CommandIo, RunningCommand } from '../../../sandbox/door/supervise.ts';
import { DEFAULT_ISOLATION } from '../../../sandbox/policy/ground-kinds.ts';
import { PROTECTED } from '../../../sandbox/policy/protected.ts';
import {
  type Bind,
  ROOT_CAPABILITIES,
  TRANSACTION_CAPABILITIES,
} from '../../../sandbox/policy/specification.ts';
import type { MockRoot } from './root.ts';

export interface RootSandboxOptions {
  readonly network?: boolean | undefined;
  readonly hostname?: string | undefined;
  readonly binds?: readonly Bind[];
  /** Who owns on the host what root owns in binds; root unless given. */
  readonly caller?: Owner | undefined;
  /** In place of that of the root's image. */
  readonly environment?: Readonly<Record<string, string>>;
  readonly command: readonly string[];
}

interface RootCommand {
  readonly user?: string | undefined;
  readonly workdir?: string | undefined;
  readonly env?: Readonly<Record<string, string>>;
  readonly transaction?: boolean;
}

/** The command that `kiln ps` shows for a sandbox on a root; its second word is the root's name. */
export function rootCommand(root: string, command: readonly string[]): readonly string[] {
  return ['kiln-mock', root, ...command];
}

export function runsInRoot(command: readonly string[] | undefined, root: string): boolean {
  return command?.[0] === 'kiln-mock' && command[1] === root;
}

/** Bytes of a captured output: the names of 100,000 packages. */
const CAPTURE_LIMIT = 8 * 1024 * 1024;

export interface Captured extends CommandEnd {
  readonly stdout: string;
  readonly output: string;
}

/** A sandbox on a persistent root. Each sandbox maps the ids of its files to another range of the host's. */
export class RootSandbox implements AsyncDisposable {
  readonly root: MockRoot;
  readonly sandbox: PlannedSandbox;
  #closed = false;

  private constructor(root: MockRoot, sandbox: PlannedSandbox) {
    this.root = root;
    this.sandbox = sandbox;
  }

  static async open(root: MockRoot, options: RootSandboxOptions): Promise<RootSandbox> {
    const { image, engine } = root;
    await root.note({ inUse: true });
    const { id, arch } = image.manifest;
    const owner = { uid: 0, gid: 0 };
    const { environment = image.manifest.environment, caller = owner } = options;
    const plan = planSandbox(
      {
        network: options.network === true ? 'host' : 'private',
        binds: options.binds ?? [],
        // A root's /tmp and /var/tmp are its own and persistent.
        privateTmp: false,
        ...{
          isolation: DEFAULT_ISOLATION,
          volumes: [],
          allowHostWrite: false,
          protectedPaths: PROTECTED,
          namespaces: 0,
          nested: false,
          boot: false,
        },
        ...{ label: { kind: 'auto' }, allowMissing: engine.allowMissing(), egress: undefined },
        ...{ scratch: root.scratch, hostname: options.hostname ?? 'mock' },
        ...{ owner, caller, shownAs: rootCommand(root.name, options.command) },
      },
      { ...{ tree: image.tree, id, arch, layers: root.layers }, environment },
    );
    return new RootSandbox(root, await PlannedSandbox.open(engine, plan));
  }

  async start(
    argv: readonly string[],
    command: RootCommand,
    stdio: CommandStdio,
  ): Promise<RunningCommand> {
    return await this.sandbox.start(this.#plan(argv, command), stdio);
  }

  async capture(
    argv: readonly string[],
    { input, signal, onOutput, ...command }: RootCommand & CommandIo = {},
  ): Promise<Captured> {
    const end = await this.sandbox.execute(this.#plan(argv, command), {
      ...{ input, signal, onOutput },
      ...{ keep: CAPTURE_LIMIT, capture: CAPTURE_LIMIT },
    });
    return { ...end, stdout: end.stdout.toString('utf8'), output: end.output.text() };
  }

  #plan(
    argv: readonly string[],
    { user: wanted = '0:0', workdir = '/', env = {}, transaction = false }: RootCommand,
  ): CommandPlan {
    const user = commandUser(this.root.image.manifest, wanted);
    const rights = transaction ? TRANSACTION_CAPABILITIES : ROOT_CAPABILITIES;
    const capabilities = user.uid === 0 ? rights : [];
    const policy = { user: user.spec, capabilities, seccomp: 'default-on-disk' };
    return { argv, env, workdir, policy, time: {}, leftovers: 'ended' };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.sandbox.close();
    await this.root.note({ inUse: false });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
