import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { DEFAULT_LIMITS } from '../../src/artifacts/budget.ts';
import type { KilnError } from '../../src/errors.ts';
import { CONFINED_IDS } from '../../src/host/confine/launch.ts';
import { type ConfinedOptions, runConfined } from '../../src/host/confine/run.ts';
import { readLayers } from '../../src/jobs/changes/read-layers.ts';
import { until } from '../support/eventually.ts';

const entry = join(import.meta.dirname, 'probe-entry.ts');

async function run(
  task: string,
  input: unknown = null,
  more: Partial<ConfinedOptions<unknown>> = {},
) {
  const messages: unknown[] = [];
  const options = { task, input, entry, validate: (value: unknown) => value, ...more };
  for await (const message of runConfined(options)) messages.push(message);
  return messages;
}

function scratch(t: ExecutionContext): string {
  const path = mkdtempSync('/tmp/kiln-test-confine-');
  t.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Host pids of the confined children that descend from a process, as /proc has them. */
function children(of = process.pid): number[] {
  return readdirSync('/proc').flatMap((name) => {
    const pid = Number(name);
    if (!Number.isInteger(pid)) return [];
    try {
      return status(pid, 'Seccomp') === '2' && descends(pid, of) ? [pid] : [];
    } catch {
      // It ended while we looked.
      return [];
    }
  });
}

function descends(pid: number, of: number): boolean {
  for (let at = pid; at > 1; at = Number(status(at, 'PPid'))) if (at === of) return true;
  return false;
}

const status = (pid: number, field: string) =>
  new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];

/** CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN (filtered), SETFCAP. */
const CAPABILITIES = [0, 1, 3, 4, 21, 31];
const DAC_OVERRIDE = 1;

/** By what the host's /proc tells of the child. */
function enclosed(t: ExecutionContext, pid: number, capabilities: readonly number[]): void {
  t.regex(readFileSync(`/proc/${pid}/uid_map`, 'utf8'), /^\s*0\s+1879048192\s+65536\n$/);
  t.regex(readFileSync(`/proc/${pid}/gid_map`, 'utf8'), /^\s*0\s+1879048192\s+65536\n$/);
  t.is(status(pid, 'Uid'), '1879048192\t1879048192\t1879048192\t1879048192');
  t.is(status(pid, 'NoNewPrivs'), '1');
  t.is(status(pid, 'Seccomp'), '2');
  const bits = (set: readonly number[]) => set.reduce((all, bit) => all | (1n << BigInt(bit)), 0n);
  t.is(BigInt(`0x${status(pid, 'CapBnd')}`) & ~bits(CAPABILITIES), 0n);
  t.is(BigInt(`0x${status(pid, 'CapEff')}`) & ~bits(capabilities), 0n);
  for (const name of ['user', 'mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup']) {
    t.not(readlinkSync(`/proc/${pid}/ns/${name}`), readlinkSync(`/proc/self/ns/${name}`));
  }
  t.deepEqual(readdirSync(`/proc/${pid}/root`), []);
  t.is(readFileSync(`/proc/${pid}/mountinfo`, 'utf8').trim().split('\n').length, 1);
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const seccomp = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8');
    t.regex(seccomp, /^Seccomp:\s2$/m, 'every thread is filtered');
  }
}

test.serial(
  'a child sees an empty root, no programs, and only the files it is given',
  async (t) => {
    const file = join(scratch(t), 'given');
    writeFileSync(file, 'given');
    const fd = openSync(file, 'r');
    const [seen] = (await run('look', null, { fds: [fd] })) as [Record<string, unknown>];
    closeSync(fd);
    const { root, above, host, proc, program, fds, pid } = seen;
    t.deepEqual([root, above, host, proc], [[], [], 'ENOENT', 'ENOENT']);
    t.deepEqual([fds, pid], [['given'], 1]);
    t.regex(String(program), /EPERM/);
  },
);

test.serial(
  'the host sees a child with other ids and namespaces, and few capabilities',
  async (t) => {
    let looked = false;
    for await (const _ of runConfined({ task: 'hold', input: 'sleep', entry, validate: String })) {
      const [pid = 0, ...others] = children();
      t.deepEqual(others, []);
      enclosed(t, pid, CAPABILITIES);
      looked = true;
      break;
    }
    t.true(looked);
    t.deepEqual(children(), [], 'whoever stops early leaves no child');
  },
);

test.serial('what reads layers is enclosed as other children are, and may only read', async (t) => {
  using open = new DisposableStack();
  const fds = ['now', 'before'].map((name) => {
    const folder = join(scratch(t), name);
    mkdirSync(folder);
    writeFileSync(join(folder, 'file'), '');
    // It takes seconds to compare them.
    truncateSync(join(folder, 'file'), 50 * 2 ** 30);
    return open.adopt(openSync(folder, 'r'), closeSync);
  });
  const stop = new AbortController();
  const reading = readLayers({
    ...{ words: ['compare', 1, 1, 9], only: [], fds, range: CONFINED_IDS },
    ...{ validate: String, signal: stop.signal },
  });
  const ended = t.throwsAsync(reading[Symbol.asyncIterator]().next(), { message: 'enough' });
  await until(() => children().length > 0);
  const [pid = 0] = children();
  enclosed(t, pid, [DAC_OVERRIDE]);
  t.regex(readlinkSync(`/proc/${pid}/exe`), /\/dist\/kiln-changes$/);
  stop.abort(new Error('enough'));
  await ended;
  t.deepEqual(children(), []);
});

test.serial(
  'what reads layers says where it failed, and its limits are those of others',
  async (t) => {
    using open = new DisposableStack();
    const folder = scratch(t);
    chmodSync(folder, 0o755);
    // Of an id that the child has not.
    mkdirSync(join(folder, 'sub/closed "ä\nb'), { recursive: true, mode: 0o700 });
    const fd = open.adopt(openSync(folder, 'r'), closeSync);
    const read = async (words: readonly (string | number)[], at = fd) => {
      for await (const _ of readLayers({
        ...{ words, only: [], fds: [at], range: CONFINED_IDS },
        validate: (value) => value,
      }));
    };
    await t.throwsAsync(read(['list']), {
      code: 'E_SYSCALL',
      message: /^openat sub: Permission denied$/,
    });
    chmodSync(join(folder, 'sub'), 0o755);
    await t.throwsAsync(read(['list']), {
      code: 'E_SYSCALL',
      message: 'openat sub/closed "ä\nb: Permission denied',
    });
    const deep = join(folder, 'deep', 'd/'.repeat(DEFAULT_LIMITS.depth));
    mkdirSync(deep, { recursive: true });
    const top = open.adopt(openSync(join(folder, 'deep'), 'r'), closeSync);
    const wanted = {
      code: 'E_ARTIFACT_LIMIT',
      message: `more than ${DEFAULT_LIMITS.depth} folders deep`,
    };
    await t.throwsAsync(read(['list'], top), wanted);
    await read(['list'], open.adopt(openSync(join(deep, '../..'), 'r'), closeSync));
  },
);

for (const name of [
  'chroot',
  'mount',
  'umount',
  'unshare',
  'mknod',
  'setuid',
  'ptrace',
  'socket',
  'fork',
]) {
  test.serial(`${name} is refused`, async (t) => {
    t.deepEqual(await run('call', name), ['EPERM']);
  });
}

test.serial('a child has no network', async (t) => {
  t.regex(String(await run('connect')), /EPERM/);
});

test.serial('the destination is the child’s root, and files get their real owners', async (t) => {
  const destination = scratch(t);
  const [[uid, gid, mode, outside]] = (await run('write', null, { destination })) as [unknown[]];
  t.deepEqual([uid, gid, mode], [100, 200, 0o6755]);
  t.is(outside, 'EINVAL', 'an id beyond the range');
  const stat = statSync(join(destination, 'file'));
  t.deepEqual([stat.uid, stat.gid, stat.mode & 0o7777], [100, 200, 0o6755]);
  t.false(readFileSync('/proc/self/mountinfo', 'utf8').includes(destination));
});

const failure = (task: string, input: unknown, more: Partial<ConfinedOptions<unknown>> = {}) =>
  run(task, input, more).then(
    (messages) => ({ code: `ended: ${messages}`, message: '', cause: undefined }),
    (error: KilnError) => error,
  );

test.serial('a child’s memory is limited, for buffers and for objects', async (t) => {
  const limits = { memory: 512 * 1024 * 1024 };
  // A buffer that cannot be had is an error in the child; an object that cannot be had its end.
  t.regex(
    (await failure('buffers', null, { limits })).message,
    /Array buffer allocation failed|died/,
  );
  t.is((await failure('objects', null, { limits })).code, 'E_CONFINE_DIED');
});

test.serial('a child’s processor time, time and file size are limited', async (t) => {
  const cpu = await failure('hold', 'spin', { limits: { cpuSeconds: 1 } });
  t.is(cpu.code, 'E_CONFINE_DIED');
  t.regex(cpu.message, /SIGKILL|SIGXCPU/);
  const wall = await failure('hold', 'sleep', { limits: { wallMs: 1000 } });
  t.is(wall.code, 'E_CONFINE_TIMEOUT');
  const destination = scratch(t);
  const size = await failure('fill', null, { destination, limits: { fileSize: 1024 * 1024 } });
  t.regex(`${size.code} ${size.message}`, /E_CONFINE_DIED|E_FILE_TOO_BIG/);
  t.is(statSync(join(destination, 'big')).size, 1024 * 1024);
});

test.serial('a malformed message ends the child', async (t) => {
  const frame = (bytes: string) => failure('raw', bytes);
  t.regex((await frame('ffffffff')).message, /4294967295 bytes is too long/);
  t.regex((await frame('030000007b7b7b')).message, /not JSON/);
  t.regex((await frame('010000000a')).message, /not JSON/);
  t.regex((await frame('0100000031')).message, /no object/);
  t.is((await failure('reply', { type: 'shell' })).code, 'E_CONFINE_PROTOCOL');
  t.deepEqual(children(), []);
});

test.serial('a message that the caller does not accept ends the child', async (t) => {
  const validate = () => {
    throw new TypeError('not that');
  };
  const error = await failure('many', null, { validate });
  t.is(error.code, 'E_CONFINE_PROTOCOL');
  t.is((error.cause as Error).message, 'not that');
  t.deepEqual(children(), []);
});

test.serial('an error of the child keeps its code, but no control characters', async (t) => {
  const failed = (error: unknown) => failure('reply', { type: 'failed', error });
  const named = await failed({
    code: 'E_RPM_FORMAT',
    message: 'bad \u001b[2Jfile',
    causes: ['why'],
  });
  t.is(named.code, 'E_RPM_FORMAT');
  t.is(named.message, 'bad \ufffd[2Jfile');
  t.is((named.cause as Error).message, 'why');
  t.is((await failed({ code: 'rm -rf', message: 1 })).code, 'E_CONFINE_PROTOCOL');
  t.is((await failed({ code: 'E_NOT_KILNS', message: 'x' })).code, 'E_CONFINE_PROTOCOL');
  t.is((await failed(null)).code, 'E_CONFINE_PROTOCOL');
  t.is((await failed({ message: 'x'.repeat(100000) })).message.length, 4096);
  t.is((await failure('fail', 'a bug')).code, 'E_INTERNAL');
  t.regex((await failure('exit', null)).message, /died \(exit status 3\)/);
  t.is((await failure('constructor', null)).code, 'E_CONFINE_PROTOCOL');
});

test.serial('an aborted child is dead when the caller hears of it', async (t) => {
  const signal = AbortSignal.timeout(1500);
  const error = await failure('hold', 'sleep', { signal });
  t.is((error as Error).name, 'TimeoutError');
  t.deepEqual(children(), []);
});

for (const how of ['sleep', 'spin']) {
  test.serial(`a child that does ${how} dies with its parent`, async (t) => {
    const program = join(import.meta.dirname, 'hold-parent.ts');
    const parent = spawn(process.execPath, [program, how], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.teardown(() => parent.kill('SIGKILL'));
    const [line] = await once(parent.stdout, 'data');
    t.is(String(line), 'held\n');
    const held = children(parent.pid);
    t.is(held.length, 1);
    parent.kill('SIGKILL');
    await once(parent, 'exit');
    t.true(await until(() => !held.some((pid) => existsSync(`/proc/${pid}`))));
  });
}
