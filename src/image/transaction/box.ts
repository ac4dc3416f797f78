import { mkdir } from 'node:fs/promises';
import { KilnError } from '../../errors.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import { TRANSACTION_CAPABILITIES } from '../../sandbox/capabilities.ts';
import { labelForImages } from '../../sandbox/labels/store.ts';
import { type Engine, openSandbox, type ReservedBox } from '../../sandbox/open.ts';
import { commandPolicy } from '../../sandbox/policy.ts';
import type { SandboxProcess } from '../../sandbox/process.ts';
import type { Sandbox } from '../../sandbox/sandbox.ts';
import { seccompFilter } from '../../sandbox/seccomp/profile.ts';
import { type CommandPolicy, sandboxSpecification } from '../../sandbox/specification.ts';
import { surroundingsOf } from '../../sandbox/surroundings.ts';
import { span } from '../../trace/trace.ts';

/** Where the box sees the control folder: on the tmpfs that is its /dev, so that it leaves no trace. */
export const CONTROL = '/dev/.kiln';

/** Bytes of a command's output that are kept unless it asks for more, its end: what went wrong is told last. */
export const OUTPUT_LIMIT = 64 * 1024;

/** How long a command's output is waited for once it has ended, milliseconds: what it has left running may hold it open. */
const LATE_OUTPUT = 500;

/** %_install_script_path of rpm's own macros, without X11R6. */
const SCRIPT_PATH = '/sbin:/bin:/usr/sbin:/usr/bin';

const ROOT = { uid: 0, gid: 0 };

/** How a transaction's box is set up. */
export interface TransactionBoxOptions {
  /** The tree that is the box's root; it is not written to. */
  readonly tree: string;
  /** A folder of the host for what the box writes: `upper` and `work` appear in it. */
  readonly scratch: string;
  /** A folder of the host that the box sees at {@link CONTROL}, read-only. */
  readonly control: string;
  readonly reserved?: ReservedBox | undefined;
}

/** One command in a transaction's box. It runs as root with no network. */
export interface TransactionCommand {
  readonly argv: readonly string[];
  /** Standard input. */
  readonly input?: Buffer;
  /** Seconds. */
  readonly timeout: number;
  readonly signal?: AbortSignal | undefined;
  /** Bytes of its output that are kept, its end. */
  readonly output?: number;
  /** Work that needs nothing of the command: it is done while that runs. */
  readonly meanwhile?: (() => void) | undefined;
}

/** How a command ended. */
export interface TransactionResult {
  /** 0 to 255; 127 when its program is missing, 126 when it cannot be executed, as rpm has it. */
  readonly status: number | null;
  readonly killedBy: NodeJS.Signals | null;
  readonly timedOut: boolean;
  /** The end of what it wrote to both outputs. */
  readonly output: string;
}

/** A box in which packages' scripts run: root of its own world with the few rights they need. */
export class TransactionBox implements AsyncDisposable {
  readonly #sandbox: Sandbox;
  readonly #policy: CommandPolicy;
  readonly #scratch: string;

  private constructor(sandbox: Sandbox, policy: CommandPolicy, scratch: string) {
    this.#sandbox = sandbox;
    this.#policy = policy;
    this.#scratch = scratch;
  }

  /** Makes ready what is the same for all of them, so that none waits for it. */
  static async prepare(engine: Engine): Promise<void> {
    await seccompFilter(engine.paths, 'default', TRANSACTION_CAPABILITIES);
  }

  /** Opens a box; dispose of it before anything is done with what it wrote. */
  static async open(engine: Engine, options: TransactionBoxOptions): Promise<TransactionBox> {
    await mkdir(options.scratch, { recursive: true });
    const specification = sandboxSpecification({
      root: options.tree,
      scratch: options.scratch,
      privateTmp: false,
      hostname: 'localhost',
      // A script that makes these files finds what it would find below an install root of rpm's.
      names: false,
      binds: [{ source: options.control, target: CONTROL, readonly: true }],
    });
    const { reserved } = options;
    const use = { user: ROOT, caller: ROOT, command: ['kiln image build'], reserved };
    const policy = await commandPolicy(engine.paths, surroundingsOf(specification), {
      user: 'root',
      capabilities: TRANSACTION_CAPABILITIES,
      seccomp: 'default',
    });
    const sandbox = await openSandbox(engine, specification, use);
    return new TransactionBox(sandbox, policy, options.scratch);
  }

  /** Runs a command to its end; whatever that is, it is no exception. */
  async run(command: TransactionCommand): Promise<TransactionResult> {
    using _ = span(`in the box: ${command.argv[0]}`);
    let process: SandboxProcess;
    try {
      process = await this.#sandbox.spawn(command.argv, {
        policy: this.#policy,
        env: { PATH: SCRIPT_PATH, HOME: '/root', LANG: 'C.UTF-8' },
      });
    } catch (error) {
      return startFailure(error);
    }
    // A failure of the other work goes first; the box takes the command with it.
    const ended = awaitedLater(watch(process, command));
    command.meanwhile?.();
    return await ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#sandbox.killAll();
    await this.#sandbox.close();
    // What it wrote becomes part of an image, and is this box's alone until then.
    await labelForImages(this.#scratch);
  }
}

async function watch(
  process: SandboxProcess,
  command: TransactionCommand,
): Promise<TransactionResult> {
  let timedOut = false;
  const kill = () => {
    try {
      process.kill('SIGKILL');
    } catch {
      // A box that is gone has no command either.
    }
  };
  const timer = setTimeout(() => {
    timedOut = true;
    kill();
  }, command.timeout * 1000);
  command.signal?.addEventListener('abort', kill, { once: true });
  // It may have come while the command was started.
  if (command.signal?.aborted) kill();
  const tail = new Tail(command.output ?? OUTPUT_LIMIT);
  process.stdout.on('data', (chunk: Buffer) => tail.push(chunk));
  process.stderr.on('data', (chunk: Buffer) => tail.push(chunk));
  let late: NodeJS.Timeout | undefined;
  const ended = deferred<void>();
  process.once('close', () => ended.resolve());
  process.once('error', ended.reject);
  process.once('exit', () => {
    // What has come while this process was busy is read before.
    late = setTimeout(() => setImmediate(ended.resolve), LATE_OUTPUT);
  });
  process.stdin.end(command.input);
  try {
    await ended.promise;
  } finally {
    clearTimeout(timer);
    clearTimeout(late);
    command.signal?.removeEventListener('abort', kill);
  }
  command.signal?.throwIfAborted();
  const { exitCode: status, signalCode: killedBy } = process;
  return { status, killedBy, timedOut, output: tail.text() };
}

/** What rpm's own child would exit with when it cannot start a script. */
function startFailure(error: unknown): TransactionResult {
  const statuses: Readonly<Record<string, number>> = {
    E_COMMAND_NOT_FOUND: 127,
    E_COMMAND_NOT_EXECUTABLE: 126,
  };
  const status = error instanceof KilnError ? statuses[error.code] : undefined;
  if (status === undefined) throw error;
  return { status, killedBy: null, timedOut: false, output: (error as KilnError).message };
}

/** The last bytes of a stream. */
class Tail {
  readonly #limit: number;
  #chunks: Buffer[] = [];
  #size = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    if (this.#size > 2 * this.#limit) this.#chunks = [this.#end()];
  }

  text(): string {
    return this.#end().toString('utf8');
  }

  #end(): Buffer {
    const end = Buffer.concat(this.#chunks).subarray(-this.#limit);
    this.#size = end.length;
    return end;
  }
}
