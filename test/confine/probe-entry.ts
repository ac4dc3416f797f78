/** A confined child whose tasks try what a hostile file might make it do. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect } from 'node:net';
import koffi from 'koffi';
import { KilnError } from '../../src/errors.ts';
import { serveConfined } from '../../src/host/confine/child.ts';
import { encodeFrame } from '../../src/host/confine/frame.ts';
import { type PerformWork, REPLY_FD, type SingleTask } from '../../src/host/confine/task.ts';
import { limitResource } from '../../src/host/process/process.ts';

const libc = koffi.load(null);
const calls: Record<string, () => number> = {
  chroot: () => libc.func('int chroot(const char *path)')('/'),
  mount: () =>
    libc.func('int mount(const char *, const char *, const char *, unsigned long, void *)')(
      ...(['x', '/', 'tmpfs', 0, null] as const),
    ),
  umount: () => libc.func('int umount2(const char *, int)')('/', 2),
  unshare: () => libc.func('int unshare(int)')(0x10000000),
  mknod: () =>
    libc.func('int mknod(const char *path, unsigned int mode, unsigned long device)')(
      '/n',
      0o20666,
      259,
    ),
  setuid: () =>
    libc.func('int setresuid(unsigned int real, unsigned int effective, unsigned int saved)')(
      1,
      1,
      1,
    ),
  ptrace: () => libc.func('long ptrace(long, int, void *, void *)')(16, 1, null, null),
  socket: () => libc.func('int socket(int, int, int)')(2, 1, 0),
  fork: () => libc.func('int vfork()')(),
};

/** The result, or the name of the error. */
function attempt(action: () => unknown): unknown {
  try {
    return action();
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
}

const task = (run: SingleTask['run']) => async () => ({ task: { run } });

const queue = (perform: PerformWork) => async () => ({ task: { begin: () => perform } });

/** Stays busy without giving the event loop a turn. */
function spin(): never {
  for (;;);
}

await serveConfined({
  async look() {
    // What a system call needs is loaded before the door closes.
    const errno = koffi.errno();
    return {
      task: {
        run(_input, { fds, emit }) {
          emit({
            errno,
            root: attempt(() => readdirSync('/')),
            above: attempt(() => readdirSync('/../..')),
            host: attempt(() => readdirSync('/etc')),
            proc: attempt(() => readFileSync('/proc/self/status', 'utf8')),
            program: attempt(() => spawnSync('/bin/true').error?.message),
            fds: fds.map((fd) => readFileSync(fd, 'utf8')),
            pid: process.pid,
          });
        },
      },
    };
  },
  call: task((input, { emit }) => {
    const result = calls[String(input)]!();
    emit(result === -1 ? koffi.os.errno.EPERM === koffi.errno() && 'EPERM' : result);
  }),
  connect: task(async (_input, { emit }) => {
    const socket = connect(80, '192.0.2.1');
    emit(await new Promise((resolve) => socket.on('error', (e) => resolve(e.message))));
  }),
  write: task((_input, { emit }) => {
    writeFileSync('/file', 'content');
    chownSync('/file', 100, 200);
    chmodSync('/file', 0o6755);
    const { uid, gid, mode } = statSync('/file');
    emit([uid, gid, mode & 0o7777, attempt(() => chownSync('/file', 70000, 0))]);
  }),
  hold: task((input, { emit }) => {
    emit('held');
    if (input === 'sleep') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    spin();
  }),
  read: queue(({ input, fds: [fd] }) => [input, readFileSync(fd!, 'utf8')]),
  progress: queue(({ input }, emit) => emit(input)),
  full: queue(({ input }) => {
    limitResource('nofile', REPLY_FD);
    return input;
  }),
  twice: queue(({ input }) => {
    if (input === 0) writeSync(REPLY_FD, encodeFrame({ type: 'answered', value: 'more' }));
    return 'asked';
  }),
  silent: queue(({ input }) => {
    if (input === 1) {
      writeSync(REPLY_FD, encodeFrame({ type: 'done' }));
      spin();
    }
    return 'asked';
  }),
  crash: queue(({ input }) => {
    if (input === 3) process.abort();
    if (input === 2) throw new KilnError('E_RPM_DIGEST', 'not two');
    return 'done';
  }),
  'crash-midway': queue(({ input }, emit) => {
    emit('begun');
    if (input === 3) process.abort();
    return input;
  }),
  'crash-later': queue(({ input }) => {
    if (input === 1) setImmediate(() => process.abort());
    return input;
  }),
  'crash-group': queue(({ input }) => {
    if ((input as number[]).includes(3)) process.abort();
    return input;
  }),
  'crash-slowly': queue(({ input }) => {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, input as number);
    process.abort();
  }),
  stillborn: async () => ({ task: { begin: () => process.abort() } }),
  buffers: task((_input, { emit }) => {
    const held: Buffer[] = [];
    for (;;) {
      held.push(Buffer.alloc(16 * 1024 * 1024, held.length));
      if (held.length > 1024) emit('16 GiB');
    }
  }),
  objects: task((_input, { emit }) => {
    const held: unknown[] = [];
    for (let i = 0; i < 1e9; i += 1) held.push({ i });
    emit(held.length);
  }),
  fill: task((_input, { emit }) => {
    const piece = Buffer.alloc(1024 * 1024);
    for (let i = 0; i < 64; i += 1) writeFileSync('/big', piece, { flag: 'a' });
    emit(statSync('/big').size);
  }),
  raw: task((input) => {
    writeSync(REPLY_FD, Buffer.from(String(input), 'hex'));
    spin();
  }),
  reply: task((input) => {
    writeSync(REPLY_FD, encodeFrame(input));
    spin();
  }),
  many: task((_input, { emit }) => {
    for (let i = 0; ; i += 1) emit(i);
  }),
  fail: task((input) => {
    throw new Error(String(input));
  }),
  exit: task(() => process.exit(3)),
});
process.exit();
