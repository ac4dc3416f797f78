/** What the tools of `kiln mcp` do: calls of the API, as whoever started it, and the sandboxes that it holds open. */
import { once } from 'node:events';
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
import { dirname, join, relative, resolve } from 'node:path';
import { connect } from '../../api/connect.ts';
import type { Copy, Failure, Surroundings } from '../../api/io-kiln.ts';
import type { Kiln } from '../../api/kiln.ts';
import type { Sandbox } from '../../api/sandbox.ts';
import { counted } from '../../counted.ts';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt, unlessErrno } from '../../host/calls/libc.ts';
import { BENEATH, openat2 } from '../../host/files/at.ts';
import { statePaths } from '../../host/state/paths.ts';
import { isImageName } from '../../image/find.ts';
import type { LimitValues } from '../../options/sandbox.ts';
import { findRecipe, HOST_IMAGE } from '../../recipe/named.ts';
import type { Result } from '../../result/schema.ts';
import { timeOf } from '../../sandbox/door/supervise.ts';
import type { Caller } from '../caller/caller.ts';
import { describeError, exitStatus, limitText, printEgressRefusals } from '../output/errors.ts';

/** Bytes of each output of a command, and of a file, that an assistant gets: it reads all of them. */
const SHOWN = 64 * 1024;
const FILE_MAX = 1 << 20;

/** Changes that a diff lists. */
const CHANGES_SHOWN = 1000;

/** Checkpoints of a sandbox, which goes on above none of them. */
const CHECKPOINTS_MAX = 32;

/** Sandboxes that are open at a time. */
const OPEN_MAX = 8;

/** What whoever started the server has given, as the API has it. */
export interface McpSettings {
  readonly image: string | undefined;
  readonly resultdir: string;
  readonly sources: string;
  /** Those of time are for each command, also for one in an open sandbox. */
  readonly limits: LimitValues;
  readonly env: Readonly<Record<string, string>>;
  readonly sandbox: Wanted;
}

/** Of every sandbox. */
interface Wanted {
  readonly surroundings: Surroundings;
  readonly user: string | undefined;
  readonly copyIn: readonly Copy[];
}

export interface Ended {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface WantedRun {
  readonly argv: readonly string[];
  readonly image: string | undefined;
  readonly input: string;
  readonly artifacts: readonly string[];
  readonly resultDirectory: string | undefined;
}

interface Outcome {
  readonly exitStatus: number;
  readonly limit?: string | undefined;
  readonly failure?: Failure | KilnError | undefined;
}

interface Opened {
  readonly kiln: Kiln;
  readonly sandbox: Sandbox;
  readonly checkpoints: Set<string>;
}

export class Tools {
  readonly #caller: Caller;
  readonly #settings: McpSettings;
  readonly #results: string;
  #realResults: string | undefined;
  readonly #sources: string;
  readonly #open = new Map<string, Opened>();

  constructor(caller: Caller, settings: McpSettings) {
    this.#caller = caller;
    this.#settings = settings;
    this.#results = resolve(caller.cwd(), settings.resultdir);
    this.#sources = resolve(caller.cwd(), settings.sources);
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#open.keys()].map((id) => this.closeSandbox(id)));
  }

  async run(wanted: WantedRun, signal: AbortSignal): Promise<Ended> {
    const { limits, env, sandbox } = this.#settings;
    return await this.#ending(async ({ stdout, stderr }) => {
      await using kiln = await connect();
      const { ended, failure, report } = await kiln.run({
        ...{ ...wanted, ...sandbox, ...timeOf(limits), env, signal },
        image: await this.#imageOf(wanted.image, kiln),
        onStdout: stdout.add,
        onStderr: stderr.add,
        onWarning: (text) => stderr.say(`kiln: warning: ${text}\n`),
      });
      printEgressRefusals((report as Partial<Result>).egress ?? [], stderr);
      return { ...ended, failure };
    });
  }

  async build(file: string, image: string | undefined, results: string, signal: AbortSignal) {
    const { limits } = this.#settings;
    return await this.#ending(async ({ stdout, stderr }) => {
      await using kiln = await connect();
      return await kiln.build({
        ...{ ...limits, sources: [file], resultDirectory: results, signal },
        image: await this.#imageOf(image, kiln),
        sourceDirectory: file.endsWith('.spec') ? dirname(file) : undefined,
        onOutput: stdout.add,
        onPhase: (phase) => stderr.say(`kiln: ${phase}\n`),
        onWarning: (text) => stderr.say(`kiln: warning: ${text}\n`),
      });
    });
  }

  /** A folder of its own for what a call leaves. */
  async makeResults(): Promise<string> {
    await this.#caller.paths.results(this.#results);
    return mkdtempSync(join(this.#resultFolder(), 'call-'));
  }

  /** An assistant chooses among images that there are: a recipe by its name or path could read the caller's files. */
  async #imageOf(image: string | undefined, kiln: Kiln): Promise<string | undefined> {
    if (image === undefined || image === this.#settings.image) return this.#settings.image;
    if (image === HOST_IMAGE) return image;
    const images = await kiln.images();
    const found = images.find(({ id, names }) => names?.includes(image) || id === image);
    if (found === undefined) throw new Error(`there is no image ${image}`);
    return found.id;
  }

  /** The folder as it was at first: a sandbox that it is bound to may put a link in its place. */
  #resultFolder(): string {
    const real = unlessErrno(['ENOENT'], () => realpathSync(this.#results));
    if (real === undefined) {
      const how = 'run_command with `artifacts` and build_package make it';
      throw new Error(`there is no file yet: ${this.#results} is missing; ${how}`);
    }
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
    using opened = inside(this.#sources, name, 'the server was started with this --sources');
    return readlinkSync(`/proc/self/fd/${opened.fd}`);
  }

  artifact(name: string): Buffer {
    using opened = inside(
      this.#resultFolder(),
      name,
      'name it as the call that made it has listed it',
    );
    const bytes = Buffer.alloc(FILE_MAX);
    return bytes.subarray(0, readSync(opened.fd, bytes, 0, FILE_MAX, 0));
  }

  async openSandbox(named: string | undefined): Promise<string> {
    if (this.#open.size >= OPEN_MAX) throw new Error(`${OPEN_MAX} sandboxes are open: close one`);
    const kiln = await connect();
    try {
      const image = (await this.#imageOf(named, kiln)) ?? HOST_IMAGE;
      const sandbox = await kiln.open({ ...this.#settings.sandbox, image });
      this.#open.set(sandbox.id, { kiln, sandbox, checkpoints: new Set() });
      const forget = () => {
        this.#open.delete(sandbox.id);
        kiln.close();
      };
      sandbox.closed.then(forget, forget);
      return sandbox.id;
    } catch (error) {
      kiln.close();
      throw error;
    }
  }

  /** A command in an open sandbox. @throws what {@link #own} throws */
  async execute(
    id: string,
    [program = '', ...args]: readonly string[],
    input: string,
    signal: AbortSignal,
  ): Promise<Ended> {
    const { sandbox } = this.#own(id);
    const { env, limits } = this.#settings;
    return await this.#ending(async ({ stdout, stderr }) => {
      const command = sandbox.spawn(program, args, { env, timeout: limits.timeout, signal });
      command.stdout.on('data', stdout.add);
      command.stderr.on('data', stderr.add);
      // The command may not read its input.
      command.stdin.on('error', () => undefined).end(input);
      await once(command, 'close');
      return command.ended ?? { exitStatus: 0 };
    });
  }

  /** @returns `left`: bytes of the file that are not in `bytes` */
  async readFile(id: string, path: string): Promise<{ bytes: Buffer; left: number }> {
    const { data, size } = await this.#own(id).kiln.call('ReadFile', { sandbox: id, path });
    const bytes = Buffer.from(data, 'base64');
    return { bytes, left: size - bytes.length };
  }

  /** Whether there is what -r names: a server that can run nothing is to say so at once. @throws KilnError E_IMAGE_MISSING */
  async checkImage(): Promise<void> {
    const { image } = this.#settings;
    // Recipes and locks that are named by a path are read when they are used.
    if (image === undefined || image === HOST_IMAGE || !isImageName(image)) return;
    if (findRecipe(statePaths(this.#caller.env), image) !== undefined) return;
    await using kiln = await connect();
    const images = await kiln.images();
    if (images.some(({ id, names }) => id.startsWith(image) || names?.includes(image))) return;
    throw new KilnError('E_IMAGE_MISSING', `there is no image and no recipe called ${image}`, {
      hint: '`kiln image ls` lists images; the server would have nothing to run commands in',
    });
  }

  async writeFile(id: string, path: string, content: string): Promise<void> {
    await this.#own(id).sandbox.writeFile(path, content);
  }

  /** What an open sandbox has written to its root, as it is now. @throws what {@link #own} throws */
  async checkpoint(id: string): Promise<string> {
    const { kiln, checkpoints } = this.#own(id);
    if (checkpoints.size >= CHECKPOINTS_MAX) {
      throw new Error(`${CHECKPOINTS_MAX} checkpoints are the most of a sandbox`);
    }
    const made = await kiln.snapshot(id);
    checkpoints.add(made);
    return made;
  }

  /** Ends what runs in the sandbox. @throws what {@link #own} throws */
  async rollback(id: string, checkpoint: string): Promise<void> {
    const { kiln, checkpoints } = this.#own(id);
    requireOwn(checkpoints, checkpoint);
    await kiln.rollback(id, { snapshot: checkpoint, kill: true });
  }

  /** What has changed since the checkpoint, or since the sandbox was opened. @throws what {@link #own} throws */
  async diff(id: string, checkpoint: string | undefined): Promise<string> {
    const { kiln, checkpoints } = this.#own(id);
    if (checkpoint !== undefined) requireOwn(checkpoints, checkpoint);
    const now = await kiln.snapshot(id);
    try {
      const { changes, truncated } = await kiln.diff(now, { against: checkpoint });
      const shown = changes.slice(0, CHANGES_SHOWN);
      const lines = shown.map(({ change, path }) => `${change} ${JSON.stringify(path)}`);
      if (truncated || changes.length > shown.length) lines.push('[more changes are left out]');
      const patch = await kiln.patch(now, { against: checkpoint });
      const left = patch.length - SHOWN;
      const end = left > 0 ? [`[${counted(left, 'byte')} left out]`] : [];
      return [...lines, '', patch.subarray(0, SHOWN).toString(), ...end].join('\n');
    } finally {
      await kiln.removeSnapshot(now);
    }
  }

  /** A failure of kiln's has the status that `kiln run` has for it. */
  async #ending(act: (output: Record<'stdout' | 'stderr', Tail>) => Promise<Outcome>) {
    const output = { stdout: new Tail(), stderr: new Tail() };
    const {
      exitStatus: status,
      limit,
      failure,
    } = await act(output).catch((error: unknown) => {
      if (!(error instanceof KilnError)) throw error;
      return { exitStatus: exitStatus(error), limit: undefined, failure: error };
    });
    const { stdout, stderr } = output;
    if (limit !== undefined) stderr.say(`kiln: ${limitText(limit, this.#settings.limits)}\n`);
    if (failure instanceof KilnError) stderr.say(describeError(failure));
    else if (failure !== undefined) {
      const { code, message, hint } = failure;
      stderr.say(describeError(new KilnError(code as ErrorCode, message, { hint })));
    }
    return { status, stdout: `${stdout}`, stderr: `${stderr}` };
  }

  /** @throws Error for one that this server has not opened: others are not the assistant's */
  #own(id: string): Opened {
    const opened = this.#open.get(id);
    if (opened === undefined)
      throw new Error(`there is no open sandbox ${id}: open_sandbox opens one`);
    return opened;
  }

  async closeSandbox(id: string): Promise<void> {
    const { sandbox } = this.#own(id);
    this.#open.delete(id);
    await sandbox.close();
  }
}

/** @throws Error for another snapshot of the caller's: what is in it is not the assistant's to see */
function requireOwn(checkpoints: ReadonlySet<string>, checkpoint: string): void {
  if (checkpoints.has(checkpoint)) return;
  throw new Error(`there is no checkpoint ${checkpoint} of this sandbox: checkpoint makes one`);
}

/**
 * A file of a folder, where no link leads out of it: what lies there may come from a sandbox.
 * @throws Error which is the same for all that is no such file: an assistant learns nothing of the host's other paths
 */
function inside(
  directory: string,
  name: string,
  hint: string,
): { readonly fd: number } & Disposable {
  const opened = attempt(() => openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY));
  using folder = opened === undefined ? undefined : closing(opened);
  const fd = folder && attempt(() => openat2(folder.fd, name, BENEATH));
  const isFile = fd !== undefined && fstatSync(fd).isFile();
  if (fd !== undefined && isFile) return closing(fd);
  if (fd !== undefined) closeSync(fd);
  throw new Error(`there is no file ${name} below ${directory}: ${hint}`);
}

/** The end of an output, by which a failure is told. */
class Tail {
  #bytes = Buffer.alloc(0);
  #left = 0;

  readonly add = (chunk: Buffer): void => {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    if (this.#bytes.length <= 2 * SHOWN) return;
    this.#left += this.#bytes.length - SHOWN;
    this.#bytes = this.#bytes.subarray(-SHOWN);
  };

  say(text: string): void {
    this.add(Buffer.from(text));
  }

  toString(): string {
    const shown = this.#bytes.subarray(-SHOWN);
    const out = this.#left + this.#bytes.length - shown.length;
    return `${out > 0 ? `[${counted(out, 'byte')} left out]\n` : ''}${shown}`;
  }
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
