import { mkdir } from 'node:fs/promises';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { DiskWatch } from '../../host/state/disk-watch.ts';
import { span } from '../../host/trace/trace.ts';
import { type CommandPlan, planSandbox } from '../../sandbox/door/plan.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import { labelForImages } from '../../sandbox/labels/runner.ts';
import type { Engine } from '../../sandbox/open.ts';
import { TRANSACTION_CAPABILITIES } from '../../sandbox/policy/capabilities.ts';
import { seccompFilter } from '../../sandbox/seccomp/profile.ts';

/** Where the sandbox sees the control folder: on the tmpfs of its /dev, so that it leaves no trace. */
export const CONTROL = '/dev/.kiln';

/** Commands write to the host's disk. */
const POLICY = {
  user: 'root',
  capabilities: TRANSACTION_CAPABILITIES,
  seccomp: 'default-on-disk',
};

/** How many of the last bytes of a command's output are kept by default; errors come last. */
export const OUTPUT_LIMIT = 64 * 1024;

/** %_install_script_path of rpm's own macros, without X11R6. */
const SCRIPT_PATH = '/sbin:/bin:/usr/sbin:/usr/bin';

const ROOT = { uid: 0, gid: 0 };

/** How a transaction's sandbox is set up. */
export interface TransactionSandboxOptions {
  /** The tree that is the sandbox's root. It is not written to. */
  readonly tree: string;
  /** A folder of the host for the sandbox's writes; it gets the folders `upper` and `work`. */
  readonly scratch: string;
  /** A folder of the host, read-only at {@link CONTROL} in the sandbox. */
  readonly control: string;
  /** Bytes that may be written. */
  readonly disk: number;
}

/** A command in a transaction's sandbox. It runs as root without a network. */
export interface TransactionCommand {
  readonly argv: readonly string[];
  /** Standard input. */
  readonly input?: Buffer;
  /** Seconds. */
  readonly timeout: number;
  readonly signal?: AbortSignal | undefined;
  /** How many of the last bytes of its output are kept. */
  readonly output?: number;
  /** Work that does not depend on the command, done while the command runs. */
  readonly meanwhile?: (() => void) | undefined;
}

/** How a command ended. */
export interface TransactionResult {
  /** 0 to 255; 127 if its program is missing, 126 if it cannot be executed, as in rpm. */
  readonly status: number | null;
  readonly killedBy: NodeJS.Signals | null;
  readonly timedOut: boolean;
  /** The end of both outputs. */
  readonly output: string;
}

/** A sandbox for packages' scripts: root of the sandbox with the few rights that they need. */
export class TransactionSandbox implements AsyncDisposable {
  readonly #sandbox: PlannedSandbox;
  readonly #scratch: string;
  readonly #disk: DiskWatch;
  #closed = false;

  private constructor(sandbox: PlannedSandbox, scratch: string, disk: DiskWatch) {
    this.#sandbox = sandbox;
    this.#scratch = scratch;
    this.#disk = disk;
  }

  /** Prepares what all these sandboxes share, so that none waits for it. */
  static async prepare(engine: Engine): Promise<void> {
    await seccompFilter(engine.paths, POLICY.seccomp, POLICY.capabilities);
  }

  /**
   * Opens a sandbox. Call {@link finish} before using what it wrote.
   * @throws what opening a sandbox throws; KilnError E_DISK_LOW
   */
  static async open(
    engine: Engine,
    options: TransactionSandboxOptions,
  ): Promise<TransactionSandbox> {
    await mkdir(options.scratch, { recursive: true });
    const { tree, scratch } = options;
    const plan = planSandbox(
      {
        ...{ scratch, hostname: 'localhost', privateTmp: false },
        // A script that makes these files finds what it finds in an install root of rpm's.
        names: false,
        binds: [{ source: options.control, target: CONTROL, readonly: true }],
        ...{ network: 'private', volumes: [], allowHostWrite: false, namespaces: 0 },
        ...{ nested: false, boot: false, label: { kind: 'auto' }, egress: undefined },
        ...{ allowMissing: engine.allowMissing(), outlives: false },
        ...{ owner: ROOT, caller: ROOT, shownAs: ['kiln image build'] },
      },
      { tree, id: undefined, environment: {} },
    );
    const disk = new DiskWatch(options.scratch, {
      tree: options.scratch,
      bytes: options.disk,
      who: 'the packages and their scriptlets',
      hint: '`disk` in the recipe of the image allows more, as `disk: 64G`',
    });
    try {
      const planned = await PlannedSandbox.open(engine, plan);
      const sandbox = new TransactionSandbox(planned, scratch, disk);
      try {
        disk.kills(planned.initPid);
        await disk.ready();
        return sandbox;
      } catch (error) {
        await sandbox[Symbol.asyncDispose]();
        throw error;
      }
    } catch (error) {
      disk[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Runs a command to its end; no way of ending is an exception.
   * @throws KilnError E_DISK, E_DISK_LOW
   */
  async run(command: TransactionCommand): Promise<TransactionResult> {
    using _ = span(`in the sandbox: ${command.argv[0]}`);
    this.#disk.signal.throwIfAborted();
    const { argv, timeout, input, signal, output: keep = OUTPUT_LIMIT, meanwhile } = command;
    const plan: CommandPlan = {
      argv,
      env: { PATH: SCRIPT_PATH, HOME: '/root', LANG: 'C.UTF-8' },
      workdir: '/',
      policy: POLICY,
      time: { timeout: timeout * 1000 },
      leftovers: 'left',
    };
    try {
      const end = await this.#sandbox.execute(plan, { input, signal, keep, meanwhile });
      const { exitCode: status, signal: killedBy, timeLimit, output } = end;
      return { status, killedBy, timedOut: timeLimit !== null, output: output.text() };
    } catch (error) {
      this.#disk.signal.throwIfAborted();
      return startFailure(error);
    } finally {
      // The watch kills the whole sandbox, so the disk is the reason, not the command's end.
      this.#disk.signal.throwIfAborted();
    }
  }

  /**
   * Ends the sandbox and checks for the last time how much it wrote.
   * @throws KilnError E_DISK, E_DISK_LOW, E_TREE_DEPTH
   */
  async finish(): Promise<void> {
    await this.#close();
    await this.#disk.finish();
    // The written files become part of an image and get its label; until then they have this sandbox's.
    await labelForImages(this.#scratch);
  }

  async #close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    // A killed sandbox has no processes.
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

/** The status of rpm's own child if it cannot start a script. */
function startFailure(error: unknown): TransactionResult {
  const statuses: Readonly<Partial<Record<ErrorCode, number>>> = {
    E_COMMAND_NOT_FOUND: 127,
    E_COMMAND_NOT_EXECUTABLE: 126,
  };
  const status = error instanceof KilnError ? statuses[error.code] : undefined;
  if (status === undefined) throw error;
  return { status, killedBy: null, timedOut: false, output: (error as KilnError).message };
}
