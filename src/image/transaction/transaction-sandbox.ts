import { chmodSync, copyFileSync, linkSync, mkdirSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Engine } from '../../engine.ts';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { ownPath } from '../../host/files/held.ts';
import { DiskWatch } from '../../host/state/disk-watch.ts';
import { span } from '../../host/trace/trace.ts';
import { encodeName } from '../../packages/rpm/filename.ts';
import { MORE_DISK } from '../../packages/rpm/payload/plan.ts';
import { type CommandPlan, planSandbox } from '../../sandbox/door/plan.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import { labelForImages } from '../../sandbox/labels/relabel.ts';
import { TRANSACTION_CAPABILITIES } from '../../sandbox/policy/specification.ts';
import { seccompFilter } from '../../sandbox/seccomp/profile.ts';

/** It is on the tmpfs of the sandbox's /dev, so that it leaves no trace. */
export const CONTROL = '/dev/.kiln';

const POLICY = {
  user: 'root',
  capabilities: TRANSACTION_CAPABILITIES,
  seccomp: 'default-on-disk',
};

/** Bytes of the end of a command's output; errors come last. */
export const OUTPUT_LIMIT = 64 * 1024;

/** %_install_script_path of rpm's own macros, without X11R6. */
const SCRIPT_PATH = '/sbin:/bin:/usr/sbin:/usr/bin';

const ROOT = { uid: 0, gid: 0 };

export interface TransactionSandboxOptions {
  readonly tree: string;
  /** A folder of the host for the sandbox's writes; it gets the folders `upper` and `work`. */
  readonly scratch: string;
  readonly control: string;
  readonly disk: number;
}

export interface TransactionCommand {
  readonly argv: readonly string[];
  readonly input?: Buffer;
  /** Seconds. */
  readonly timeout: number;
  readonly signal?: AbortSignal | undefined;
  readonly output?: number;
  readonly meanwhile?: (() => void) | undefined;
}

export interface TransactionResult {
  /** 127 if its program is missing, 126 if it cannot be executed, as in rpm. */
  readonly status: number | null;
  readonly killedBy: NodeJS.Signals | null;
  readonly timedOut: boolean;
  readonly output: string;
}

export class TransactionSandbox implements AsyncDisposable {
  readonly #sandbox: PlannedSandbox;
  readonly #scratch: string;
  readonly #disk: DiskWatch;

  private constructor(sandbox: PlannedSandbox, scratch: string, disk: DiskWatch) {
    this.#sandbox = sandbox;
    this.#scratch = scratch;
    this.#disk = disk;
  }

  static async prepare(engine: Engine): Promise<void> {
    await seccompFilter(engine.paths, POLICY.seccomp, POLICY.capabilities);
  }

  static async open(
    engine: Engine,
    options: TransactionSandboxOptions,
  ): Promise<TransactionSandbox> {
    await mkdir(options.scratch, { recursive: true });
    const { tree, scratch } = options;
    const plan = planSandbox(
      {
        ...{ scratch, hostname: 'localhost', privateTmp: false },
        // No /etc/hosts and resolv.conf: scriptlets must find what they find under `rpm --root`.
        names: false,
        binds: [
          {
            source: options.control,
            place: ownPath(options.control),
            target: CONTROL,
            readonly: true,
          },
        ],
        ...{
          isolation: 'container',
          network: 'private',
          volumes: [],
          allowHostWrite: false,
          protectedPaths: [],
          namespaces: 0,
        },
        ...{ nested: false, boot: false, label: { kind: 'auto' }, egress: undefined },
        allowMissing: engine.allowMissing(),
        ...{ owner: ROOT, caller: ROOT, shownAs: ['kiln image build'] },
      },
      // Whoever makes an image has looked at its architecture before anything was fetched.
      { tree, id: undefined, arch: undefined, environment: {} },
    );
    await using stack = new AsyncDisposableStack();
    const disk = stack.use(
      new DiskWatch(scratch, {
        ...{ tree: scratch, bytes: options.disk, hint: MORE_DISK },
        who: 'the packages and their scriptlets',
      }),
    );
    const planned = await PlannedSandbox.open(engine, plan);
    const sandbox = stack.use(new TransactionSandbox(planned, scratch, disk));
    disk.kills(planned.initPid);
    await disk.ready();
    stack.move();
    return sandbox;
  }

  /** However the command ends is a result, not an exception. @throws KilnError E_DISK, E_DISK_LOW */
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
      return startFailure(error);
    } finally {
      // The watch kills the whole sandbox, so the disk is the reason, not the command's end.
      await this.#disk.throwIfKilled();
    }
  }

  async finish(): Promise<void> {
    if (!this.#disk.signal.aborted) await this.#sandbox.killAll();
    await this.#sandbox.close();
    await this.#disk.finish();
    // The written files become part of an image and get its label; until then they have this sandbox's.
    await labelForImages(this.#scratch);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#sandbox.close();
    } finally {
      this.#disk[Symbol.dispose]();
    }
  }
}

/** rpm's own child has this status if it cannot start a script. */
function startFailure(error: unknown): TransactionResult {
  const statuses: Readonly<Partial<Record<ErrorCode, number>>> = {
    E_COMMAND_NOT_FOUND: 127,
    E_COMMAND_NOT_EXECUTABLE: 126,
  };
  const status = error instanceof KilnError ? statuses[error.code] : undefined;
  if (status === undefined) throw error;
  return { status, killedBy: null, timedOut: false, output: (error as KilnError).message };
}

export class ControlDirectory {
  readonly path: string;
  #serial = 0;

  constructor(path: string) {
    mkdirSync(path);
    chmodSync(path, 0o755);
    this.path = path;
  }

  /** Returns its path in the sandbox. Lone surrogates become the bytes they stand for. */
  addScript(text: string): string {
    const name = `script-${++this.#serial}`;
    writeFileSync(join(this.path, name), encodeName(text), { mode: 0o644 });
    return `${CONTROL}/${name}`;
  }

  addFile(source: string): string {
    const name = `file-${++this.#serial}.rpm`;
    const target = join(this.path, name);
    try {
      linkSync(source, target);
    } catch (error) {
      // Another file system, or a file with the most links it can have.
      if (!hasErrno(error, 'EXDEV', 'EMLINK', 'EPERM')) throw error;
      copyFileSync(source, target);
    }
    return `${CONTROL}/${name}`;
  }
}

export const VERIFIED_BEFORE: readonly string[] = [
  '--noverify',
  '--nodigest',
  '--nosignature',
  '--ignorearch',
  '--ignoreos',
  '--ignoresize',
];

export const SOLVED_BEFORE: readonly string[] = ['--nodeps', ...VERIFIED_BEFORE];
