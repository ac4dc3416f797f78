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
import { DiskWatch } from '../../state/disk-watch.ts';
import { span } from '../../trace/trace.ts';

/** Where the box sees the control folder: on the tmpfs that is its /dev, so that it leaves no trace. */
export const CONTROL = '/dev/.kiln';

/** Scripts write to the host's disk. */
const SECCOMP = 'default-on-disk';

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
  /** Bytes that may be written. */
  readonly disk: number;
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
  readonly #disk: DiskWatch;
  #closed = false;

  private constructor(sandbox: Sandbox, policy: CommandPolicy, scratch: string, disk: DiskWatch) {
    this.#sandbox = sandbox;
    this.#policy = policy;
    this.#scratch = scratch;
    this.#disk = disk;
  }

  /** Makes ready what is the same for all of them, so that none waits for it. */
  static async prepare(engine: Engine): Promise<void> {
    await seccompFilter(engine.paths, SECCOMP, TRANSACTION_CAPABILITIES);
  }

  /**
   * Opens a box; before anything is done with what it wrote, {@link finish} it.
   * @throws what opening a sandbox throws; KilnError E_DISK_LOW
   */
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
      seccomp: SECCOMP,
    });
    const disk = new DiskWatch(options.scratch, {
      tree: options.scratch,
      bytes: options.disk,
      who: 'the packages and their scriptlets',
      hint: '`disk` in the recipe of the image allows more, as `disk: 64G`',
    });
    try {
      const sandbox = await openSandbox(engine, specification, use);
      const box = new TransactionBox(sandbox, policy, options.scratch, disk);
      try {
        disk.kills(sandbox.initPid);
        await disk.ready();
        return box;
      } catch (error) {
        await box[Symbol.asyncDispose]();
        throw error;
      }
    } catch (error) {
      disk[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Runs a command to its end; whatever that is, it is no exception.
   * @throws KilnError E_DISK, E_DISK_LOW
   */
  async run(command: TransactionCommand): Promise<TransactionResult> {
    using _ = span(`in the box: ${command.argv[0]}`);
    let process: SandboxProcess;
    this.#disk.signal.throwIfAborted();
    try {
      process = await this.#sandbox.spawn(command.argv, {
        policy: this.#policy,
        env: { PATH: SCRIPT_PATH, HOME: '/root', LANG: 'C.UTF-8' },
      });
    } catch (error) {
      this.#disk.signal.throwIfAborted();
      return startFailure(error);
    }
    // A failure of the other work goes first; the box takes the command with it.
    const ended = awaitedLater(watch(process, command));
    command.meanwhile?.();
    try {
      return await ended;
    } finally {
      // The watch kills the whole box: what that did to the command is not the reason.
      this.#disk.signal.throwIfAborted();
    }
  }

  /**
   * Ends all of the box, and looks for the last time at what it wrote.
   * @throws KilnError E_DISK, E_DISK_LOW, E_TREE_DEPTH
   */
  async finish(): Promise<void> {
    await this.#close();
    await this.#disk.finish();
    // What it wrote becomes part of an image, and is this box's alone until then.
    await labelForImages(this.#scratch);
  }

  async #close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    // A box that was killed has nothing to kill.
    if (!this.#disk.signal.aborted) await this.#sandbox.killAll();
    await this.#sandbox.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#close();
    } finally {
      this.#disk[Symbol.dispose]();
    }
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
