/** The library: kiln for programs, as a client of the daemon. */
import { resolve } from 'node:path';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import type { Connection, JobOptions } from './connection.ts';
import { checkOptions, checkTypes } from './interface.ts';
import type {
  ApplyParameters,
  BuildParameters,
  BuildReply,
  BuildResult,
  Change,
  Check,
  DiffParameters,
  DiffReply,
  ForkParameters,
  Image,
  Sandbox as ListedSandbox,
  Methods,
  OpenSandboxParameters,
  RollbackParameters,
  RunParameters,
  RunResult,
  Service,
  SnapshotParameters,
  Surroundings,
} from './io-kiln.ts';
import { PIECE, Sandbox } from './sandbox.ts';

/**
 * One command: `image` (a name, recipe, lock or id) and `argv` are enough. Paths may be relative. What the call has
 * beside, io.kiln.varlink says: the library itself feeds its input.
 */
export interface RunOptions
  extends Omit<RunParameters, 'input' | 'interactive' | 'terminal'>,
    JobOptions {
  readonly input?: string | Uint8Array | undefined;
  /** Called with standard output as it comes; `stdout` of the result is empty then. */
  readonly onStdout?: ((chunk: Buffer) => void) | undefined;
  readonly onStderr?: ((chunk: Buffer) => void) | undefined;
}

/** The outcome of a command. A failed command is no error: see `ended`. */
export interface RunOutcome extends RunResult {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

export interface OpenOptions extends OpenSandboxParameters, JobOptions {}

export interface BuildOptions extends BuildParameters, JobOptions {
  readonly onPhase?: ((phase: string) => void) | undefined;
  readonly onOutput?: ((chunk: Buffer) => void) | undefined;
  readonly onMember?: ((member: NonNullable<BuildReply['member']>) => void) | undefined;
}

export interface BuildImageOptions extends JobOptions {
  /** Solve with fresh metadata, ignoring the lock beside the recipe. */
  readonly update?: boolean | undefined;
  /** Of a recipe's packages; this machine's unless given. */
  readonly arch?: string | undefined;
}

export type LayerOptions = Omit<DiffParameters, 'of' | 'patch'>;

export interface Difference {
  readonly changes: readonly Change[];
  /** There are more: name paths to see the rest. */
  readonly truncated: boolean;
}

/** A connection to the daemon, made by {@link connect}. All methods throw {@link KilnError}s. */
export class Kiln implements AsyncDisposable {
  readonly #connection: Connection;
  readonly #open: () => Promise<Connection>;
  readonly #withFiles: () => Promise<Connection>;

  /** `withFiles` opens a connection whose calls may name files. */
  constructor(
    connection: Connection,
    { open, withFiles }: Readonly<Record<'open' | 'withFiles', () => Promise<Connection>>>,
  ) {
    this.#connection = connection;
    this.#open = open;
    this.#withFiles = withFiles;
  }

  async run(options: RunOptions): Promise<RunOutcome> {
    checkOptions(options);
    const { signal, onProgress, onWarning, onStdout, onStderr, input, ...parameters } = options;
    const output = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
    const take = (name: 'stdout' | 'stderr', data: string | undefined) => {
      if (data === undefined) return;
      const chunk = Buffer.from(data, 'base64');
      const on = name === 'stdout' ? onStdout : onStderr;
      if (on === undefined) output[name].push(chunk);
      else on(chunk);
    };
    const bytes = input === undefined ? undefined : Buffer.from(input);
    const first = bytes?.toString('base64', 0, PIECE);
    const rest = bytes?.subarray(PIECE) ?? Buffer.alloc(0);
    const more = rest.length > 0 ? { interactive: true } : {};
    const wanted = { ...withPaths('Run', parameters), ...defined({ input: first }), ...more };
    if (rest.length > 0 && namesFiles(wanted) && this.#withFiles !== this.#open)
      throw tooLongError();
    const lost = new AbortController();
    const signals = signal === undefined ? [lost.signal] : [signal, lost.signal];
    const { result } = await this.#job(
      'Run',
      wanted,
      { signal: AbortSignal.any(signals), onProgress, onWarning },
      ({ started, stdout, stderr }) => {
        if (started !== undefined && rest.length > 0)
          this.#feed(started.process, rest).catch((error) => lost.abort(error));
        take('stdout', stdout);
        take('stderr', stderr);
      },
    );
    const { stdout, stderr } = output;
    return { ...needed(result), stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) };
  }

  /** For any number of commands, and files in and out. It ends with this process at the latest. */
  async open(options: OpenOptions): Promise<Sandbox> {
    checkOptions(options);
    const { signal, onProgress, onWarning, ...parameters } = options;
    const wanted = withPaths('OpenSandbox', parameters);
    signal?.throwIfAborted();
    const own = await this.#openFor(wanted);
    const job = { signal, onProgress, onWarning };
    return await Sandbox.open(this.#open, this.#connection, own, wanted, job);
  }

  /** Builds a source package, a spec, a recipe, or a chain. A failed build is no error: see `exitStatus`. */
  async build(options: BuildOptions): Promise<BuildResult> {
    checkOptions(options);
    const { signal, onProgress, onWarning, onPhase, onOutput, onMember, ...parameters } = options;
    const { result } = await this.#job(
      'Build',
      withPaths('Build', parameters),
      { signal, onProgress, onWarning },
      ({ phase, output, member }) => {
        if (phase !== undefined) onPhase?.(phase);
        if (output !== undefined) onOutput?.(Buffer.from(output, 'base64'));
        if (member !== undefined) onMember?.(member);
      },
    );
    return needed(result);
  }

  async images(): Promise<readonly Image[]> {
    return (await this.#connection.call('ListImages', {})).images;
  }

  async buildImage(image: string, options: BuildImageOptions = {}): Promise<Image> {
    checkOptions(options);
    const { update, arch, ...job } = options;
    checkTypes('BuildImage', { image, update, arch });
    const parameters = { image: imagePath(image), update, arch };
    const { result } = await this.#job('BuildImage', parameters, job);
    return needed(result);
  }

  /** Solves a recipe and writes its lock; returns the lock's path. */
  async lockImage(recipe: string, output?: string, job: JobOptions = {}): Promise<string> {
    checkOptions(job);
    checkTypes('LockImage', { recipe, output });
    const lock = output && absolute(output);
    const parameters = { recipe: imagePath(recipe), output: lock };
    return needed((await this.#job('LockImage', parameters, job)).result);
  }

  /** Removes an unused image; returns how many bytes that freed. */
  async removeImage(image: string): Promise<number> {
    return (await this.#connection.call('RemoveImage', { image })).freed;
  }

  async sandboxes(): Promise<readonly ListedSandbox[]> {
    return (await this.#connection.call('ListSandboxes', {})).sandboxes;
  }

  async kill(sandbox: string): Promise<void> {
    await this.#connection.call('KillSandbox', { sandbox });
  }

  /** Keeps what a kept sandbox has written to its root; returns the id of the snapshot. */
  async snapshot(
    sandbox: string,
    options: Omit<SnapshotParameters, 'sandbox'> = {},
  ): Promise<string> {
    return (await this.#connection.call('Snapshot', { ...options, sandbox })).snapshot;
  }

  async snapshots(): Promise<Methods['ListSnapshots']['reply']['snapshots']> {
    return (await this.#connection.call('ListSnapshots', {})).snapshots;
  }

  async removeSnapshot(snapshot: string): Promise<void> {
    await this.#connection.call('RemoveSnapshot', { snapshot });
  }

  /** Makes kept sandboxes with the files of a snapshot, or of a kept or open sandbox; returns their ids. */
  async forks(
    from: string,
    options: Omit<ForkParameters, 'from'> = {},
  ): Promise<readonly string[]> {
    return (await this.#connection.call('Fork', { ...options, from })).sandboxes;
  }

  /** Makes an image of a snapshot, or of what a sandbox has written. */
  async commitImage(from: string, name: string): Promise<Image> {
    return (await this.#connection.call('CommitImage', { from, name })).image;
  }

  /** Makes the root of a kept sandbox what it was; returns the id of the snapshot. */
  async rollback(
    sandbox: string,
    options: Omit<RollbackParameters, 'sandbox'> = {},
  ): Promise<string> {
    return (await this.#connection.call('Rollback', { ...options, sandbox })).snapshot;
  }

  /** What a kept sandbox has changed in its root or at `target`, or what a snapshot has. */
  async diff(of: string, options: LayerOptions = {}): Promise<Difference> {
    const changes: Change[] = [];
    const take = (reply: DiffReply) => {
      changes.push(...(reply.changes ?? []));
    };
    const last = await this.#inLayer('Diff', { ...options, of }, take);
    take(last);
    return { changes, truncated: last.truncated === true };
  }

  /** The same as a patch for `git apply`, in which binary files are named only. */
  async patch(of: string, options: LayerOptions = {}): Promise<Buffer> {
    const pieces: Buffer[] = [];
    const take = ({ patch = '' }: DiffReply) => {
      pieces.push(Buffer.from(patch, 'base64'));
    };
    take(await this.#inLayer('Diff', { ...options, of, patch: true }, take));
    return Buffer.concat(pieces);
  }

  /** Writes what a kept sandbox has changed in a folder bound with cow into that folder. See `left` of what it returns. */
  async apply(
    sandbox: string,
    target: string,
    options: Omit<ApplyParameters, 'sandbox' | 'target'> = {},
  ): Promise<Methods['Apply']['reply']> {
    return await this.#inLayer('Apply', { ...options, sandbox, target });
  }

  /** Throws away what a kept sandbox has changed in a folder bound with cow. */
  async discard(sandbox: string, target: string): Promise<void> {
    await this.#inLayer('Discard', { sandbox, target });
  }

  async services(names?: readonly string[]): Promise<readonly Service[]> {
    return (await this.#connection.call('ListServices', { names })).services;
  }

  async doctor(names?: readonly string[]): Promise<readonly Check[]> {
    return (await this.#connection.call('Doctor', { names })).checks;
  }

  async call<Name extends keyof Methods>(
    method: Name,
    parameters: Methods[Name]['parameters'],
  ): Promise<Methods[Name]['reply']> {
    return await this.#connection.call(method, parameters);
  }

  /** Ends the connection. Open sandboxes have connections of their own. */
  close(): void {
    this.#connection.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** What one message has no room for. A command that has ended, or reads no more, does without. */
  async #feed(process: string, bytes: Buffer): Promise<void> {
    using connection = await this.#open();
    try {
      for (let at = 0; at < bytes.length; at += PIECE) {
        const data = bytes.toString('base64', at, at + PIECE);
        await connection.call('SendInput', { process, data, end: at + PIECE >= bytes.length });
      }
    } catch (error) {
      const code = error instanceof KilnError ? error.code : '';
      if (code !== 'E_INPUT' && code !== 'E_NO_PROCESS') throw error;
    }
  }

  async #openFor(parameters: NamesFiles): Promise<Connection> {
    return await (namesFiles(parameters) ? this.#withFiles() : this.#open());
  }

  /** A folder that is bound is opened with the rights of this process. */
  async #inLayer<Name extends 'Diff' | 'Apply' | 'Discard'>(
    method: Name,
    parameters: Methods[Name]['parameters'],
    onReply?: (reply: Methods[Name]['reply']) => void,
  ): Promise<Methods[Name]['reply']> {
    const { target = '/' } = parameters;
    using connection = await (target === '/' ? this.#open() : this.#withFiles());
    return await connection.call(method, parameters, { onReply });
  }

  /** On a connection of its own: ending it ends the job. */
  async #job<Name extends 'Run' | 'Build' | 'BuildImage' | 'LockImage'>(
    method: Name,
    parameters: Methods[Name]['parameters'],
    { signal, onProgress, onWarning }: JobOptions,
    onReply: (reply: Methods[Name]['reply']) => void = () => undefined,
  ): Promise<Methods[Name]['reply']> {
    signal?.throwIfAborted();
    using connection = await this.#openFor(parameters);
    return await connection.call(method, parameters, {
      signal,
      onReply: (reply) => {
        if (reply.progress !== undefined) onProgress?.(reply.progress);
        if (reply.warning !== undefined) onWarning?.(reply.warning);
        onReply(reply);
      },
    });
  }
}

/** kilnd does not know what `kiln varlink` has started. */
function tooLongError(): KilnError {
  return new KilnError('E_ARGUMENT', 'input: more than 1 MiB, in a call that names files', {
    hint: 'bind a file with it, or copy one in: copyIn',
  });
}

function needed<Result>(result: Result | undefined): Result {
  if (result !== undefined) return result;
  throw new KilnError('E_PROTOCOL', 'kilnd ended the call without a result', {
    hint: 'kilnd may be of another version than this library: compare `kiln --version`',
  });
}

function imagePath(image: string): string {
  return image.includes('/') || /\.(?:ya?ml|json)$/.test(image) ? resolve(image) : image;
}

const SINGLE = [
  ...(['resultDirectory', 'sourceDirectory', 'lock'] as const),
  ...(['signKey', 'signPassphraseFile', 'provenanceKey'] as const),
];

type PathFields = Pick<RunParameters, 'image' | 'surroundings' | 'copyIn'> &
  Pick<BuildParameters, (typeof SINGLE)[number] | 'sources'>;
type Paths = { readonly [Name in keyof PathFields]?: PathFields[Name] | undefined };

type NamesFiles = Paths & { readonly recipe?: string };

/** All its paths are absolute: see withPaths(). */
function namesFiles(parameters: NamesFiles): boolean {
  const { image, surroundings = {}, copyIn = [], resultDirectory, sources } = parameters;
  const { binds = [], secrets = [], seccomp = '', kernel } = surroundings;
  const paths = [image ?? '', seccomp].some((name) => name.includes('/'));
  const given = [resultDirectory, sources, kernel, ...binds, ...secrets, ...copyIn];
  return paths || 'recipe' in parameters || given.some((value) => value !== undefined);
}

/**
 * The daemon has a working directory of its own.
 * @throws KilnError E_ARGUMENT for what is not of its type: JavaScript's callers have no compiler that says so
 */
function withPaths<Parameters extends Paths>(
  method: 'Run' | 'OpenSandbox' | 'Build',
  parameters: Parameters,
): Parameters {
  checkTypes(method, parameters);
  const { image, surroundings, copyIn, sources } = parameters;
  const paths = SINGLE.flatMap((name) => {
    const path = parameters[name];
    return path === undefined ? [] : [[name, absolute(path)] as const];
  });
  return {
    ...parameters,
    ...Object.fromEntries(paths),
    ...defined({
      image: image && imagePath(image),
      surroundings: surroundings && surroundingPaths(surroundings),
      copyIn: copyIn?.map(({ source, target }) => ({ source: keptEnd(source), target })),
      sources: sources?.map((source) => (/[/.]/.test(source) ? resolve(source) : source)),
    }),
  };
}

/** An empty path, as of a variable that is not set, is left for kilnd to refuse. */
function absolute(path: string): string {
  return path && resolve(path);
}

/** A trailing slash or `/.` has a meaning. */
function keptEnd(path: string): string {
  return path === '' || path.startsWith('/') ? path : `${process.cwd()}/${path}`;
}

function surroundingPaths(surroundings: Surroundings): Surroundings {
  const { binds, secrets, seccomp, kernel } = surroundings;
  return {
    ...surroundings,
    ...defined({
      binds: binds?.map((bind) => ({ ...bind, source: absolute(bind.source) })),
      secrets: secrets?.map(({ name, file }) => ({ name, file: absolute(file) })),
      kernel: kernel && absolute(kernel),
      seccomp: seccomp !== undefined && /[./]/.test(seccomp) ? resolve(seccomp) : undefined,
    }),
  };
}
