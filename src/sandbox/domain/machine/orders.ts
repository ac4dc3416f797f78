/** What stage 0 of a machine is asked itself, by the channel to the init. */
import { Socket } from 'node:net';
import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../../errors.ts';
import { closeDescriptor, closing, createPipe } from '../../../host/calls/descriptor.ts';
import { SyscallError } from '../../../host/calls/libc.ts';
import { sizeInWords } from '../../../host/calls/system-error.ts';
import {
  type Listener,
  nextPacket,
  receiveDescriptor,
  unixSocketPair,
} from '../../../host/sockets/unix-socket.ts';
import { awaitedLater } from '../../../promise.ts';
import { type Channel, INIT_DEADLINE } from '../../command/channel.ts';
import { factLines } from '../../command/facts.ts';
import { operationError } from '../../command/failures.ts';
import type { ImageMount } from '../../policy/filesystem.ts';
import { addressBytes, type LibvirtNetwork, versionOf } from '../../policy/network.ts';
import { encodeRequest } from '../../wire/codec.ts';
import type { Answer, AnswerOf, Parts, RequestField, RequestName } from '../../wire/table.ts';
import type { FilesInside, ProcessInside } from '../ground.ts';
import { LIST_MAX, readProcesses } from './processes.ts';

export type WiredLimits = Parts<'machine-limits'>;

/** Sets them, and tells what is in force then. @throws KilnError E_SETUP */
export async function setLimits(channel: Channel, limits: WiredLimits): Promise<WiredLimits> {
  return await told(channel, 'limit', [{ op: 'machine-limits', ...limits }], 'limited');
}

/** The namespaces of stage 0, which stand for the host's. After a break of the guest's kernel this may be a lie. */
export async function namespacesAround(channel: Channel): Promise<ReadonlyMap<string, string>> {
  const { facts } = await told(channel, 'machine', [], 'machine-facts');
  const links = factLines(facts).get('ns') ?? [];
  return new Map(links.map((link) => [link.slice(0, link.indexOf(':')), link]));
}

/** @throws KilnError E_MACHINE */
export async function listenInside(channel: Channel, port: number): Promise<Listener> {
  const [ours, theirs] = unixSocketPair();
  using _theirs = closing(theirs);
  try {
    const errno = await order(channel, 'listen', { op: 'port', port }, [theirs]);
    const fd = errno === 0 ? receiveDescriptor(ours) : undefined;
    if (fd === undefined) {
      throw new KilnError('E_MACHINE', `the machine could not listen on port ${port}`, {
        hint: `has a command of the sandbox taken port ${port}?`,
        cause: new SyscallError('listen', errno),
      });
    }
    return { fd, [Symbol.dispose]: () => closeDescriptor(ours) };
  } catch (error) {
    closeDescriptor(ours);
    throw error;
  }
}

/** The network's own addresses and routes, which libvirt gives to a container. @throws KilnError E_MACHINE */
export async function setAddresses(
  channel: Channel,
  nth: number,
  { addresses, routes }: LibvirtNetwork,
): Promise<void> {
  const own = addresses.map((to) => ({ to, via: undefined }));
  for (const { to, via } of [...own, ...routes]) {
    const [ip = '', prefix] = to.split('/');
    const card = {
      op: 'card',
      nth,
      family: versionOf(ip) === 6 ? 'ipv6' : 'ipv4',
      prefix: Number(prefix),
      addresses: Buffer.concat([ip, ...(via === undefined ? [] : [via])].map(addressBytes)),
    } as const;
    const errno = await order(channel, 'set-card', card);
    if (errno === 0) continue;
    const what = via === undefined ? `the address ${to}` : `the route to ${to} by ${via}`;
    throw new KilnError('E_MACHINE', `${what} cannot be set in the machine`, {
      hint: 'has the kernel of the machine IPv6? is the gateway on the network of an address?',
      cause: new SyscallError('rtnetlink', errno),
    });
  }
}

/** Connections that may come about at once: each takes a stream of the port meanwhile, of 1023 in all. */
const CONNECTING = 64;

/** Ports of the sandbox, as seen from this host. */
export class PortsInside {
  readonly #channel: Channel;
  readonly #waiting: (() => void)[] = [];
  #free = CONNECTING;

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  /** @throws KilnError E_MACHINE */
  async connect(port: number): Promise<number> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await connectInside(this.#channel, port);
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}

async function connectInside(channel: Channel, port: number): Promise<number> {
  const pair = unixSocketPair();
  using ours = closing(pair[0]);
  const connected = order(channel, 'connect', { op: 'port', port }, [pair[1]]);
  const errno = await connected.finally(() => closeDescriptor(pair[1]));
  // While others fill the port it comes behind the answer. Its carrier ends where there are too many streams.
  const [fd] = errno === 0 ? ((await nextPacket(ours.fd, 1, 1))?.fds ?? []) : [];
  if (fd !== undefined) return fd;
  throw new KilnError('E_MACHINE', `nobody can be reached at port ${port} of the machine`, {
    hint: `does a command of the sandbox listen on port ${port}?`,
    cause: new SyscallError('connect', errno),
  });
}

const NO_IMAGE: ReadonlyMap<number, string> = new Map([
  [constants.errno.EINVAL, 'it is no squashfs, erofs, xfs or ext4 that the machine’s kernel knows'],
  [constants.errno.ENODEV, 'the machine’s kernel lacks squashfs, erofs, xfs or ext4'],
  [constants.errno.EACCES, 'you may not read it'],
  [
    constants.errno.EOPNOTSUPP,
    'the machine’s kernel cannot give its files the sandbox’s owners, as squashfs before Linux 6.2',
  ],
]);

/**
 * The machine's kernel mounts the file system in a file, which takes the place of the nth descriptor of `setup`.
 * @param fd a detached mount of the file @throws KilnError E_BIND
 */
export async function mountImage(channel: Channel, { nth, fd, source }: ImageMount): Promise<void> {
  // A kernel that never ends a mount, or answers nothing, ends by whatever ends the command.
  const errno = await asked(channel, 'mount-image', { op: 'place', nth }, [fd]);
  if (errno === 0) return;
  const cause = new SyscallError('mount', errno);
  const why = NO_IMAGE.get(errno) ?? 'it may be damaged';
  throw new KilnError('E_BIND', `${source} cannot be mounted: ${why}`, {
    cause,
    hint: 'a whole disk with partitions is no file system; `kiln doctor machines` names the kernel',
  });
}

export function filesInside(channel: Channel): FilesInside {
  return {
    pack: (patterns, to) => packFiles(channel, patterns, to),
    read: (file, user) => readFile(channel, file, user),
    isAnyFull: (paths) => isAnyFull(channel, paths),
    processes: (commands) => listProcesses(channel, commands),
  };
}

/** What the host has changed below overlays shows from then on. */
export async function forgetNames(channel: Channel): Promise<void> {
  await order(channel, 'forget-names');
}

/** Those of FIELD_PATTERNS, bytes. */
const PATTERNS_MAX = 3900;

/** Bytes. */
const SIZE = 8;
const READ_MAX = 1 << 20;

async function readFile(
  channel: Channel,
  { path, offset }: { readonly path: string; readonly offset: number },
  { uid, gid }: { readonly uid: number; readonly gid: number },
): Promise<{ readonly bytes: Buffer; readonly size: number }> {
  const file = { op: 'read-file', offset, uid, gid, path } as const;
  const all = await piped(channel, 'read', file, { most: SIZE + READ_MAX, what: path });
  const size = all.length < SIZE ? undefined : Number(all.readBigUInt64LE(0));
  if (size === undefined || !Number.isSafeInteger(size)) throw answerError(path);
  return { bytes: all.subarray(SIZE), size };
}

async function listProcesses(channel: Channel, commands: boolean): Promise<ProcessInside[]> {
  const what = 'its processes';
  const listing = { op: 'listing', commands } as const;
  const answered = piped(channel, 'processes', listing, { most: LIST_MAX, what });
  const bytes = await answered.catch((cause: unknown) => {
    if (!(cause instanceof SyscallError)) throw cause;
    throw new KilnError('E_MACHINE', 'the machine could not list its processes', {
      hint: 'one of them may keep its command line from readers; `kiln kill` ends the sandbox',
      cause,
    });
  });
  const processes = readProcesses(bytes);
  if (processes === undefined) throw answerError(what);
  return processes.sort((a, b) => a.pid - b.pid);
}

/** What a machine writes for an order, bounded in bytes and time. @throws KilnError E_MACHINE, SyscallError */
async function piped<Name extends 'read' | 'processes'>(
  channel: Channel,
  name: Name,
  field: RequestField<Name>,
  { most, what }: { readonly most: number; readonly what: string },
): Promise<Buffer> {
  const pipe = createPipe(0);
  const source = new Socket({ fd: pipe.read, readable: true, writable: false });
  const given = new AbortController();
  try {
    const late = awaitedLater(sleep(INIT_DEADLINE, undefined, { signal: given.signal }));
    const isDone = awaitedLater(order(channel, name, field, [pipe.write], given.signal));
    closeDescriptor(pipe.write);
    const read = awaitedLater(gathered(source, most, what));
    // It fails at once where too much comes.
    const errno = await Promise.race([isDone, read.then(() => isDone), late]);
    if (errno !== undefined && errno !== 0) throw new SyscallError('read', errno, what);
    const all = await Promise.race([read, late]);
    if (all !== undefined) return all;
    throw new KilnError('E_MACHINE', `the machine has not told ${what} in time`, {
      hint: 'it may be busy: try again',
    });
  } finally {
    given.abort();
    source.destroy();
  }
}

async function gathered(source: Socket, most: number, what: string): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of source) {
    length += (piece as Buffer).length;
    if (length > most) throw tooLongError(what, most);
    pieces.push(piece as Buffer);
  }
  return Buffer.concat(pieces);
}

/** No more than this is kept of what a machine tells, which need not be the truth. */
function tooLongError(what: string, most: number): KilnError {
  const bound = sizeInWords(most);
  return new KilnError('E_MACHINE', `the machine has more than ${bound} to tell about ${what}`, {
    hint: 'end some processes in it; --pids bounds how many there may be, and `kiln kill` ends it',
  });
}

function answerError(path: string): KilnError {
  return new KilnError('E_MACHINE', `the machine’s answer about ${path} is none`, {
    hint: 'something in the machine has broken its kernel: nothing of it can be trusted',
  });
}

async function isAnyFull(channel: Channel, paths: readonly string[]): Promise<boolean> {
  const patterns = Buffer.from(paths.map((path) => `${path}\0`).join(''));
  if (patterns.length > PATTERNS_MAX) return false;
  return (await order(channel, 'full', { op: 'patterns', patterns })) === 1;
}

/** @throws KilnError E_MACHINE */
async function packFiles(channel: Channel, patterns: Buffer, to: number): Promise<void> {
  if (patterns.length > PATTERNS_MAX) {
    throw new KilnError('E_MACHINE', 'there are too many patterns of artifacts for a machine', {
      hint: 'name a folder that has them all',
    });
  }
  const errno = await order(channel, 'pack', { op: 'patterns', patterns }, [to]);
  if (errno === 0) return;
  throw new KilnError('E_MACHINE', 'the machine could not pack the artifacts', {
    hint: 'end what still writes to them before the command ends',
    cause: new SyscallError('pack', errno),
  });
}

type OrderName =
  | 'listen'
  | 'connect'
  | 'set-card'
  | 'read'
  | 'full'
  | 'pack'
  | 'mount-image'
  | 'processes'
  | 'forget-names';

/** The value of `done`, however long that takes, or until the signal. Descriptors are sent at once. */
async function order<Name extends OrderName>(
  channel: Channel,
  name: Name,
  field?: RequestField<Name>,
  fds: readonly number[] = [],
  signal?: AbortSignal,
): Promise<number> {
  const id = channel.newId();
  const done = awaitedLater(channel.wait(valueFor(id), signal));
  const fields = field === undefined ? [] : [field];
  channel.send(encodeRequest<RequestName>(name, [{ op: 'id', id }, ...fields]), fds);
  return await done;
}

/** As an order, but no longer than an init may be silent, and the command's own waits. */
async function asked(
  channel: Channel,
  name: 'mount-image',
  field: RequestField<'mount-image'>,
  fds: readonly number[],
): Promise<number> {
  const id = channel.newId();
  const done = awaitedLater(channel.ask(valueFor(id)));
  channel.send(encodeRequest<RequestName>(name, [{ op: 'id', id }, field]), fds);
  return await done;
}

function valueFor(id: number): (answer: Answer) => number | undefined {
  return (answer) => (answer.type === 'done' && answer.id === id ? answer.value : undefined);
}

async function told<A extends 'limited' | 'machine-facts'>(
  channel: Channel,
  name: 'limit' | 'machine',
  fields: readonly RequestField<'limit'>[],
  type: A,
): Promise<AnswerOf<A>> {
  const id = channel.newId();
  const isIt = (answer: Answer): answer is AnswerOf<A> => answer.type === type && answer.id === id;
  const answered = awaitedLater(
    channel.ask((answer) => {
      if (answer.type === 'failed' && answer.id === id) throw operationError(answer);
      return isIt(answer) ? answer : undefined;
    }),
  );
  channel.send(encodeRequest<RequestName>(name, [{ op: 'id', id }, ...fields]));
  return await answered;
}
