import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { closeSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import type { ErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';
import { type HeldPath, openFolder } from '../host/files/held.ts';
import { startProgram } from '../host/process/child-process.ts';
import { pass } from '../host/sockets/back-pressure.ts';
import { encodeFrame, FRAME, onFrames, sendMessage } from '../host/sockets/frames.ts';
import { KILN_VERSION } from '../host/state/paths.ts';
import { awaitedLater, deferred } from '../promise.ts';
import { Packer, sendArchive } from './pack.ts';
import { type Root, unpacker } from './unpack.ts';
import {
  ALIVE_EVERY,
  ARCHIVE_FRAME,
  type FarMessage,
  INPUT_WINDOW,
  type NearControl,
  PROTOCOL,
  type RemoteAddress,
  type RemoteStart,
  sshArguments,
} from './wire.ts';

/** What is kept of ssh's own words, characters. */
const WORDS_MAX = 16 * 1024;

export interface NearOptions {
  readonly address: RemoteAddress;
  readonly start: RemoteStart;
  readonly places: readonly { readonly folder: HeldPath; readonly only?: string | undefined }[];
  readonly pack: (packer: Packer) => Promise<void>;
  readonly openInput: () => Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
  readonly names: ReadonlyMap<string, string>;
}

export class Near {
  readonly #options: NearOptions;
  readonly #ssh: ChildProcessWithoutNullStreams;
  readonly #hello = deferred<Extract<FarMessage, { kiln: string }>>();
  readonly #status = deferred<number>();
  /** Bytes of standard input that are on their way. */
  #unread = 0;
  #folder = '';
  #input: Readable | undefined;
  #isWhole = false;
  hasStarted = false;
  #words = '';
  readonly #results: ReturnType<typeof unpacker>;
  readonly #roots: readonly Root[];

  constructor(options: NearOptions) {
    this.#options = options;
    const { address, places, start } = options;
    this.#roots = places.map(({ folder, only }) => ({ folder: openFolder(folder), only }));
    this.#results = unpacker((first) => this.#roots[start.outputs.indexOf(first)]);
    awaitedLater(this.#results.over).catch((error) => this.#status.reject(error));
    const args = sshArguments(address, 'kiln remote-stdio');
    this.#ssh = startProgram('ssh', args, { stdio: 'pipe' });
    this.#ssh.stdin.on('error', () => undefined);
    this.#ssh.stderr.on('data', (chunk: Buffer) => this.#said(chunk));
    this.#ssh.once('error', (cause) => this.#fail(noSshError(cause)));
    this.#ssh.once('close', (code) => {
      if (!this.#isWhole) this.#fail(this.#exitError(code));
    });
    this.#ssh.stdout.on('error', (cause) => this.cut(notKilnError(address, cause)));
    onFrames(this.#ssh.stdout, ({ kind, body }) => this.#receive(kind, body));
  }

  /** It ends with the far end; where ssh_config(5) has it keep the connection, it becomes what keeps it. */
  #leaveSsh(): void {
    if (!this.#isWhole) {
      this.#ssh.kill();
      return;
    }
    // What keeps a connection holds these as long as it lives.
    this.#ssh.stdout.destroy();
    this.#ssh.stderr.destroy();
    this.#ssh.unref();
  }

  #watchOutputs(): void {
    const { stdout, stderr } = this.#options;
    for (const [output, stream] of [[1, stdout] as const, [2, stderr] as const]) {
      stream.on('error', () => this.control({ do: 'close', output }));
    }
  }

  async run(): Promise<number> {
    const { start, address } = this.#options;
    const alive = setInterval(() => this.control({ do: 'alive' }), ALIVE_EVERY);
    try {
      const { kiln, protocol, folder } = await this.#hello.promise;
      if (kiln !== KILN_VERSION || protocol !== PROTOCOL) throw otherVersionError(address, kiln);
      this.#folder = folder;
      const packing = this.#send(new Packer());
      await Promise.race([packing, this.#status.promise]);
      sendMessage(this.#ssh.stdin, start);
      this.hasStarted = true;
      this.#watchOutputs();
      this.#readInput();
      return await this.#status.promise;
    } finally {
      clearInterval(alive);
      this.#ssh.stdin.end();
      this.#leaveSsh();
      for (const { folder } of this.#roots) closeSync(folder);
    }
  }

  control(wanted: NearControl): void {
    sendMessage(this.#ssh.stdin, wanted, FRAME.control);
  }

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
    await sendArchive(packer, this.#ssh.stdin);
    await packing;
    this.#ssh.stdin.write(encodeFrame(ARCHIVE_FRAME));
  }

  #readInput(): void {
    const stdin = this.#options.openInput();
    this.#input = stdin;
    const end = () => this.#ssh.stdin.write(encodeFrame(FRAME.end));
    stdin.on('data', (chunk: Buffer) => {
      this.#unread += chunk.length;
      this.#ssh.stdin.write(encodeFrame(FRAME.data, chunk));
      if (this.#unread >= INPUT_WINDOW) stdin.pause();
    });
    stdin.once('end', end).once('error', end);
  }

  #receive(kind: number, body: Buffer): void {
    const { stdout, stderr } = this.#options;
    if (kind === FRAME.data) pass(this.#ssh.stdout, body, stdout);
    else if (kind === FRAME.errorData) pass(this.#ssh.stdout, this.#renamed(body), stderr);
    else if (kind === ARCHIVE_FRAME) pass(this.#ssh.stdout, body, this.#results.stream);
    else if (kind === FRAME.message) {
      let message: FarMessage;
      try {
        message = JSON.parse(body.toString()) as FarMessage;
      } catch (cause) {
        this.cut(notKilnError(this.#options.address, cause));
        return;
      }
      if ('kiln' in message) this.#hello.resolve(message);
      else if ('failed' in message) {
        const { code, message: text, hint } = message.failed;
        const where = `on ${this.#options.address.host}: ${text}`;
        this.#fail(new KilnError(code as ErrorCode, where, { hint }));
      } else if ('taken' in message) {
        this.#unread -= message.taken;
        if (this.#unread < INPUT_WINDOW) this.#input?.resume();
      } else this.#end(message.status);
    }
  }

  #end(status: number): void {
    this.#isWhole = true;
    this.#results.stream.end();
    this.#results.over.then(
      () => this.#status.resolve(status),
      (error) => this.#status.reject(error),
    );
  }

  #renamed(bytes: Buffer): Buffer {
    if (this.#folder === '' || !bytes.includes(this.#folder)) return Buffer.from(bytes);
    let text = bytes.toString('latin1');
    for (const [far, near] of this.#options.names) {
      text = text.replaceAll(`${this.#folder}/${far}`, Buffer.from(near).toString('latin1'));
    }
    return Buffer.from(text, 'latin1');
  }

  #said(chunk: Buffer): void {
    this.#words = (this.#words + chunk.toString()).slice(-WORDS_MAX);
    this.#options.stderr.write(chunk);
  }

  #exitError(code: number | null): KilnError {
    const { address } = this.#options;
    const { host } = address;
    if (this.#folder !== '') {
      const what = `the connection to ${host} ended before the command did`;
      return new KilnError('E_REMOTE_LOST', what, {
        hint: 'the command was ended there, unless it was detached; `kiln --host … ps` shows what goes on',
      });
    }
    if (/host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED/i.test(this.#words)) {
      const what = `${host} has not the host key that ssh knows it by`;
      return new KilnError('E_REMOTE_HOST_KEY', what, {
        hint: `\`ssh ${host}\` by hand says more; take its key only if you know it: ssh-keygen -R, ssh-keyscan`,
      });
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

function noSshError(cause: Error): KilnError {
  return new KilnError('E_REMOTE_SSH', 'ssh cannot be started', {
    hint: 'install it: Debian has openssh-client, Fedora openssh-clients',
    cause,
  });
}

function notKilnError({ host }: RemoteAddress, cause: unknown): KilnError {
  return new KilnError('E_PROTOCOL', `${host} sent what no kiln sends`, {
    hint: 'the shell there must print nothing when ssh runs a command: look at its ~/.bashrc',
    cause,
  });
}

function otherVersionError({ host }: RemoteAddress, theirs: string): KilnError {
  const what = `${host} has kiln ${theirs}, and this is ${KILN_VERSION}`;
  return new KilnError('E_REMOTE_VERSION', what, { hint: 'install the same version at both ends' });
}
