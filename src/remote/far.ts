/**
 * `kiln remote-stdio`, which ssh runs on the other machine: it takes files into a folder of its own, and runs
 * kiln there. It has the rights of whoever has logged in, and kilnd treats what it runs as it treats every
 * local caller.
 */

import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  type Stats,
} from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { ReadStream } from 'node:tty';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { checked, tryCall } from '../host/calls/system-call.ts';
import { type HeldLock, tryLock } from '../host/files/flock.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { startProgram } from '../host/process/child-process.ts';
import { callerEnvironment } from '../host/process/own-node.ts';
import { signalNumber } from '../host/process/signals.ts';
import { pass } from '../host/sockets/back-pressure.ts';
import { FRAME, onFrames, sendMessage, wired } from '../host/sockets/frames.ts';
import { packageRoot } from '../host/state/package-root.ts';
import { KILN_VERSION } from '../host/state/paths.ts';
import { awaitedLater, deferred } from '../promise.ts';
import { Results, send } from './pack.ts';
import { unpacker } from './unpack.ts';
import {
  ARCHIVE_FRAME,
  type FarMessage,
  type NearControl,
  PROTOCOL,
  type RemoteStart,
  SILENCE_MAX,
} from './wire.ts';

/** Where folders of jobs are: on a disk, for a gigabyte may come. */
const PLACE = '/var/tmp';
const PREFIX = 'kiln-remote-';
const LOCK = 'lock';
export const INPUTS = 'in';

/** How long a command may take to end whose caller is gone, milliseconds. */
const LAST_MOMENTS = 10_000;

/** Longer than a maker needs to lock its folder, milliseconds. */
const MAKING = 60_000;

interface FarEnds {
  readonly input: Readable;
  readonly output: Writable;
}

export async function serveFar(ends: FarEnds): Promise<void> {
  await sweepFolders();
  const { folder, lock } = await makeFolder();
  const far = new Far(ends, folder, lock);
  try {
    await far.serve();
  } finally {
    await far.close();
  }
}

async function makeFolder(): Promise<{ readonly folder: string; readonly lock: HeldLock }> {
  for (;;) {
    const folder = mkdtempSync(join(PLACE, PREFIX));
    const lock = await tryLock(join(folder, LOCK));
    // Somebody who sweeps may have been faster.
    if (lock !== undefined) return { folder, lock };
  }
}

async function sweepFolders(): Promise<void> {
  for (const name of readdirSync(PLACE)) {
    // Others put what they like there, links as well.
    if (!name.startsWith(PREFIX)) continue;
    const folder = join(PLACE, name);
    const stats = lstatSync(folder, { throwIfNoEntry: false });
    if (stats?.isDirectory() !== true || stats.uid !== process.geteuid?.()) continue;
    await using lock = await tryLock(join(folder, LOCK), { existing: true }).catch(() => undefined);
    if (lock !== undefined) await removeTree(folder);
    // A maker was killed before it had locked it, or a command wrote its results after the end.
    else if (isOld(stats) && !existsSync(join(folder, LOCK))) await removeTree(folder);
  }
}

function isOld({ mtimeMs }: Stats): boolean {
  return Date.now() - mtimeMs > MAKING;
}

class Far {
  readonly #ends: FarEnds;
  readonly #folder: string;
  readonly #lock: HeldLock;
  readonly #gone = deferred<'gone'>();
  readonly #started = deferred<RemoteStart>();
  readonly #unpacked: ReturnType<typeof unpacker>;
  #silence: NodeJS.Timeout | undefined;
  #child: ChildProcess | undefined;
  #terminal: number | undefined;
  #stdin: Writable | undefined;
  #outputs: Partial<Record<1 | 2, Readable>> = {};
  /** Input that came before the command was there; undefined: its end. */
  readonly #early: (Buffer | undefined)[] = [];
  readonly #earlySignals: NodeJS.Signals[] = [];
  /** Nobody is there any more for whom something could begin. */
  #isOver = false;
  /** A process removes the folder when a job has ended that goes on. */
  #left = false;

  constructor(ends: FarEnds, folder: string, lock: HeldLock) {
    this.#ends = ends;
    this.#folder = folder;
    this.#lock = lock;
    const inputs = join(folder, INPUTS);
    mkdirSync(inputs, { mode: 0o700 });
    const root = openSync(inputs, constants.O_RDONLY | constants.O_DIRECTORY);
    this.#unpacked = unpacker((first) => (first === INPUTS ? { folder: root } : undefined));
    awaitedLater(this.#unpacked.over)
      .finally(() => closeSync(root))
      .catch(() => undefined);
  }

  async serve(): Promise<void> {
    const { input, output } = this.#ends;
    const gone = () => this.#gone.resolve('gone');
    output.on('error', gone);
    input.on('end', gone).on('error', gone).on('close', gone);
    onFrames(input, ({ kind, body }) => this.#receive(kind, body));
    this.#alive();
    this.#say({ kiln: KILN_VERSION, protocol: PROTOCOL, folder: this.#folder });
    try {
      const work = awaitedLater(this.#work());
      await Promise.race([work, this.#gone.promise]);
      this.#isOver = true;
      await this.#endChild();
    } catch (error) {
      this.#say({ failed: wired(error) });
    }
  }

  /** What the command writes at its end it writes into the folder that is removed then. */
  async #endChild(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = awaitedLater(once(child, 'exit'));
    // Nobody reads its output any more, nor writes its input.
    for (const output of Object.values(this.#outputs)) output.destroy();
    this.#stdin?.destroy();
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), LAST_MOMENTS);
    await ended;
    clearTimeout(timer);
  }

  #alive(): void {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#gone.resolve('gone'), SILENCE_MAX);
  }

  #say(message: FarMessage): void {
    sendMessage(this.#ends.output, message);
  }

  #receive(kind: number, body: Buffer): void {
    this.#alive();
    if (kind === ARCHIVE_FRAME) this.#unpack(body);
    else if (kind === FRAME.message)
      this.#started.resolve(JSON.parse(body.toString()) as RemoteStart);
    else if (kind === FRAME.data) this.#type(body);
    else if (kind === FRAME.end) this.#type(undefined);
    else if (kind === FRAME.control) this.#control(JSON.parse(body.toString()) as NearControl);
  }

  #unpack(body: Buffer): void {
    const { stream } = this.#unpacked;
    if (body.length === 0) stream.end();
    else pass(this.#ends.input, body, stream);
  }

  #type(body: Buffer | undefined): void {
    const taken = () => {
      if (body !== undefined) this.#say({ taken: body.length });
    };
    if (this.#stdin === undefined) this.#early.push(body);
    else if (body === undefined) this.#stdin.end();
    else if (this.#stdin.destroyed) taken();
    else this.#stdin.write(body, taken);
  }

  #takeInput(stdin: Writable): void {
    stdin.on('error', () => stdin.destroy());
    this.#stdin = stdin;
    for (const body of this.#early.splice(0)) this.#type(body);
  }

  #control(wanted: NearControl): void {
    if (wanted.do === 'close') this.#outputs[wanted.output]?.destroy();
    else if (wanted.do === 'signal' && this.#child === undefined)
      this.#earlySignals.push(wanted.signal);
    else if (wanted.do === 'signal') this.#child?.kill(wanted.signal);
    else if (wanted.do === 'resize' && this.#terminal !== undefined)
      resizeTerminal(this.#terminal, wanted.rows, wanted.columns);
  }

  async #work(): Promise<void> {
    const start = await this.#started.promise;
    await this.#unpacked.over;
    if (this.#isOver) return;
    const outputs = start.outputs.map((name) => join(this.#folder, name));
    for (const output of outputs) mkdirSync(output, { recursive: true, mode: 0o700 });
    const results = new Results(start.outputs, this.#folder, this.#ends.output);
    const status = await this.#run(start, results);
    await results.finish();
    this.#say({ status });
  }

  async #run(start: RemoteStart, results: Results): Promise<number> {
    const { env, argv, detaches } = start;
    const { KILN_HOST: _, ...own } = callerEnvironment();
    const kiln = join(packageRoot(), 'bin/kiln');
    const options = { cwd: this.#folder, env: { ...own, ...env } };
    const [stdin, stdout, stderr] = start.terminals;
    let last = '';
    const said = (chunk: Buffer) => {
      last = (last + chunk.toString('latin1')).slice(-100);
    };
    let child: ChildProcess;
    let from: Readable;
    if (stdin && stdout) {
      const { master, slave } = openTerminal();
      this.#terminal = master;
      resizeTerminal(master, start.rows, start.columns);
      // The keys that end or stop a command are for a session with this terminal.
      child = startProgram('setsid', ['--ctty', '--wait', kiln, ...argv], {
        ...options,
        stdio: [slave, slave, stderr ? slave : 'pipe'],
      });
      closeSync(slave);
      const terminal = new ReadStream(master);
      this.#takeInput(terminal);
      from = terminal;
    } else {
      child = startProgram(kiln, argv, { ...options, stdio: 'pipe' });
      this.#takeInput(child.stdin!);
      from = child.stdout!;
    }
    this.#child = child;
    this.#outputs = { 1: from, ...(child.stderr === null ? {} : { 2: child.stderr }) };
    for (const signal of this.#earlySignals) child.kill(signal);
    const over = awaitedLater(
      Promise.all([
        this.#pass(from, FRAME.data, said),
        child.stderr === null ? undefined : this.#pass(child.stderr, FRAME.errorData),
      ]),
    );
    const ended = deferred<number>();
    child.once('error', ended.reject);
    child.once('exit', (code, signal) => ended.resolve(code ?? 128 + signalNumber(signal!)));
    using _looking = results.look();
    const status = await ended.promise;
    await over;
    const id = /([0-9a-f]{10})\r?\n$/.exec(last)?.[1];
    if (detaches && status === 0 && id !== undefined) this.#leave(kiln, id, options.env);
    return status;
  }

  async #pass(from: Readable, kind: number, look?: (chunk: Buffer) => void): Promise<void> {
    const { output } = this.#ends;
    try {
      for await (const chunk of from as AsyncIterable<Buffer>) {
        look?.(chunk);
        await send(output, kind, chunk);
      }
    } catch {
      // A terminal whose command is gone.
    }
  }

  #leave(kiln: string, id: string, env: NodeJS.ProcessEnv): void {
    this.#left = true;
    const script = '"$0" wait "$1" >/dev/null 2>&1; rm -rf -- "$2"';
    // It holds the lock as long as it lives.
    const child = startProgram('/bin/sh', ['-c', script, kiln, id, this.#folder], {
      env,
      cwd: '/',
      detached: true,
      stdio: ['ignore', 'ignore', 'ignore', this.#lock.descriptor],
    });
    child.on('error', () => undefined).unref();
  }

  async close(): Promise<void> {
    clearTimeout(this.#silence);
    await new Promise<void>((resolve) => {
      this.#ends.output.end(resolve);
      this.#gone.promise.then(() => resolve(), resolve);
    });
    this.#ends.input.destroy();
    if (!this.#left) await removeTree(this.#folder);
    await this.#lock.release();
  }
}

export function ownEnds(): FarEnds {
  const stream = (fd: number, way: 'readable' | 'writable') =>
    new Socket({ fd, readable: way === 'readable', writable: way === 'writable' });
  return { input: stream(0, 'readable'), output: stream(1, 'writable') };
}

/** asm-generic/ioctls.h; ioctl_tty(2), pts(4). */
const TIOCSPTLCK = 0x40045431;
const TIOCGPTPEER = 0x5441;
const TIOCSWINSZ = 0x5414;

function openTerminal(): { readonly master: number; readonly slave: number } {
  const flags = constants.O_RDWR | constants.O_NOCTTY;
  const master = openSync('/dev/ptmx', flags);
  try {
    checked('ioctl', tryCall('ioctl', master, TIOCSPTLCK, Int32Array.of(0)));
    return { master, slave: checked('ioctl', tryCall('ioctl', master, TIOCGPTPEER, flags)) };
  } catch (error) {
    closeDescriptor(master);
    throw error;
  }
}

function resizeTerminal(master: number, rows: number, columns: number): void {
  // struct winsize; what is no size is none.
  const size = Uint16Array.of(rows & 0xffff, columns & 0xffff, 0, 0);
  tryCall('ioctl', master, TIOCSWINSZ, size);
}
