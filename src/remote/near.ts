/** The caller's end of `kiln --host`: starts ssh, sends files, passes what the command writes, and takes what it leaves. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { closeSync, constants, mkdirSync, openSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import type { ErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';
import { startProgram } from '../host/process/child-process.ts';
import { KILN_VERSION } from '../host/state/paths.ts';
import { awaitedLater, deferred } from '../promise.ts';
import { encodeFrame, FRAME, onFrames } from '../service/supervisor/frames.ts';
import { type RemoteAddress, sshArguments } from './address.ts';
import { Packer } from './pack.ts';
import { type Root, unpacker } from './unpack.ts';
import {
  ALIVE_EVERY,
  type FarMessage,
  INPUT_WINDOW,
  type NearControl,
  PIECE,
  PROTOCOL,
  REMOTE_FRAME,
  type RemoteStart,
} from './wire.ts';

/** What is kept of ssh's own words, characters. */
const WORDS_MAX = 16 * 1024;

export interface NearOptions {
  readonly address: RemoteAddress;
  readonly start: RemoteStart;
  /** Where the content of each of `start.outputs` goes: folders, which are made, and the only name in them. */
  readonly places: readonly { readonly place: string; readonly only?: string | undefined }[];
  /** Packs what travels. */
  readonly pack: (packer: Packer) => Promise<void>;
  /** Opens standard input, once it is wanted there. */
  readonly openInput: () => Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
  /** The far end's name of a place, and the caller's: messages have the caller's. */
  readonly names: ReadonlyMap<string, string>;
}

/** One command on another machine. */
export class Near {
  readonly #options: NearOptions;
  readonly #ssh: ChildProcessWithoutNullStreams;
  readonly #hello = deferred<Extract<FarMessage, { kiln: string }>>();
  readonly #status = deferred<number>();
  /** Bytes of standard input that are on their way. */
  #unread = 0;
  #folder = '';
  #input: Readable | undefined;
  /** All has come that will; it may still have to be written. */
  #isWhole = false;
  /** The command runs there, or is about to. */
  hasStarted = false;
  #words = '';
  readonly #results: ReturnType<typeof unpacker>;
  readonly #roots: readonly Root[];

  constructor(options: NearOptions) {
    this.#options = options;
    const { address, places, start } = options;
    this.#roots = places.map(({ place, only }) => {
      mkdirSync(place, { recursive: true });
      return { folder: openSync(place, constants.O_RDONLY | constants.O_DIRECTORY), only };
    });
    this.#results = unpacker((first) => this.#roots[start.outputs.indexOf(first)]);
    awaitedLater(this.#results.over).catch((error) => this.#status.reject(error));
    const args = sshArguments(address, 'kiln remote-stdio');
    this.#ssh = startProgram('ssh', args, { stdio: 'pipe' });
    this.#ssh.stdin.on('error', () => undefined);
    this.#ssh.stderr.on('data', (chunk: Buffer) => this.#said(chunk));
    this.#ssh.once('error', (cause) => this.#fail(noSsh(cause)));
    this.#ssh.once('close', (code) => {
      if (!this.#isWhole) this.#fail(this.#explain(code));
    });
    this.#ssh.stdout.on('error', (cause) => this.cut(notKiln(address, cause)));
    onFrames(this.#ssh.stdout, ({ kind, body }) => this.#receive(kind, body));
  }

  /** Runs it to its end; its exit status. @throws KilnError E_REMOTE_SSH and others of docs/remote.md */
  async run(): Promise<number> {
    const { start, address } = this.#options;
    const alive = setInterval(() => this.control({ do: 'alive' }), ALIVE_EVERY);
    try {
      const { kiln, protocol, folder } = await this.#hello.promise;
      if (kiln !== KILN_VERSION || protocol !== PROTOCOL) throw otherVersion(address, kiln);
      this.#folder = folder;
      const packing = this.#send(new Packer());
      await Promise.race([packing, this.#status.promise]);
      await this.#write(FRAME.message, Buffer.from(JSON.stringify(start)));
      this.hasStarted = true;
      this.#readInput();
      return await this.#status.promise;
    } finally {
      clearInterval(alive);
      this.#ssh.stdin.end();
      this.#ssh.kill();
      for (const { folder } of this.#roots) closeSync(folder);
    }
  }

  control(wanted: NearControl): void {
    this.#ssh.stdin.write(encodeFrame(FRAME.control, Buffer.from(JSON.stringify(wanted))));
  }

  /** Ends the connection, and what it has asked for with it. */
  cut(reason: KilnError): void {
    this.#fail(reason);
    this.#ssh.kill();
  }

  #fail(error: unknown): void {
    this.#hello.reject(error);
    this.#status.reject(error);
  }

  async #send(packer: Packer): Promise<void> {
    const { pack } = this.#options;
    const packing = awaitedLater(pack(packer).then(() => packer.end()));
    packing.catch((error) => packer.stream.destroy(error as Error));
    for await (const chunk of packer.stream as AsyncIterable<Buffer>) {
      for (let at = 0; at < chunk.length; at += PIECE) {
        await this.#write(REMOTE_FRAME.archive, chunk.subarray(at, at + PIECE));
      }
    }
    await packing;
    await this.#write(REMOTE_FRAME.archive, Buffer.alloc(0));
  }

  async #write(kind: number, bytes: Buffer): Promise<void> {
    const { stdin } = this.#ssh;
    if (stdin.write(encodeFrame(kind, bytes)) || stdin.destroyed) return;
    await new Promise<void>((resolve) => {
      const go = () => {
        stdin.off('drain', go).off('close', go);
        resolve();
      };
      stdin.on('drain', go).on('close', go);
    });
  }

  #readInput(): void {
    const stdin = this.#options.openInput();
    this.#input = stdin;
    const end = () => this.#ssh.stdin.write(encodeFrame(FRAME.end, Buffer.alloc(0)));
    stdin.on('data', (chunk: Buffer) => {
      this.#unread += chunk.length;
      this.#ssh.stdin.write(encodeFrame(FRAME.data, chunk));
      if (this.#unread >= INPUT_WINDOW) stdin.pause();
    });
    stdin.once('end', end).once('error', end);
  }

  #receive(kind: number, body: Buffer): void {
    const { stdout, stderr } = this.#options;
    if (kind === FRAME.data) this.#pass(stdout, body);
    else if (kind === FRAME.errorData) this.#pass(stderr, this.#renamed(body));
    else if (kind === REMOTE_FRAME.archive) this.#pass(this.#results.stream, body);
    else if (kind === FRAME.message) {
      const message = this.#read(body);
      if (message === undefined) return;
      if ('kiln' in message) this.#hello.resolve(message);
      else if ('failed' in message) {
        const { code, message: text, hint } = message.failed;
        const where = `on ${this.#options.address.host}: ${text}`;
        this.#fail(new KilnError(code as ErrorCode, where, hint === undefined ? {} : { hint }));
      } else if ('taken' in message) {
        this.#unread -= message.taken;
        if (this.#unread < INPUT_WINDOW) this.#input?.resume();
      } else this.#end(message.status);
    }
  }

  #read(body: Buffer): FarMessage | undefined {
    try {
      return JSON.parse(body.toString()) as FarMessage;
    } catch (cause) {
      this.cut(notKiln(this.#options.address, cause));
      return undefined;
    }
  }

  /** Everything has come: what is left is to write it. */
  #end(status: number): void {
    this.#isWhole = true;
    this.#results.stream.end();
    this.#results.over.then(
      () => this.#status.resolve(status),
      (error) => this.#status.reject(error),
    );
  }

  /** Writes, and reads no more while there is no room. */
  #pass(to: Writable, bytes: Buffer): void {
    if (to.destroyed || to.write(bytes)) return;
    const { stdout } = this.#ssh;
    stdout.pause();
    const go = () => {
      to.off('drain', go).off('close', go);
      stdout.resume();
    };
    to.on('drain', go).on('close', go);
  }

  /** What the far end says of its own folder is the caller's own names. */
  #renamed(bytes: Buffer): Buffer {
    if (this.#folder === '' || !bytes.includes(this.#folder)) return Buffer.from(bytes);
    let text = bytes.toString('latin1');
    for (const [far, near] of this.#options.names) {
      text = text.replaceAll(`${this.#folder}/${far}`, Buffer.from(near).toString('latin1'));
    }
    return Buffer.from(text, 'latin1');
  }

  /** ssh's own words, which are the caller's to read at once. */
  #said(chunk: Buffer): void {
    this.#words = (this.#words + chunk.toString()).slice(-WORDS_MAX);
    this.#options.stderr.write(chunk);
  }

  /** Why a connection ended that had not come to its end. */
  #explain(code: number | null): KilnError {
    const { address } = this.#options;
    const { host } = address;
    if (this.#folder !== '') {
      return new KilnError(
        'E_REMOTE_LOST',
        `the connection to ${host} ended before the command did`,
        {
          hint: 'the command was ended there, unless it was detached; `kiln --host … ps` shows what goes on',
        },
      );
    }
    if (/host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED/i.test(this.#words)) {
      return new KilnError(
        'E_REMOTE_HOST_KEY',
        `${host} has not the host key that ssh knows it by`,
        {
          hint: `\`ssh ${host}\` by hand says more; take its key only if you know it: ssh-keygen -R, ssh-keyscan`,
        },
      );
    }
    if (code === 127 || /not found/.test(this.#words)) {
      return new KilnError('E_REMOTE_KILN', `${host} has no kiln that ssh finds`, {
        hint: `install it there: \`ssh ${host} kiln --version\` has to work`,
      });
    }
    if (/unknown command/.test(this.#words)) {
      return new KilnError('E_REMOTE_VERSION', `the kiln of ${host} is too old for --host`, {
        hint: `this is ${KILN_VERSION}: install the same there`,
      });
    }
    return new KilnError('E_REMOTE_SSH', `ssh to ${host} ended (status ${code ?? 'unknown'})`, {
      hint: `\`ssh ${host} true\` has to work without a question`,
    });
  }
}

function noSsh(cause: Error): KilnError {
  return new KilnError('E_REMOTE_SSH', 'ssh cannot be started', {
    hint: 'install it: Debian has openssh-client, Fedora openssh-clients',
    cause,
  });
}

function notKiln({ host }: RemoteAddress, cause: unknown): KilnError {
  return new KilnError('E_PROTOCOL', `${host} sent what no kiln sends`, {
    hint: 'the shell there must print nothing when ssh runs a command: look at its ~/.bashrc',
    cause,
  });
}

function otherVersion({ host }: RemoteAddress, theirs: string): KilnError {
  return new KilnError(
    'E_REMOTE_VERSION',
    `${host} has kiln ${theirs}, and this is ${KILN_VERSION}`,
    {
      hint: 'install the same version at both ends',
    },
  );
}
