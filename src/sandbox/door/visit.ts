/**
 * A visit of a sandbox: whoever wants a further command in it, or files, asks the process that holds its only
 * connection. A command's input and output do not pass that process: the visitor gets the descriptors.
 */
import { Socket } from 'node:net';
import { KilnError } from '../../errors.ts';
import { closeDescriptor, closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import type { UserIds } from '../../host/process/user-namespace.ts';
import {
  encodeMessage,
  FRAME,
  firstFrame,
  onFrames,
  sendMessage,
  unwired,
  type WiredError,
} from '../../host/sockets/frames.ts';
import { nextPacket } from '../../host/sockets/unix-socket.ts';
import { MessageSender } from '../../host/sockets/watch.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import type { SandboxFacts } from '../command/facts.ts';
import {
  type HandOver,
  type HostStdio,
  type ProcessEnd,
  SandboxProcess,
  type StartedCommand,
  streamsOf,
} from '../command/process.ts';
import type { ProcessInside } from '../domain/ground.ts';
import type { LayeredFolder } from '../domain/sandbox-record.ts';
import type { PublishedPort } from '../policy/network.ts';
import type { Layers } from './layers.ts';
import type { ExecuteRequest } from './plan.ts';
import { type CommandEnd, supervise, type TimeLimits } from './supervise.ts';

export type ExecuteControl =
  | { readonly signal: number }
  | { readonly rows: number; readonly columns: number };

/** `started` comes with the command's stdio: stdin, stdout and stderr, or a terminal's master. */
export type ExecuteAnswer =
  | { readonly started: StartedCommand }
  | ProcessEnd
  /** Also of a command that was started: its sandbox has ended. */
  | { readonly error: WiredError };

/** What is asked of whoever holds a sandbox; a service's supervisor is asked more. */
export interface ExecuteMessage {
  readonly do: 'execute';
  readonly command: ExecuteRequest;
}

export interface ReadRequest {
  readonly do: 'read';
  readonly path: string;
  readonly offset: number;
}

export interface WriteRequest {
  readonly do: 'write';
  readonly path: string;
  /** Base64. */
  readonly data: string;
  readonly append: boolean;
  readonly mode: number;
}

/** A process that makes files of its input, in the format of src/artifacts/copy-in.ts, as the command's user. */
export interface ReceiveMessage {
  readonly do: 'receive';
}

/** The answer brings a descriptor of the root directory. */
export interface RootMessage {
  readonly do: 'root';
}

export interface RootAnswer {
  readonly root: UserIds;
}

/** The answer brings a descriptor of what {@link Layers.open} opens. */
export interface LayerMessage {
  readonly do: 'layer';
  readonly target: string;
}

export interface LayerAnswer {
  readonly idRange: IdRange;
  readonly protectedPaths: readonly string[];
  readonly folders: readonly LayeredFolder[];
  readonly mounts: SandboxFacts['mounts'];
}

/** What of a sandbox is needed by whoever looks at its layers. */
export interface LayeredSandbox extends Pick<LayerAnswer, 'idRange' | 'protectedPaths'> {
  readonly id: string;
  readonly facts: Pick<SandboxFacts, 'mounts'>;
  readonly layers: Pick<Layers, 'folders' | 'open'>;
}

/** The processes of a machine. */
export interface ProcessesMessage {
  readonly do: 'processes';
}

export interface ProcessesAnswer {
  readonly processes: readonly ProcessInside[];
}

/** Files of a machine. The answer brings a pipe, which gives the archive; another one, without it, comes at the end. */
export interface PackMessage {
  readonly do: 'pack';
  /** In base64, see {@link FilesInside.pack}. */
  readonly patterns: string;
}

/** All processes of a machine get SIGTERM. */
export interface TerminateMessage {
  readonly do: 'terminate';
}

export interface TerminateAnswer {
  /** So many got it. */
  readonly count: number;
}

/** Ports of this host, as long as the connection is open. */
export interface PortsMessage {
  readonly do: 'publish';
  readonly ports: readonly PublishedPort[];
}

/** The root directory of a sandbox, whose content is hostile, and its command's user as this host numbers it. */
export interface OpenedRoot {
  readonly fd: number;
  readonly user: UserIds;
}

/** An archive that comes. */
export interface PackedFiles {
  readonly fd: number;
  readonly packed: Promise<void>;
}

/** Of a first answer at once. */
const PIECE = 64 * 1024;

/**
 * Has a command started by whoever holds its sandbox. It ends with this connection.
 * @param fd of a connection to the holder; the visit owns it
 * @throws KilnError as starting it does, and E_SANDBOX_GONE
 */
export async function visit(fd: number, request: ExecuteRequest, handOver?: HandOver) {
  return await visitWith(fd, { do: 'execute', command: request }, handOver);
}

/** A process that makes files, as {@link visit} has a command started. */
export async function visitReceiver(fd: number) {
  return await visitWith(fd, { do: 'receive' });
}

async function visitWith(
  fd: number,
  message: ExecuteMessage | ReceiveMessage,
  handOver?: HandOver,
) {
  const { started, stdio } = await ask(fd, message).catch((error) => {
    closeDescriptor(fd);
    throw error;
  });
  const socket = new Socket({ fd, readable: true, writable: true });
  const ended = deferred<ProcessEnd>();
  socket.on('error', () => socket.destroy());
  // Whoever held the sandbox was killed, and the command with it.
  socket.once('close', () => ended.reject(holderGoneError('ended before its command did')));
  onFrames(socket, ({ body }) => {
    const end = JSON.parse(body.toString('utf8')) as ProcessEnd | { readonly error: WiredError };
    if ('error' in end) ended.reject(unwired(end.error));
    else ended.resolve(end);
    socket.destroy();
  });
  const tell = (control: ExecuteControl) => sendMessage(socket, control, FRAME.control);
  const control = {
    signal: (signal: number) => tell({ signal }),
    resize: (rows: number, columns: number) => tell({ rows, columns }),
  };
  const streams = streamsOf(stdio, handOver);
  const command = new SandboxProcess(control, started, streams, ended.promise);
  /** Ends the command as if its visitor had gone. */
  const leave = () => {
    ended.resolve({ exitCode: null, signal: 'SIGKILL' });
    socket.destroy();
  };
  return { command, leave };
}

/** The end of a command of {@link visit}, within its time. */
export async function visitEnded(command: SandboxProcess, time: TimeLimits): Promise<CommandEnd> {
  return await supervise(command, time, 'left', async () => void command.kill('SIGKILL'));
}

/**
 * Asks whoever holds a sandbox for its root directory.
 * @param fd of a connection to the holder, which is closed afterwards
 * @throws KilnError E_SANDBOX_GONE, and what the holder throws
 */
export async function askForRoot(fd: number): Promise<OpenedRoot> {
  const { answer, opened } = await askForFolder<RootAnswer>(fd, { do: 'root' });
  return { fd: opened, user: answer.root };
}

/**
 * The layers of a sandbox that another process holds; commands may run in it meanwhile.
 * @param connect to the holder; undefined where nobody holds it any more
 * @throws KilnError E_SANDBOX_GONE, and what the holder throws
 */
export async function visitLayers(
  id: string,
  connect: () => number | undefined,
): Promise<LayeredSandbox> {
  const askFor = async (target: string) => {
    const fd = connect();
    if (fd === undefined) throw holderGoneError('has ended');
    return await askForFolder<LayerAnswer>(fd, { do: 'layer', target });
  };
  const { answer, opened } = await askFor('/');
  closeDescriptor(opened);
  const { idRange, protectedPaths, folders, mounts } = answer;
  const open = async (target: string) => (await askFor(target)).opened;
  return { id, idRange, protectedPaths, facts: { mounts }, layers: { folders, open } };
}

/**
 * Has whoever holds a machine pack files of it.
 * @param fd of a connection to the holder, which is closed at the end
 * @returns a pipe with the archive, which the caller closes, and its end: it is whole then
 * @throws KilnError E_SANDBOX_GONE, and what the holder throws
 */
export async function visitPacked(fd: number, patterns: Buffer): Promise<PackedFiles> {
  const message: PackMessage = { do: 'pack', patterns: patterns.toString('base64') };
  const asked = askHolder(fd, message).then(({ fds }) => theOnly(fds));
  const opened = await asked.catch((error: unknown) => {
    closeDescriptor(fd);
    throw error;
  });
  const socket = new Socket({ fd, readable: true, writable: true });
  const ended = deferred<void>();
  socket.on('error', () => socket.destroy());
  socket.once('close', () => ended.reject(holderGoneError('ended before its files were packed')));
  onFrames(socket, ({ body }) => {
    const end: { readonly error?: WiredError } = JSON.parse(body.toString('utf8'));
    if (end.error === undefined) ended.resolve();
    else ended.reject(unwired(end.error));
    socket.destroy();
  });
  return { fd: opened, packed: awaitedLater(ended.promise) };
}

/** @throws KilnError E_SANDBOX_GONE, and what the holder throws */
async function askForFolder<Answer extends object>(
  fd: number,
  message: RootMessage | LayerMessage,
): Promise<{ readonly answer: Answer; readonly opened: number }> {
  using holder = closing(fd);
  const { answer, fds } = await askHolder<Answer>(holder.fd, message);
  return { answer, opened: theOnly(fds) };
}

function theOnly([fd]: readonly number[]): number {
  if (fd === undefined) throw holderGoneError('gave no descriptor');
  return fd;
}

/** @returns the first answer, and the descriptors that come with it, which are the caller's then */
async function askHolder<Answer extends object>(
  holder: number,
  message: RootMessage | LayerMessage | PackMessage | ExecuteMessage | ReceiveMessage,
  most = 1,
): Promise<{ readonly answer: Answer; readonly fds: readonly number[] }> {
  const sender = new MessageSender(holder, () => undefined);
  const fds: number[] = [];
  try {
    sender.send(encodeMessage(message), []);
    const frame = await firstWithDescriptors(holder, most, fds);
    const answer: Answer | { readonly error: WiredError } = JSON.parse(frame.toString('utf8'));
    if ('error' in answer) throw unwired(answer.error);
    return { answer, fds: fds.splice(0) };
  } catch (error) {
    throw hasErrno(error, 'EPIPE', 'ECONNRESET') ? holderGoneError(NOT_BEGUN, error) : error;
  } finally {
    sender.stop();
    fds.forEach(closeDescriptor);
  }
}

/** The first frame's body. @param fds gets the descriptors that came with it, which the caller closes */
async function firstWithDescriptors(fd: number, most: number, fds: number[]): Promise<Buffer> {
  for (let bytes = Buffer.alloc(0); ; ) {
    const packet = await nextPacket(fd, PIECE, most);
    if (packet === undefined) throw holderGoneError(NOT_BEGUN);
    fds.push(...packet.fds);
    bytes = Buffer.concat([bytes, packet.data]);
    const frame = firstFrame(bytes);
    if (frame !== undefined) return frame.body;
  }
}

async function ask(fd: number, message: ExecuteMessage | ReceiveMessage) {
  const { answer, fds } = await askHolder<ExecuteAnswer>(fd, message, 3);
  const [first, stdout, stderr] = fds;
  if (first === undefined || !('started' in answer)) throw holderGoneError(NOT_BEGUN);
  const stdio: HostStdio =
    stdout === undefined || stderr === undefined
      ? { terminal: first }
      : { stdin: first, stdout, stderr };
  return { started: answer.started, stdio };
}

/**
 * Has a file read or written, or processes listed, by whoever holds their sandbox.
 * @param fd of a connection to the holder, which is closed afterwards
 * @throws KilnError as the sandbox itself does, and E_SANDBOX_GONE
 */
export async function askForFile<Answer extends object>(
  fd: number,
  request: ReadRequest | WriteRequest | ProcessesMessage | TerminateMessage,
): Promise<Answer> {
  const { socket, answer } = await askOnce<Answer>(fd, request);
  socket.destroy();
  return answer;
}

/**
 * Has whoever holds a sandbox publish ports of this host, until this is disposed of.
 * @param fd of a connection to the holder, which is closed then
 * @throws KilnError E_PUBLISH, E_MACHINE, E_SANDBOX_GONE
 */
export async function visitPorts(fd: number, ports: readonly PublishedPort[]): Promise<Disposable> {
  const { socket } = await askOnce(fd, { do: 'publish', ports });
  return { [Symbol.dispose]: () => void socket.destroy() };
}

async function askOnce<Answer extends object>(
  fd: number,
  request: ReadRequest | WriteRequest | ProcessesMessage | TerminateMessage | PortsMessage,
) {
  const socket = new Socket({ fd, readable: true, writable: true });
  const answered = deferred<Answer | { readonly error: WiredError }>();
  onFrames(socket, ({ body }) => answered.resolve(JSON.parse(body.toString('utf8'))));
  socket.on('error', () => socket.destroy());
  socket.once('close', () => answered.reject(holderGoneError('ended before it answered')));
  sendMessage(socket, request);
  try {
    const answer = await answered.promise;
    if ('error' in answer) throw unwired(answer.error);
    return { socket, answer };
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

const NOT_BEGUN = 'ended before the command began';

function holderGoneError(what: string, cause?: unknown): KilnError {
  return new KilnError('E_SANDBOX_GONE', `the sandbox ${what}`, {
    cause,
    hint: '`kiln ps` shows what runs',
  });
}
