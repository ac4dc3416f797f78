/**
 * What a guest can send that has broken its own kernel: to virtiofsd, to the relay, and as artifacts. There is no guest
 * here: relay and virtiofsd are the real ones, started as for a machine, and the test is all that is behind them.
 */
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { closeDescriptor } from '../../src/host/calls/descriptor.ts';
import { Channel } from '../../src/sandbox/command/channel.ts';
import { ensureBootFiles } from '../../src/sandbox/domain/machine/boot-files.ts';
import { filesInside, PortsInside } from '../../src/sandbox/domain/machine/orders.ts';
import { encodeMessage } from '../../src/sandbox/wire/codec.ts';
import { DESCRIPTORS, FRAMES, PORT } from '../../src/sandbox/wire/port.ts';
import { ANSWERS } from '../../src/sandbox/wire/table.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';
import { long } from '../support/long.ts';
import { words } from '../support/port-harness.ts';
import { processesNaming } from '../support/processes.ts';
import { Fuse, HOW, OP, ROOT } from './hostile/fuse.ts';
import { BASE, HostileGuest } from './hostile/guest.ts';

const test = anyTest.serial;

const E = constants.errno;
const SHARES = ['.', '..', '2', '1'];
const SECRET = 'of the host’s root';
const OTHERS = 12_345;
const [O_WRONLY, O_RDWR, O_CREAT, O_PATH] = [0o1, 0o2, 0o100, 0o10000000];
const [S_IFREG, S_IFCHR, S_IFBLK] = [0o100000, 0o020000, 0o060000];

/** A folder of the host: what the guest has of it, and what it has not. */
let place: string;
let program: string;

test.before(async (t) => {
  t.timeout(60_000 * PATIENCE);
  place = await mkdtemp(join(tmpdir(), 'kiln-shared-'));
  chmodSync(place, 0o755);
  program = join(place, 'files');
  const source = join(import.meta.dirname, 'hostile/files.c');
  await execa('cc', ['-std=gnu17', '-D_GNU_SOURCE', '-O1', '-o', program, source]);
  for (const name of ['image', 'bind', 'bind/below', 'outside']) mkdirSync(join(place, name));
  const file = async (name: string, content: string, mode: number, owner = 0) => {
    const path = join(place, name);
    await writeFile(path, content);
    chmodSync(path, mode);
    chownSync(path, owner, owner);
  };
  await file('outside/secret', SECRET, 0o600);
  await file('image/plain', 'of the image\n', 0o644);
  await file('bind/mine', 'of the caller\n', 0o644);
  await file('bind/others', SECRET, 0o600, OTHERS);
  await file('bind/program', '#!/bin/sh\n', 0o755);
  symlinkSync(join(place, 'outside/secret'), join(place, 'bind/out'));
  symlinkSync('../outside/secret', join(place, 'bind/up'));
  symlinkSync('../outside', join(place, 'bind/folder-out'));
});

test.after.always(async () => {
  await rm(place, { recursive: true, force: true });
});

interface Nodes {
  readonly image: bigint;
  readonly bind: bigint;
  readonly of: (path: string) => Promise<bigint>;
}

type Attempt = readonly [
  what: string,
  does: (fuse: Fuse, nodes: Nodes) => Promise<unknown>,
  comesTo: unknown,
];

/** Names that are looked up in a share, and what then can be listed, or the errno: virtiofsd’s root is its shares. */
const WAYS_OUT: Readonly<Record<string, unknown>> = {
  '..': SHARES,
  '../..': SHARES,
  '../../..': SHARES,
  '../../etc/shadow': 'none',
  '/etc/shadow': 'none',
  '/proc/self/root/etc/shadow': 'none',
  '../proc': 'none',
  '../usr': 'none',
  '': 'none',
};

const ATTEMPTS: readonly Attempt[] = [
  ...Object.entries(WAYS_OUT).map(
    ([name, comesTo]): Attempt => [
      `the name ${JSON.stringify(name)} in a share`,
      async (fuse, { bind }) => {
        const found = await fuse.lookup(name, bind);
        return found === undefined ? 'none' : await fuse.list(found);
      },
      comesTo,
    ],
  ),
  [
    'a name of 64 KiB',
    async (fuse, { bind }) => await fuse.mkdir(bind, 'a'.repeat(65_536)),
    E.ENAMETOOLONG,
  ],
  ...['out', 'up', 'folder-out'].map(
    (name): Attempt => [
      `what the link ${name} of the host leads to`,
      async (fuse, { of }) => await fuse.read(await of(`2/${name}`)),
      E.EBADF,
    ],
  ),
  [
    'a file of the host by a link that the guest makes',
    async (fuse, { bind, of }) => {
      await fuse.symlink(bind, 'made', '/etc/passwd');
      return await fuse.read(await of('2/made'));
    },
    E.EBADF,
  ],
  [
    'a folder of the host by a link on the way',
    async (fuse, { of }) => await fuse.lookup('secret', await of('2/folder-out')),
    undefined,
  ],
  [
    'to write through a link by making the file that it leads to',
    async (fuse, { bind }) => (await fuse.create(bind, 'out', 0o644, O_CREAT | O_WRONLY)).error,
    E.EBADF,
  ],
  [
    'a device of characters',
    async (fuse, { bind }) => await fuse.mknod(bind, 'mem', S_IFCHR | 0o666, 0x101),
    E.EPERM,
  ],
  [
    'a device of blocks',
    async (fuse, { bind }) => await fuse.mknod(bind, 'disk', S_IFBLK | 0o666, 0x800),
    E.EPERM,
  ],
  [
    'a set-id file by chmod',
    async (fuse, { of }) => await fuse.set(await of('2/program'), { mode: S_IFREG | 0o4755 }),
    E.EPERM,
  ],
  [
    'a set-gid file by chmod',
    async (fuse, { of }) => await fuse.set(await of('2/program'), { mode: S_IFREG | 0o2755 }),
    E.EPERM,
  ],
  [
    'a set-id file by open',
    async (fuse, { bind }) => (await fuse.create(bind, 'made-1', 0o6755)).error,
    E.EPERM,
  ],
  [
    'a set-id file by mknod',
    async (fuse, { bind }) => await fuse.mknod(bind, 'made-2', S_IFREG | 0o6755),
    E.EPERM,
  ],
  ['a set-gid folder', async (fuse, { bind }) => await fuse.mkdir(bind, 'made-3', 0o2777), E.EPERM],
  [
    'a set-id file without a name',
    async (fuse, { bind }) => (await fuse.create(bind, '', 0o6755, 0o20200000 | O_RDWR)).error,
    E.EPERM,
  ],
  [
    'a file with capabilities',
    async (fuse, { of }) =>
      await fuse.setxattr(
        await of('2/program'),
        'security.capability',
        Buffer.from('0100000200200000000000000000000000000000', 'hex'),
      ),
    E.EPERM,
  ],
  [
    'an attribute of the host’s root',
    async (fuse, { of }) => await fuse.setxattr(await of('2/mine'), 'trusted.x', Buffer.from('1')),
    E.EPERM,
  ],
  [
    'to give a file to an id that the sandbox has not, which the caller’s stands for',
    async (fuse, { of }) => await fuse.set(await of('2/mine'), { uid: 0, gid: 0 }),
    0,
  ],
  [
    'to give a file to another user',
    async (fuse, { of }) => await fuse.set(await of('2/mine'), { uid: OTHERS }),
    E.EOVERFLOW,
  ],
  [
    'a file of another user’s',
    async (fuse, { of }) => await fuse.read(await of('2/others')),
    E.EACCES,
  ],
  [
    'the same, to change its mode',
    async (fuse, { of }) => await fuse.set(await of('2/others'), { mode: S_IFREG | 0o666 }),
    E.EOVERFLOW,
  ],
  [
    'the same, to make it longer',
    async (fuse, { of }) => await fuse.set(await of('2/others'), { size: 1n }),
    E.EACCES,
  ],
  [
    'to write to what is read-only',
    async (fuse, { of }) => (await fuse.open(await of('1/plain'), O_RDWR)).error,
    E.EROFS,
  ],
  [
    'the same by a descriptor that was opened to read',
    async (fuse, { of }) => {
      const node = await of('1/plain');
      return await fuse.write(node, (await fuse.open(node)).handle, 'changed');
    },
    E.EBADF,
  ],
  [
    'the same by a descriptor of no rights',
    async (fuse, { of }) => {
      const node = await of('1/plain');
      return await fuse.write(node, (await fuse.open(node, O_PATH)).handle, 'changed');
    },
    E.EBADF,
  ],
  [
    'a file in what is read-only',
    async (fuse, { image }) => (await fuse.create(image, 'made', 0o644)).error,
    E.EROFS,
  ],
  [
    'to remove what is read-only',
    async (fuse, { image }) => await fuse.remove(image, 'plain'),
    E.EROFS,
  ],
  [
    'to move what is read-only to where it can be written',
    async (fuse, { image, bind }) => await fuse.rename(image, 'plain', bind, 'moved'),
    E.EXDEV,
  ],
  [
    'a second name of it there',
    async (fuse, { bind, of }) => await fuse.link(await of('1/plain'), bind, 'linked'),
    E.EXDEV,
  ],
  [
    'to remove the folder of a share',
    async (fuse) => await fuse.remove(ROOT, '2', OP.rmdir),
    E.EBUSY,
  ],
  [
    'to put another folder in its place',
    async (fuse) => {
      await fuse.mkdir(ROOT, 'other');
      return await fuse.rename(ROOT, 'other', ROOT, '1');
    },
    E.EBUSY,
  ],
  [
    'the memory of the host, by a mapping',
    async (fuse, { of }) =>
      (await fuse.ask(OP.setupmapping, await of('2/mine'), Buffer.alloc(40))).error,
    E.ENOSYS,
  ],
  [
    'an ioctl of the host’s file system',
    async (fuse, { of }) => (await fuse.ask(OP.ioctl, await of('2/mine'), Buffer.alloc(32))).error,
    E.ENOSYS,
  ],
  ['a file by a number that was never given', async (fuse) => await fuse.read(9_999_999n), E.EBADF],
  [
    'a descriptor by a number that was never given',
    async (fuse, { of }) => await fuse.write(await of('2/mine'), 2n ** 63n, 'changed'),
    E.EBADF,
  ],
  [
    'an operation that there is not',
    async (fuse) => (await fuse.ask(9999, ROOT, Buffer.alloc(8))).error,
    E.ENOSYS,
  ],
];

test('a hostile guest’s requests to virtiofsd reach nothing but what is shared', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const shares = [
    { path: join(place, 'image'), readonly: true },
    { path: join(place, 'bind'), readonly: false },
  ];
  await using guest = await HostileGuest.start(shares);
  using fuse = new Fuse(program, guest.file('files.sock'), PORT.ids.base);
  t.is((await fuse.init()).error, 0);
  const of = (path: string) => fuse.find(path);
  const nodes = { of, image: await of('1'), bind: await of('2') };
  t.is(await fuse.read(await of('2/mine')), 'of the caller\n');
  for (const [what, does, comesTo] of ATTEMPTS) {
    t.deepEqual(await does(fuse, nodes), comesTo, what);
  }
  t.is(await fuse.read(await of('2/mine')), 'of the caller\n');
  t.false(fuse.heard.includes(SECRET));
  t.false(fuse.heard.includes('root:'));
  requireUntouched(t);
});

/** The host's own look at what was shared, and at what was not. */
function requireUntouched(t: ExecutionContext): void {
  const find = (...words: string[]) =>
    execFileSync('find', [place, ...words], { encoding: 'utf8' }).trim();
  t.is(find('-type', 'b', '-o', '-type', 'c', '-o', '-perm', '/6000'), '');
  t.is(find('-type', 'f', '!', '-uid', '0', '!', '-uid', String(OTHERS)), '');
  t.is(execFileSync('getcap', ['-r', place], { encoding: 'utf8' }), '');
  for (const name of ['outside/secret', 'bind/others']) {
    t.is(readFileSync(join(place, name), 'utf8'), SECRET);
    t.is(lstatSync(join(place, name)).mode & 0o7777, 0o600);
  }
  t.is(lstatSync(join(place, 'bind/others')).uid, OTHERS);
  t.deepEqual(readdirSync(join(place, 'image')), ['plain']);
  t.deepEqual(readdirSync(join(place, 'outside')), ['secret']);
  t.is(readFileSync(join(place, 'image/plain'), 'utf8'), 'of the image\n');
}

/** What virtiofsd does not answer, or nobody. */
const LAST: Readonly<Record<string, (fuse: Fuse) => Promise<unknown>>> = {
  ...Object.fromEntries(
    Object.entries(HOW)
      .slice(1)
      .map(([what, how]) => [
        what,
        (fuse: Fuse) => fuse.raw(fuse.request(OP.lookup, ROOT, Buffer.from('1\0')), 4096, how),
      ]),
  ),
  'a name without its end': (fuse) => fuse.last(fuse.request(OP.lookup, ROOT, Buffer.from('mine'))),
  'a request that is shorter than its header': (fuse) => fuse.last(Buffer.alloc(20)),
  'a request that is longer than it is': (fuse) =>
    fuse.last(fuse.request(OP.lookup, ROOT, Buffer.from('2\0'), { length: 2 ** 31 })),
};

test('a queue as no driver has it ends the machine at most', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const tries = Object.entries(LAST).map(async ([what, does]) => {
    await using guest = await HostileGuest.start([{ path: join(place, 'bind'), readonly: false }]);
    using fuse = new Fuse(program, guest.file('files.sock'), PORT.ids.base);
    t.is((await fuse.init()).error, 0, what);
    await does(fuse);
    // Either it goes on for this guest, or relay and virtiofsd end; nobody else has them.
    t.true(guest.isAlive || (await guest.ends()), what);
    t.false(fuse.heard.includes(SECRET), what);
  });
  await Promise.all(tries);
  requireUntouched(t);
});

test('relay and virtiofsd have no rights of the host’s that a guest could take', async (t) => {
  await using guest = await HostileGuest.start();
  const [outer, inner, ...files] = guest.processes();
  t.truthy(files[0]);
  t.regex(outer?.status ?? '', /^CapPrm:\t0*20$/m); // CAP_KILL
  for (const { status } of [inner, ...files].filter((each) => each !== undefined)) {
    t.regex(status, new RegExp(`^Uid:\t${BASE}\t${BASE}\t${BASE}\t${BASE}$`, 'm'));
    t.regex(status, /^NoNewPrivs:\t1$/m);
    t.regex(status, /^Seccomp:\t2$/m);
    t.regex(status, /^NSpid:\t\d+\t\d+$/m);
  }
});

/** Frames that are right by themselves, after which a relay goes on, and those at which it ends. */
const FLOODS: readonly (readonly [string, (guest: HostileGuest) => void, ends: boolean])[] = [
  ['half a frame', (guest) => void guest.port.end(Buffer.from([9, 0, 0])), true],
  [
    'a word of its own in the place of a frame',
    (guest) => void guest.port.write('GET / HTTP/1.1\r\n'),
    true,
  ],
  [
    'that the machine has ended, and goes on',
    (guest) => {
      guest.send(FRAMES.gone.type, 0, words(0));
      guest.send(FRAMES.data.type, 1, Buffer.alloc(100));
    },
    true,
  ],
  [
    'a thousand terminals without a carrier',
    (guest) => {
      for (let id = 1; id < 1000; id++)
        guest.send(FRAMES.passed.type, PORT.guest + id, words(1, DESCRIPTORS.terminal, 0));
    },
    true,
  ],
  [
    'answers that nobody has asked for',
    (guest) => {
      guest.send(FRAMES.message.type, 0, Buffer.concat([words(0), Buffer.alloc(1000, 7)]));
    },
    true,
  ],
  [
    'a hundred megabytes on the console',
    (guest) => {
      for (let i = 0; i < 100; i++) guest.console.write(Buffer.alloc(2 ** 20, 0x41));
    },
    false,
  ],
];

test('a flood from a hostile guest fills no disk, or ends the machine', async (t) => {
  t.timeout(120_000 * PATIENCE);
  for (const [what, sends, ends] of FLOODS) {
    await using guest = await HostileGuest.start();
    sends(guest);
    if (ends) {
      t.true(await guest.ends(), what);
      continue;
    }
    t.true(await until(() => guest.console.bytesWritten >= 100 * 2 ** 20), what);
    t.true(guest.isAlive, what);
    t.true(statSync(guest.file('console.log')).size <= 128 << 10, what);
  }
});

test('a guest’s terminals on the host are as few as a sandbox may have', async (t) => {
  await using guest = await HostileGuest.start();
  const { stream, kiln } = await guest.carrier();
  const count = () => Number(readFileSync('/proc/sys/kernel/pty/nr', 'utf8'));
  const before = count();
  for (let id = 1; id <= 64; id++) {
    const passed = words(stream, DESCRIPTORS.terminal, 0);
    guest.send(FRAMES.passed.type, PORT.guest + id, passed);
  }
  t.true(await until(() => count() >= before + 50));
  t.true(guest.isAlive);
  for (let id = 65; id < 1000; id++) {
    guest.send(FRAMES.passed.type, PORT.guest + id, words(stream, DESCRIPTORS.terminal, 0));
  }
  t.true(await guest.ends());
  closeDescriptor(kiln);
});

/** A record of a list of processes, as stage 0 writes it. */
function listed(stat: string, { uid = BASE, command = 'a\0', length = stat.length } = {}): Buffer {
  const pieces = [words(length), stat, words(uid, command.length), command];
  return Buffer.concat(pieces.map((piece) => Buffer.from(piece)));
}

const STAT = `7 (a) S 1 7 7 ${'0 '.repeat(46)}0\n`;
const HONEST = listed(STAT);

/** What a guest answers that is asked for its processes, and the codes of what comes of it, or how many they are. */
const LISTS: readonly (readonly [string, readonly Buffer[], string | number])[] = [
  ['two processes', [HONEST, listed(STAT.replace('(a)', '(b) R 5)')), Buffer.alloc(0)], 2],
  ['no process', [], 0],
  ['a length beyond the end', [listed(STAT, { length: STAT.length + 9 })], 'E_MACHINE'],
  ['a length of four gigabytes', [listed(STAT, { length: 2 ** 32 - 1 })], 'E_MACHINE'],
  ['a length of nothing', [listed(STAT, { length: 0 })], 'E_MACHINE'],
  ['a list without its end', [HONEST.subarray(0, HONEST.length - 3)], 'E_MACHINE'],
  ['a number that is none', [listed(STAT.replace('7', '-7'))], 'E_MACHINE'],
  ['a number without an end', [listed(STAT.replace('7', '7'.repeat(400)))], 'E_MACHINE'],
  ['few numbers', [listed('7 (a) S 1 7 7\n')], 'E_MACHINE'],
  ['a command line of 5000 bytes', [listed(STAT, { command: 'a'.repeat(5000) })], 'E_MACHINE'],
];

/** Answers once kiln has asked. */
async function answer(guest: HostileGuest, sends: (stream: number, id: number) => void) {
  const isAsked = () => guest.received.some(({ type }) => type === FRAMES.order.type);
  if (!(await until(isAsked))) throw new Error('nobody asked');
  const order = guest.received.find(({ type }) => type === FRAMES.order.type);
  sends(guest.lastDescriptor, order?.payload.readUInt32LE(16) ?? 0);
}

const done = (id: number, value: number) =>
  Buffer.concat([
    words(0),
    encodeMessage(ANSWERS.done, [
      { op: 'id', id },
      { op: 'value', value },
    ]),
  ]);

async function askedFor(
  sends: (guest: HostileGuest, stream: number, id: number) => void,
): Promise<string | number> {
  await using guest = await HostileGuest.start();
  const channel = new Channel(guest.connect());
  const asked = filesInside(channel).processes(true);
  const answered = answer(guest, (stream, id) => sends(guest, stream, id));
  const [found] = await Promise.allSettled([asked, answered]);
  await channel.close();
  if (found.status === 'fulfilled') return found.value.length;
  return (found.reason as { code?: string }).code ?? String(found.reason);
}

test('a hostile guest’s list of processes is a list, or refused', async (t) => {
  t.timeout(120_000 * PATIENCE);
  for (const [what, pieces, comesTo] of LISTS) {
    const found = await askedFor((guest, stream, id) => {
      for (const piece of pieces) guest.send(FRAMES.data.type, stream, piece);
      guest.send(FRAMES.end.type, stream);
      guest.send(FRAMES.message.type, 0, done(id, 0));
    });
    t.is(found, comesTo, what);
  }
  const failed = await askedFor((guest, _, id) =>
    guest.send(FRAMES.message.type, 0, done(id, constants.errno.EPIPE)),
  );
  t.is(failed, 'E_MACHINE');
});

test('a descriptor of a wrong kind for what kiln has asked for ends the machine', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const wrong: Readonly<Record<string, (guest: HostileGuest, stream: number) => void>> = {
    'a listener through an output': (guest, stream) =>
      guest.send(FRAMES.passed.type, PORT.guest + 1, words(stream, DESCRIPTORS.listener, 0)),
    'a socket through the connection': (guest) =>
      guest.send(FRAMES.passed.type, PORT.guest + 1, words(0, DESCRIPTORS.socket, 0)),
    'a connection to an output': (guest, stream) =>
      guest.send(FRAMES.open.type, PORT.guest + 1, words(stream)),
    'a datagram of an output': (guest, stream) =>
      guest.send(FRAMES.datagram.type, stream, words(0, 67, 1)),
    'credit for an output': (guest, stream) =>
      guest.send(FRAMES.credit.type, stream, words(2 ** 31)),
    'data after the end': (guest, stream) => {
      guest.send(FRAMES.end.type, stream);
      guest.send(FRAMES.data.type, stream, HONEST);
    },
  };
  for (const [what, sends] of Object.entries(wrong)) {
    t.is(await askedFor((guest, stream) => sends(guest, stream)), 'E_SANDBOX_GONE', what);
  }
});

/** Kinds that a carrier may have, other than what kiln waits for. */
const OTHERS_OF_A_SOCKET = ['terminal', 'listener', 'datagrams'] as const;

test('kiln uses another kind of socket than it waits for as a stream of bytes at most', async (t) => {
  t.timeout(120_000 * PATIENCE);
  for (const kind of OTHERS_OF_A_SOCKET) {
    await using guest = await HostileGuest.start();
    const channel = new Channel(guest.connect());
    const asked = new PortsInside(channel).connect(80);
    await answer(guest, (stream, id) => {
      guest.send(FRAMES.passed.type, PORT.guest + 1, words(stream, DESCRIPTORS[kind], 0));
      guest.send(FRAMES.message.type, 0, done(id, 0));
    });
    const fd = await asked;
    // Not of this process's network, nor of its terminals: nothing of the host's is reached by it.
    const socket = readlinkSync(`/proc/self/fd/${fd}`);
    t.regex(socket, kind === 'terminal' ? /^\/pts\/ptmx$/ : /^socket:/, kind);
    closeDescriptor(fd);
    await channel.close();
  }
});

/** The initramfs with another first program: the kernel unpacks both archives, one after the other. */
async function putInit(state: BusyboxState): Promise<void> {
  const { folder: made } = await ensureBootFiles(state.paths);
  const folder = join(place, 'hostile');
  mkdirSync(folder);
  const top = join(import.meta.dirname, '../..');
  const [guest, machine] = [join(top, 'src/guest'), join(top, 'src/guest/machine')];
  await execa('cc', [
    ...['-static', '-std=gnu17', '-D_GNU_SOURCE', '-O1', '-o', join(folder, 'init')],
    ...[guest, machine, join(top, 'dist/wire')].map((path) => `-I${path}`),
    ...[join(import.meta.dirname, 'hostile/init.c'), join(machine, 'boot.c')],
  ]);
  const archive = await execa('cpio', ['-o', '-H', 'newc', '--quiet'], {
    ...{ cwd: folder, input: 'init\n', encoding: 'buffer' },
  });
  appendFileSync(join(made, 'initramfs'), archive.stdout);
}

/** `done`: the kernel of the guest takes the bit off; the id stands for the caller. */
const REPORT = `device: EPERM
disk: EPERM
set-id by chmod: EPERM
set-gid by chmod: EPERM
set-id by open: EPERM
set-id by mknod: EPERM
set-gid folder: done
owner: done
capability: EPERM
other’s file: EACCES
other’s mode: EOVERFLOW
link out: ENOENT
above: ENOENT
image: EROFS
image’s mode: EROFS
image’s file: EXDEV
second name: EXDEV
share: EBUSY
other share: EINVAL
read: ENODATA
handles: 0
network: lo
ports: vport1p1
disks:
shares: 2
`;

long('a guest that is hostile from its first program on gets nothing of the host', async (t) => {
  t.timeout(400_000 * PATIENCE);
  await using state = await busyboxState();
  await putInit(state);
  const bind = join(place, 'bind');
  const { exitCode, stderr } = await state.kiln(
    [
      ...['run', '--isolation', 'vm', '--allow-missing', 'kvm', '-r', IMAGE],
      ...['--user', 'root', '--bind', `${bind}:/b`, '--', 'true'],
    ],
    { timeout: 300_000 * PATIENCE },
  );
  t.is(exitCode, 125, String(stderr));
  t.regex(String(stderr), /E_PROTOCOL|E_MACHINE|E_SANDBOX_GONE/);
  t.is(readFileSync(join(bind, 'report'), 'utf8'), REPORT);
  unlinkSync(join(bind, 'report'));
  requireUntouched(t);
  t.deepEqual(processesNaming(state.paths.sandboxes), []);
});
