import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openEngine } from '../../src/engine.ts';
import type { Capability } from '../../src/host/process/process.ts';
import { machineFiles } from '../../src/sandbox/domain/machine/relay.ts';
import { type CommandPlan, planSandbox, type SandboxJob } from '../../src/sandbox/door/plan.ts';
import { PlannedSandbox } from '../../src/sandbox/door/planned-sandbox.ts';
import type { Executed, OpenIo, RunningCommand } from '../../src/sandbox/door/supervise.ts';
import { ROOT_CAPABILITIES } from '../../src/sandbox/policy/specification.ts';
import { type BusyboxState, IMAGE } from './busybox-state.ts';

/** A job for a machine, emulated: no host needs KVM for the tests. */
function machineJob(wanted: Partial<SandboxJob> = {}): SandboxJob {
  return {
    isolation: 'vm',
    network: 'private',
    binds: [],
    volumes: [],
    allowHostWrite: false,
    protectedPaths: [],
    privateTmp: true,
    namespaces: 0,
    nested: false,
    boot: false,
    label: { kind: 'auto' },
    allowMissing: ['kvm'],
    egress: undefined,
    owner: { uid: 0, gid: 0 },
    caller: { uid: 0, gid: 0 },
    shownAs: ['test'],
    disk: 2 ** 28,
    ...wanted,
  };
}

export interface CommandWish extends Partial<Omit<CommandPlan, 'argv' | 'policy'>> {
  readonly user?: string;
  readonly capabilities?: readonly Capability[];
  readonly seccomp?: string;
}

function commandPlan(argv: readonly string[], wanted: CommandWish): CommandPlan {
  const { user = '0:0', seccomp = 'default', ...rest } = wanted;
  const { capabilities = user === '0:0' ? ROOT_CAPABILITIES : [] } = wanted;
  const policy = { user, capabilities, seccomp };
  return {
    argv,
    policy,
    env: { PATH: '/bin' },
    workdir: '/',
    time: {},
    leftovers: 'left',
    ...rest,
  };
}

/** A machine on the busybox image, and commands in it. */
export class Machine implements AsyncDisposable {
  readonly sandbox: PlannedSandbox;
  readonly #engine: AsyncDisposable;

  private constructor(sandbox: PlannedSandbox, engine: AsyncDisposable) {
    this.sandbox = sandbox;
    this.#engine = engine;
  }

  /** What a machine that does not come up has said is part of the error. */
  static async open(
    state: BusyboxState,
    job: Partial<SandboxJob> = {},
    io: OpenIo = {},
  ): Promise<Machine> {
    const engine = openEngine(state.env);
    const image = {
      tree: join(state.paths.images, IMAGE, 'tree'),
      id: IMAGE,
      environment: {},
      arch: undefined,
    };
    try {
      const sandbox = await PlannedSandbox.open(engine, planSandbox(machineJob(job), image), io);
      return new Machine(sandbox, engine);
    } catch (error) {
      await engine[Symbol.asyncDispose]();
      const { message, cause } = error as Error;
      throw new Error(`${message}: ${(cause as Error | undefined)?.message}`, { cause: error });
    }
  }

  async run(
    argv: readonly string[],
    { input, ...wanted }: CommandWish & { readonly input?: Buffer } = {},
  ): Promise<Executed & { readonly out: string; readonly err: string }> {
    let err = '';
    const onOutput = (chunk: Buffer, stream: string) => {
      if (stream === 'stderr') err += chunk.toString();
    };
    const io = { input, onOutput, capture: 64 << 20 };
    const ended = await this.sandbox.execute(commandPlan(argv, wanted), io);
    return { ...ended, out: ended.stdout.toString('latin1'), err };
  }

  /** `sh -c` of a script. */
  async sh(script: string, wanted?: CommandWish & { readonly input?: Buffer }) {
    return await this.run(['sh', '-c', script], wanted);
  }

  async start(
    argv: readonly string[],
    wanted: CommandWish = {},
    terminal?: { readonly rows: number; readonly columns: number },
  ): Promise<RunningCommand> {
    return await this.sandbox.start(commandPlan(argv, wanted), { terminal });
  }

  /** What the guest's kernel, stage 0 and the relay said. */
  async console(state: BusyboxState): Promise<string> {
    const directory = join(state.paths.sandboxes, this.sandbox.id);
    const files = [machineFiles.console(directory), machineFiles.log(directory)];
    return (await Promise.all(files.map((path) => readFile(path, 'utf8')))).join('');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.sandbox.close();
    await this.#engine[Symbol.asyncDispose]();
  }
}
