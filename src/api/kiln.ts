/** The library: kiln for programs, as a client of the daemon. */
import { resolve } from 'node:path';
import { KilnError } from '../errors.ts';
import type { Connection } from './connection.ts';
import type {
  BuildParameters,
  BuildResult,
  Check,
  Image,
  Sandbox as ListedSandbox,
  Methods,
  OpenSandboxParameters,
  Progress,
  RunParameters,
  RunResult,
  Service,
  Surroundings,
} from './io-kiln.ts';
import { Sandbox } from './sandbox.ts';

/** What a job reports, and what ends it. */
export interface JobOptions {
  /** Ends the job; the signal's reason is thrown. */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  readonly onWarning?: ((warning: string) => void) | undefined;
}

/** One command: `image` (a name, recipe, lock or id) and `argv` are enough. Paths may be relative. */
export interface RunOptions
  extends Omit<RunParameters, 'input' | 'interactive' | 'terminal'>,
    JobOptions {
  /** Standard input; empty by default. */
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

/** A sandbox: `image` is enough. */
export interface OpenOptions extends OpenSandboxParameters, JobOptions {}

/** A build. Paths may be relative. */
export interface BuildOptions extends BuildParameters, JobOptions {
  /** Called when a part of the build begins. */
  readonly onPhase?: ((phase: string) => void) | undefined;
  /** Called with the build's output as it comes. */
  readonly onOutput?: ((chunk: Buffer) => void) | undefined;
  /** In a chain: called when the state of a package changes. */
  readonly onMember?:
    | ((member: { readonly name: string; readonly state: string }) => void)
    | undefined;
}

export interface BuildImageOptions extends JobOptions {
  /** Solve with fresh metadata, ignoring the lock beside the recipe. */
  readonly update?: boolean | undefined;
}

/**
 * A connection to the daemon, made by {@link connect}. All methods throw {@link KilnError}s with the daemon's
 * codes.
 */
export class Kiln implements AsyncDisposable {
  readonly #connection: Connection;
  readonly #open: () => Promise<Connection>;

  constructor(connection: Connection, open: () => Promise<Connection>) {
    this.#connection = connection;
    this.#open = open;
  }

  /** Runs one command in a sandbox of its own. */
  async run(options: RunOptions): Promise<RunOutcome> {
    const { signal, onProgress, onWarning, onStdout, onStderr, input, ...parameters } = options;
    const output = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
    const take = (name: 'stdout' | 'stderr', data: string | undefined) => {
      if (data === undefined) return;
      const chunk = Buffer.from(data, 'base64');
      const on = name === 'stdout' ? onStdout : onStderr;
      if (on === undefined) output[name].push(chunk);
      else on(chunk);
    };
    const { result } = await this.#job(
      'Run',
      {
        ...withPaths(parameters),
        ...(input === undefined ? {} : { input: Buffer.from(input).toString('base64') }),
      },
      { signal, onProgress, onWarning },
      ({ stdout, stderr }) => {
        take('stdout', stdout);
        take('stderr', stderr);
      },
    );
    const { stdout, stderr } = output;
    return { ...needed(result), stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) };
  }

  /**
   * Opens a sandbox for any number of commands, and files in and out. It ends with this process at the latest.
   */
  async open(options: OpenOptions): Promise<Sandbox> {
    const { signal, onProgress, onWarning, ...parameters } = options;
    return await Sandbox.open(this.#open, this.#connection, withPaths(parameters), {
      ...{ signal, onProgress, onWarning },
    });
  }

  /** Builds a source package, a spec, a recipe, or a chain. A failed build is no error: see `exitStatus`. */
  async build(options: BuildOptions): Promise<BuildResult> {
    const { signal, onProgress, onWarning, onPhase, onOutput, onMember, ...parameters } = options;
    const { result } = await this.#job(
      'Build',
      withPaths(parameters),
      { signal, onProgress, onWarning },
      ({ phase, output, member }) => {
        if (phase !== undefined) onPhase?.(phase);
        if (output !== undefined) onOutput?.(Buffer.from(output, 'base64'));
        if (member !== undefined) onMember?.(member);
      },
    );
    return needed(result);
  }

  /** The images of the store, most recently used first. */
  async images(): Promise<readonly Image[]> {
    return (await this.#connection.call('ListImages', {})).images;
  }

  /** Makes an image, unless it exists. */
  async buildImage(image: string, options: BuildImageOptions = {}): Promise<Image> {
    const { update, ...job } = options;
    const { result } = await this.#job('BuildImage', { image: imagePath(image), update }, job);
    return needed(result);
  }

  /** Solves a recipe and writes its lock; returns the lock's path. */
  async lockImage(recipe: string, output?: string, job: JobOptions = {}): Promise<string> {
    const parameters = { recipe: imagePath(recipe), output: absolute(output) };
    return needed((await this.#job('LockImage', parameters, job)).result);
  }

  /** Removes an unused image; returns how many bytes that freed. */
  async removeImage(image: string): Promise<number> {
    return (await this.#connection.call('RemoveImage', { image })).freed;
  }

  /** All sandboxes, oldest first. */
  async sandboxes(): Promise<readonly ListedSandbox[]> {
    return (await this.#connection.call('ListSandboxes', {})).sandboxes;
  }

  /** Destroys a sandbox with everything in it. */
  async kill(sandbox: string): Promise<void> {
    await this.#connection.call('KillSandbox', { sandbox });
  }

  /** All services, or the named ones. */
  async services(names?: readonly string[]): Promise<readonly Service[]> {
    return (await this.#connection.call('ListServices', { names })).services;
  }

  /** Checks this machine, as `kiln doctor` does. */
  async doctor(names?: readonly string[]): Promise<readonly Check[]> {
    return (await this.#connection.call('Doctor', { names })).checks;
  }

  /** Calls a method of the interface; parameters are passed unchanged. */
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

  /** Makes a call on a connection of its own, so that ending the connection ends the job. */
  async #job<Name extends 'Run' | 'Build' | 'BuildImage' | 'LockImage'>(
    method: Name,
    parameters: Methods[Name]['parameters'],
    { signal, onProgress, onWarning }: JobOptions,
    onReply: (reply: Methods[Name]['reply']) => void = () => undefined,
  ): Promise<Methods[Name]['reply']> {
    signal?.throwIfAborted();
    const connection = await this.#open();
    try {
      return await connection.call(method, parameters, {
        signal,
        onReply: (reply) => {
          if (reply.progress !== undefined) onProgress?.(reply.progress);
          if (reply.warning !== undefined) onWarning?.(reply.warning);
          onReply(reply);
        },
      });
    } finally {
      connection.close();
    }
  }
}

/** The result in the last reply of a job. */
function needed<Result>(result: Result | undefined): Result {
  if (result !== undefined) return result;
  throw new KilnError('E_PROTOCOL', 'kilnd ended the call without a result', {
    hint: 'kilnd may be of another version than this library: compare `kiln --version`',
  });
}

function absolute(path: string): string;
function absolute(path: string | undefined): string | undefined;
function absolute(path: string | undefined): string | undefined {
  return path === undefined ? undefined : resolve(path);
}

/** An image, recipe or lock; made absolute if it looks like a path. */
function imagePath(image: string): string {
  return image.includes('/') || /\.(?:ya?ml|json)$/.test(image) ? resolve(image) : image;
}

/** The parameters that are paths of the host. */
interface Paths {
  readonly image?: string | undefined;
  readonly surroundings?: Surroundings | undefined;
  readonly copyIn?: RunParameters['copyIn'];
  readonly resultDirectory?: string | undefined;
  readonly sources?: readonly string[];
  readonly sourceDirectory?: string | undefined;
  readonly lock?: string | undefined;
  readonly signKey?: string | undefined;
  readonly signPassphraseFile?: string | undefined;
  readonly provenanceKey?: string | undefined;
}

/** Makes paths absolute, because the daemon has a working directory of its own. */
function withPaths<Parameters extends Paths>(parameters: Parameters): Parameters {
  const { image, surroundings, copyIn, sources } = parameters;
  const single = [
    'resultDirectory',
    'sourceDirectory',
    'lock',
    'signKey',
    'signPassphraseFile',
    'provenanceKey',
  ] as const;
  const paths = single.flatMap((name) => {
    const path = parameters[name];
    return path === undefined ? [] : [[name, resolve(path)] as const];
  });
  return {
    ...parameters,
    ...Object.fromEntries(paths),
    ...(image === undefined ? {} : { image: imagePath(image) }),
    ...(surroundings === undefined ? {} : { surroundings: surroundingPaths(surroundings) }),
    ...(copyIn === undefined
      ? {}
      : { copyIn: copyIn.map(({ source, target }) => ({ source: keptEnd(source), target })) }),
    ...(sources === undefined
      ? {}
      : { sources: sources.map((source) => (/[/.]/.test(source) ? resolve(source) : source)) }),
  };
}

/** An absolute path with its trailing slash or `/.`, which has a meaning. */
function keptEnd(path: string): string {
  return path.startsWith('/') ? path : `${process.cwd()}/${path}`;
}

function surroundingPaths(surroundings: Surroundings): Surroundings {
  const { binds, secrets, seccomp } = surroundings;
  return {
    ...surroundings,
    ...(binds === undefined
      ? {}
      : { binds: binds.map((bind) => ({ ...bind, source: resolve(bind.source) })) }),
    ...(secrets === undefined
      ? {}
      : { secrets: secrets.map(({ name, file }) => ({ name, file: resolve(file) })) }),
    ...(seccomp !== undefined && /[./]/.test(seccomp) ? { seccomp: resolve(seccomp) } : {}),
  };
}
