import { closeSync } from 'node:fs';
import {
  type Capability,
  ROOT_CAPABILITIES,
  TRANSACTION_CAPABILITIES,
} from '../../sandbox/capabilities.ts';
import { listenToOutput } from '../../sandbox/door/output.ts';
import { type CommandEnd, supervise } from '../../sandbox/door/supervise.ts';
import { commandUser } from '../../sandbox/door/user.ts';
import { openSandbox } from '../../sandbox/open.ts';
import { commandPolicy } from '../../sandbox/policy.ts';
import type { SandboxProcess } from '../../sandbox/process.ts';
import type { Sandbox } from '../../sandbox/sandbox.ts';
import { type Bind, sandboxSpecification } from '../../sandbox/specification.ts';
import type { DiskWatch } from '../../state/disk-watch.ts';
import type { MockRoot } from './root.ts';

/** How a box on a root is set up. */
export interface RootBoxOptions {
  readonly network?: boolean | undefined;
  readonly hostname?: string | undefined;
  readonly binds?: readonly Bind[];
  /** What `kiln ps` shows. */
  readonly command: readonly string[];
}

/** How a command is started in it. */
export interface RootCommand {
  /** NAME or UID:GID; root unless given. */
  readonly user?: string | undefined;
  readonly workdir?: string | undefined;
  readonly env?: Readonly<Record<string, string>>;
  readonly terminal?: { readonly rows: number; readonly columns: number } | undefined;
  /** With the rights of a package's scripts instead of those of a root shell. */
  readonly transaction?: boolean;
}

/** Bytes that a captured command may write: the names of 100,000 packages. */
const CAPTURE_LIMIT = 8 * 1024 * 1024;

/** What a captured command wrote. */
export interface Captured extends CommandEnd {
  readonly stdout: string;
  /** Both outputs, in the order they came. */
  readonly output: string;
}

/**
 * A box whose root is a persistent root: what is changed in it stays. Its owners are the box's own
 * ids, which another box maps to another range of the host's.
 */
export class RootBox implements AsyncDisposable {
  readonly root: MockRoot;
  readonly #sandbox: Sandbox;
  #closed = false;

  private constructor(root: MockRoot, sandbox: Sandbox) {
    this.root = root;
    this.#sandbox = sandbox;
  }

  /** Throws what opening a sandbox throws. */
  static async open(root: MockRoot, options: RootBoxOptions): Promise<RootBox> {
    const { image, engine } = root;
    await root.note({ inUse: true });
    const owner = { uid: 0, gid: 0 };
    const specification = sandboxSpecification({
      root: image.tree,
      image: image.manifest.id,
      scratch: root.scratch,
      // A root's /tmp and /var/tmp are its own, and stay.
      privateTmp: false,
      network: options.network === true ? 'host' : 'private',
      hostname: options.hostname ?? 'mock',
      binds: options.binds ?? [],
    });
    const use = { user: owner, caller: owner, command: options.command };
    return new RootBox(root, await openSandbox(engine, specification, use));
  }

  /** Starts a command. Throws what Sandbox.spawn() throws, E_NO_USER. */
  async spawn(argv: readonly string[], command: RootCommand = {}): Promise<SandboxProcess> {
    const { image, engine } = this.root;
    const user = commandUser(image.manifest, command.user ?? '0:0');
    const capabilities = capabilitiesOf(user.uid, command.transaction === true);
    return await this.#sandbox.spawn(argv, {
      policy: await commandPolicy(engine.paths, this.#sandbox.surroundings, {
        user: user.spec,
        capabilities,
        seccomp: 'default-on-disk',
      }),
      env: { ...image.manifest.environment, ...command.env },
      workdir: command.workdir ?? '/',
      ...(command.terminal === undefined ? {} : { terminal: command.terminal }),
    });
  }

  /** Runs a command to its end and keeps what it writes, up to {@link CAPTURE_LIMIT}. */
  async capture(
    argv: readonly string[],
    command: RootCommand & {
      /** Standard input. */
      readonly input?: Buffer;
      readonly signal?: AbortSignal | undefined;
      readonly onOutput?: (chunk: Buffer) => void;
    } = {},
  ): Promise<Captured> {
    const process = await this.spawn(argv, command);
    const stdout: Buffer[] = [];
    const output: Buffer[] = [];
    let size = 0;
    const kill = () => this.killAll();
    const take = (chunk: Buffer, stream: 'stdout' | 'stderr') => {
      command.onOutput?.(chunk);
      size += chunk.length;
      if (size > CAPTURE_LIMIT) return;
      output.push(chunk);
      if (stream === 'stdout') stdout.push(chunk);
    };
    const listener = listenToOutput(process, take, kill);
    process.stdin.end(command.input);
    const abort = () => void kill().catch(() => undefined);
    command.signal?.addEventListener('abort', abort, { once: true });
    try {
      const end = await supervise(process, {}, 'ended', kill);
      command.signal?.throwIfAborted();
      listener.rethrow();
      const text = (chunks: Buffer[]) => Buffer.concat(chunks).toString('utf8');
      return { ...end, stdout: text(stdout), output: text(output) };
    } finally {
      command.signal?.removeEventListener('abort', abort);
    }
  }

  /** Has a watch of the disk kill the box as soon as there is a reason. */
  killedBy(disk: DiskWatch): void {
    disk.kills(this.#sandbox.initPid);
  }

  /** Ends every process in the box. */
  async killAll(): Promise<void> {
    await this.#sandbox.killAll();
  }

  /** Does something with the box's root directory, which is hostile, by its descriptor. */
  async withRoot<Result>(
    act: (rootFd: number, ids: { readonly base: number }) => Promise<Result>,
  ): Promise<Result> {
    const [, base] = this.#sandbox.facts.uidMap;
    const rootFd = this.#sandbox.openRoot();
    try {
      return await act(rootFd, { base });
    } finally {
      closeSync(rootFd);
    }
  }

  /** Ends the box; does nothing the second time. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#sandbox.close();
    await this.root.note({ inUse: false });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function capabilitiesOf(uid: number, transaction: boolean): readonly Capability[] {
  if (uid !== 0) return [];
  return transaction ? TRANSACTION_CAPABILITIES : ROOT_CAPABILITIES;
}
