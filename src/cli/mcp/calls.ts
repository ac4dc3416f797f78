/** Calls of `kiln`, as whoever started `kiln mcp`, and the sandboxes that it holds open. */
import { randomUUID } from 'node:crypto';
import { addAbortListener, once } from 'node:events';
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  realpathSync,
} from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt } from '../../host/calls/libc.ts';
import { BENEATH, openat2 } from '../../host/files/at.ts';
import { startProgram } from '../../host/process/child-process.ts';
import { LONGEST_WAIT } from '../../host/process/wait-for.ts';
import { packageRoot } from '../../host/state/paths.ts';
import { awaitedLater } from '../../promise.ts';
import type { ListedSandbox } from '../../sandbox/domain/sandbox-record.ts';
import { GRACE } from '../../sandbox/door/supervise.ts';
import type { Caller } from '../caller/caller.ts';

type Started = ReturnType<typeof startProgram>;

/** Those of them that `kiln build` has. */
const LIMITS = /^--(?:memory|cpus|pids|io-read|io-write|disk|timeout)=/;

/** Bytes of each output of a command, and of a file, that an assistant gets: it reads all of them. */
const SHOWN = 64 * 1024;
export const FILE_MAX = 1 << 20;

/** Sandboxes that are open at a time. */
const OPEN_MAX = 8;

/** Longer than any assistant's session; kiln.yaml may have a shorter one. */
const NO_TIMEOUT = '--timeout=24d';

export interface McpOptions {
  readonly image?: string;
  readonly resultdir: string;
  readonly sources: string;
  /** Of each command, also of one in an open sandbox. Milliseconds. */
  readonly timeout?: number;
}

export interface Ended {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class Kiln {
  readonly #env: Record<string, string>;
  readonly #words: readonly string[];
  readonly #image: string | undefined;
  readonly #results: string;
  #realResults: string | undefined;
  readonly #sources: string;
  readonly #timeout: number | undefined;
  readonly #open = new Map<string, Started>();
  readonly #running = new Set<Started>();

  readonly #caller: Caller;

  constructor(caller: Caller, words: readonly string[], options: McpOptions) {
    const { image, resultdir, sources, timeout } = options;
    this.#caller = caller;
    this.#env = { ...caller.environment };
    this.#words = words;
    this.#image = image;
    this.#timeout = timeout;
    this.#results = resolve(caller.cwd(), resultdir);
    this.#sources = resolve(caller.cwd(), sources);
  }

  close(): void {
    for (const child of [...this.#open.values(), ...this.#running]) child.kill('SIGTERM');
  }

  async sandboxWords(image: string | undefined): Promise<string[]> {
    return [...(await this.#imageWords(image)), ...this.#words];
  }

  /** A folder of its own for what a call leaves. */
  async makeResults(): Promise<string> {
    await this.#caller.paths.results(this.#results);
    return mkdtempSync(join(this.#resultFolder(), 'call-'));
  }

  async buildWords(image: string | undefined): Promise<string[]> {
    const limits = this.#words.filter((word) => LIMITS.test(word));
    return [...(await this.#imageWords(image)), ...limits];
  }

  /** An assistant chooses among images that there are: a recipe by its name or path could read the caller's files. */
  async #imageWords(image: string | undefined): Promise<string[]> {
    if (image === undefined || image === this.#image) {
      return this.#image === undefined ? [] : ['-r', this.#image];
    }
    const { stdout } = await this.call(['image', 'ls', '--json'], { most: FILE_MAX });
    const images = JSON.parse(stdout) as { id: string; names: string[] }[];
    const found = images.find(({ id, names }) => names.includes(image) || id === image);
    if (found === undefined) throw new Error(`there is no image ${image}`);
    return ['-r', found.id];
  }

  /** The folder as it was at first: a sandbox that it is bound to may put a link in its place. */
  #resultFolder(): string {
    const real = realpathSync(this.#results);
    this.#realResults ??= real;
    if (real !== this.#realResults || lstatSync(this.#results).isSymbolicLink()) {
      throw new Error(`${this.#results} is a link: name another --resultdir`);
    }
    return real;
  }

  /** @throws Error for what is no package, or lies elsewhere */
  sourceFile(name: string): string {
    if (!/\.(?:src\.rpm|spec)$/.test(name))
      throw new Error(`${name} is neither a .src.rpm nor a .spec`);
    using opened = inside(this.#sources, name);
    return readlinkSync(`/proc/self/fd/${opened.fd}`);
  }

  artifact(name: string): Buffer {
    using opened = inside(this.#resultFolder(), name);
    const bytes = Buffer.alloc(FILE_MAX);
    return bytes.subarray(0, readSync(opened.fd, bytes, 0, FILE_MAX, 0));
  }

  start(words: readonly string[]): Started {
    const child = startProgram(join(packageRoot(), 'bin/kiln'), words, {
      env: this.#env,
      stdio: 'pipe',
    });
    this.#running.add(child);
    child.once('close', () => this.#running.delete(child));
    return child;
  }

  async call(
    words: readonly string[],
    { input = '', signal, most = SHOWN }: Calling = {},
  ): Promise<Ended> {
    const child = this.start(words);
    let ending: NodeJS.Timeout | undefined;
    using _end =
      signal &&
      addAbortListener(signal, () => {
        child.kill('SIGTERM');
        // kilnd ends the command of a client that is gone.
        ending = setTimeout(() => child.kill('SIGKILL'), GRACE);
      });
    const [stdout, stderr] = [kept(child.stdout, most), kept(child.stderr, SHOWN)];
    // The command may not read its input.
    child.stdin?.on('error', () => undefined).end(input);
    const [status, by] = (await once(child, 'close')) as [number | null, string | null];
    clearTimeout(ending);
    return { status: status ?? (by === null ? 125 : 137), stdout: stdout(), stderr: stderr() };
  }

  /** A command in an open sandbox, of which `kiln exec` limits nothing. @throws what {@link own} throws */
  async execute(id: string, argv: readonly string[], calling: Calling): Promise<Ended> {
    this.own(id);
    const words = ['exec', id, '--', ...argv];
    const timeout = this.#timeout;
    if (timeout === undefined) return await this.call(words, calling);
    const late = AbortSignal.timeout(Math.min(timeout, LONGEST_WAIT));
    const { signal = late } = calling;
    const ended = await this.call(words, { ...calling, signal: AbortSignal.any([late, signal]) });
    if (!late.aborted) return ended;
    const why = `kiln: the command was ended after ${timeout / 1000} s: the time limit was reached (--timeout)\n`;
    return { ...ended, status: 124, stderr: `${ended.stderr}${why}` };
  }

  /** The sandbox lives as long as its command, whose input this process has: it ends when this process does. */
  async openSandbox(image: string | undefined): Promise<string> {
    if (this.#open.size >= OPEN_MAX) throw new Error(`${OPEN_MAX} sandboxes are open: close one`);
    const mark = `kiln-mcp-${randomUUID()}`;
    const holding = ['sh', '-c', 'echo ready; while read -r line; do :; done', mark];
    const words = await this.sandboxWords(image);
    if (this.#timeout !== undefined) words.push(NO_TIMEOUT);
    const child = this.start(['run', ...words, '--', ...holding]);
    const stderr = kept(child.stderr, SHOWN);
    const closed = awaitedLater(once(child, 'close').then(() => undefined));
    const ready = awaitedLater(once(child.stdout ?? child, 'data').then(() => true));
    if ((await Promise.race([ready, closed])) !== true) throw new Error(stderr());
    const { stdout } = await this.call(['ps', '--json'], { most: FILE_MAX });
    const listed = JSON.parse(stdout) as Pick<ListedSandbox, 'id' | 'record'>[];
    // Anybody sees the mark among the words of a process; root sees everybody's sandboxes.
    const owner = process.getuid?.() || undefined;
    const mine = listed.find(
      ({ record }) => record.owner === owner && record.command?.includes(mark),
    );
    const id = mine?.id;
    if (id === undefined) {
      child.kill('SIGTERM');
      throw new Error('the sandbox has ended');
    }
    this.#open.set(id, child);
    child.once('close', () => this.#open.delete(id));
    if (child.exitCode !== null || child.signalCode !== null) this.#open.delete(id);
    return id;
  }

  /** @throws Error for one that this server has not opened: others are not the assistant's */
  own(id: string): Started {
    const child = this.#open.get(id);
    if (child === undefined)
      throw new Error(`there is no open sandbox ${id}: open_sandbox opens one`);
    return child;
  }

  async closeSandbox(id: string): Promise<void> {
    const child = this.own(id);
    const closed = awaitedLater(once(child, 'close'));
    child.stdin?.end();
    await closed;
  }
}

/**
 * A file of a folder, where no link leads out of it: what lies there may come from a sandbox.
 * @throws Error which is the same for all that is no such file: an assistant learns nothing of the host's other paths
 */
function inside(directory: string, name: string): { readonly fd: number } & Disposable {
  using folder = closing(openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY));
  const fd = attempt(() => openat2(folder.fd, name, BENEATH));
  const isFile = fd !== undefined && fstatSync(fd).isFile();
  if (fd !== undefined && isFile) return closing(fd);
  if (fd !== undefined) closeSync(fd);
  throw new Error(`there is no file ${name} below ${directory}`);
}

interface Calling {
  readonly input?: string | Buffer;
  readonly signal?: AbortSignal | undefined;
  readonly most?: number;
}

/** The end of an output, by which a failure is told. */
function kept(stream: NodeJS.ReadableStream | null, most: number): () => string {
  let text = Buffer.alloc(0);
  let left = 0;
  stream?.on('data', (chunk: Buffer) => {
    text = Buffer.concat([text, chunk]);
    if (text.length <= 2 * most) return;
    left += text.length - most;
    text = text.subarray(-most);
  });
  return () => {
    const shown = text.subarray(-most);
    const out = left + text.length - shown.length;
    return `${out > 0 ? `[${out} bytes left out]\n` : ''}${shown}`;
  };
}

/** Files that are told of one call. */
const LISTED = 1000;

export function listed(directory: string): string[] {
  const all = readdirSync(directory, { recursive: true, withFileTypes: true });
  return all
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
    .sort()
    .slice(0, LISTED);
}
