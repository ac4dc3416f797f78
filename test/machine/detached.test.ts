/** A detached job in a machine: looked at while it runs, by kiln and from outside. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import anyTest from 'ava';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';
import { processesNaming } from '../support/processes.ts';

const test = anyTest.serial;

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(() => state[Symbol.asyncDispose]());

const kiln = (...words: string[]) => state.kiln(words, { timeout: 240_000 * PATIENCE });

const MEBIBYTE = 2 ** 20;

/** What the host's kernel has in a file of a process's control group, of either version, and of those above it. */
function limitsOf(pid: number, controller: string, ...files: readonly string[]): string[] {
  const groups = readFileSync(`/proc/${pid}/cgroup`, 'latin1').trim().split('\n');
  const found = groups.flatMap((line) => {
    const [, controllers = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers !== '' && !controllers.split(',').includes(controller)) return [];
    const top = join('/sys/fs/cgroup', controllers === '' ? '' : controller);
    const names = path.split('/').filter(Boolean);
    return names.flatMap((_, nth) => {
      const place = join(top, ...names.slice(0, names.length - nth));
      return files.map((file) => join(place, file));
    });
  });
  return found.filter(existsSync).map((path) => readFileSync(path, 'latin1').trim());
}

/** A process's sockets by the kernel's list: the names of those that have one, and which are no unix sockets. */
function socketsOf(pid: number) {
  const held = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    const [, inode] = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`)) ?? [];
    return inode ?? [];
  });
  const lines = readFileSync(`/proc/${pid}/net/unix`, 'latin1').trim().split('\n').slice(1);
  const named = new Map<string, string | undefined>();
  for (const line of lines) {
    const [inode = '', name] = line.trim().split(/\s+/).slice(6);
    named.set(inode, name);
  }
  return {
    names: held.flatMap((inode) => named.get(inode) ?? []),
    others: held.filter((inode) => !named.has(inode)),
  };
}

/** Whether somebody who is nobody on the host comes to a path, if it is there at all. */
function isOpenToAll(path: string): boolean {
  const above = dirname(path);
  return above === path || ((statSync(above).mode & 1) === 1 && isOpenToAll(above));
}

test('a detached job in a machine is listed, bounded from outside, awaited and read', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const own = `guest=${domainPrefix(state.paths)}`;
  const bound = join(state.beside, 'bound');
  mkdirSync(bound, { mode: 0o777 });
  const script = `sleep 1001 & sleep 1002 & head -c 30000000 /dev/zero >/tmp/file; echo begun; touch /b/begun
while [ ! -e /b/go ]; do sleep 0.1; done; echo over >&2; echo made > /tmp/made; exit 3`;
  const started = await kiln(
    ...['run', '--isolation', 'vm', '--allow-missing', 'kvm', '-r', IMAGE, '--detach'],
    ...['--name', 'nightly', '--memory', '256M', '--cpus', '0.5', '--bind', `${bound}:/b`],
    ...['--artifact', '/tmp/made', '--', 'sh', '-c', script],
  );
  t.is(started.exitCode, 0, String(started.stderr));
  t.true(await until(() => existsSync(join(bound, 'begun'))));

  const top = String((await kiln('top', 'nightly', '--format', '{{.Command}}')).stdout);
  for (const command of ['sleep 1001', 'sleep 1002']) t.true(top.includes(command), top);
  // Whatever the guest's kernel does, qemu has no more, by the host's own count.
  const [qemu = 0, ...others] = processesNaming(own);
  t.deepEqual(others, []);
  const bytes = limitsOf(qemu, 'memory', 'memory.max', 'memory.limit_in_bytes').map(Number);
  const memory = Math.min(...bytes.filter((limit) => limit > 0));
  t.true(memory > 256 * MEBIBYTE && memory < 2048 * MEBIBYTE, String(memory));
  const shown = await kiln('stats', '--no-stream', '--json', 'nightly');
  const [stats] = JSON.parse(String(shown.stdout));
  t.like(stats, { name: 'nightly', state: 'running', memoryLimitBytes: memory });
  t.true(stats.memoryBytes > 30_000_000 && stats.memoryBytes < memory, String(stats.memoryBytes));
  // Of version 1 the period is the kernel's usual one.
  const shares = limitsOf(qemu, 'cpu', 'cpu.max', 'cpu.cfs_quota_us').map((text) => {
    const [quota, period = '100000'] = text.split(' ');
    return Number(quota) / Number(period);
  });
  t.is(Math.min(...shares.filter((share) => share > 0)), 0.5);
  // Nothing of qemu's can be reached from other sandboxes, not from one on the host's network either.
  const { names, others: ofNetworks } = socketsOf(qemu);
  t.true(names.length > 0);
  t.deepEqual(
    names.filter((name) => !name.startsWith('/') || (existsSync(name) && isOpenToAll(name))),
    [],
  );
  t.deepEqual(ofNetworks, []);

  writeFileSync(join(bound, 'go'), '');
  const waited = await kiln('wait', 'nightly');
  t.is(waited.exitCode, 3, String(waited.stderr));
  const logs = await kiln('logs', 'nightly');
  t.is(`${logs.stdout} ${logs.stderr}`, 'begun over');
  const results = join(state.beside, 'results');
  t.is((await kiln('results', 'nightly', results)).exitCode, 0);
  t.is(readFileSync(join(results, 'made'), 'utf8'), 'made\n');
  t.like(JSON.parse(readFileSync(join(results, 'result.json'), 'utf8')), { exit: { code: 3 } });
  t.deepEqual(processesNaming(own), []);
});
