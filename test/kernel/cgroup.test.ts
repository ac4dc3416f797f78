import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { parseCgroupMounts, removeOwnCgroups } from '../../src/host/cgroup/cgroup.ts';
import { ProcessCgroups } from '../../src/host/cgroup/cgroup-files.ts';

const V1_FIXTURE = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,favordynmods,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw,nsdelegate
`;

/** Where a controller of this machine is, from /proc/cgroups and the usual mounts: not our parser. */
function rootOf(controller: string): { path: string; version: 1 | 2 } {
  const v1 = `/sys/fs/cgroup/${controller}`;
  return existsSync(`${v1}/cgroup.procs`)
    ? { path: v1, version: 1 }
    : { path: '/sys/fs/cgroup', version: 2 };
}

/**
 * A shell that waits for a line before it runs `script`, in groups of its own as libvirt makes them
 * for a domain; the groups are gone after the test.
 */
async function waitingShell(t: ExecutionContext, script: string) {
  const name = `kiln-test-${process.pid}-${Math.random().toString(36).slice(2)}`;
  const child = spawn('bash', ['-c', `read; ${script}`], { stdio: ['pipe', 'pipe', 'ignore'] });
  const pid = child.pid ?? 0;
  const directories = new Set<string>();
  for (const controller of ['memory', 'cpu', 'cpuacct', 'blkio', 'io']) {
    const { path, version } = rootOf(controller);
    // A v1 host without this controller: /sys/fs/cgroup itself is then only a tmpfs.
    if (version === 2 && !existsSync(join(path, 'cgroup.controllers'))) continue;
    if (version === 2) {
      const wanted = '+memory +cpu +io +pids';
      writeFileSync(join(path, 'cgroup.subtree_control'), wanted);
    } else if (!existsSync(path)) continue;
    directories.add(join(path, name));
  }
  for (const directory of directories) {
    mkdirSync(directory);
    writeFileSync(join(directory, 'cgroup.procs'), String(pid));
  }
  t.teardown(async () => {
    child.kill('SIGKILL');
    await removeOwnCgroups(name);
    for (const directory of directories) await removeGroup(directory);
  });
  return { child, pid, name, cgroups: ProcessCgroups.of(pid) };
}

async function removeGroup(directory: string): Promise<void> {
  for (let tries = 0; tries < 100; tries += 1) {
    try {
      rmdirSync(directory);
      return;
    } catch {
      await sleep(20);
    }
  }
}

/** Lets the shell go on and waits for its end. */
async function finish(child: ChildProcess) {
  // Not `exit`, which may come before the last of the output.
  const ended = once(child, 'close');
  let output = '';
  child.stdout?.on('data', (chunk) => {
    output += chunk;
  });
  child.stdin?.write('\n');
  const [code, signal] = await ended;
  return { code: code as number | null, signal: signal as string | null, output };
}

test('mountinfo is parsed: v1, v2, combined and named hierarchies, and escapes', (t) => {
  t.deepEqual(parseCgroupMounts(V1_FIXTURE), [
    { path: '/sys/fs/cgroup/cpu,cpuacct', root: '/', version: 1, controllers: ['cpu', 'cpuacct'] },
    { path: '/sys/fs/cgroup/systemd', root: '/', version: 1, controllers: ['name=systemd'] },
    { path: '/sys/fs/cgroup/uni fied', root: '/', version: 2, controllers: [] },
  ]);
});

test('a process beyond the memory limit is killed, and the kill is counted', async (t) => {
  const { child, pid, name, cgroups } = await waitingShell(t, 'tail /dev/zero; echo $?');
  cgroups.limit(pid, name, { memory: 40 * 2 ** 20 });
  const { output } = await finish(child);
  t.is(output, '137\n');
  const usage = cgroups.usage(name);
  t.true((usage.oomKills ?? 0) >= 1);
  t.true(
    (usage.peakMemoryBytes ?? 0) > 30 * 2 ** 20 && (usage.peakMemoryBytes ?? 0) <= 40 * 2 ** 20,
  );
});

test('without a limit nothing is killed, and processor time is what times says', async (t) => {
  const script = 'for ((i = 0; i < 400000; i++)); do :; done; times';
  const { child, name, cgroups } = await waitingShell(t, script);
  const before = cgroups.usage(name);
  const { output } = await finish(child);
  const usage = cgroups.usage(name);
  const [user = 0, system = 0] = [...output.split('\n')[0]!.matchAll(/(\d+)m([\d.]+)s/g)].map(
    ([, minutes, seconds]) => Number(minutes) * 60 + Number(seconds),
  );
  const used = ((usage.cpuMicroseconds ?? 0) - (before.cpuMicroseconds ?? 0)) / 1e6;
  t.true(Math.abs(used - user - system) < 0.2 + used * 0.3, `${used} ${output}`);
  const parts = (at: typeof usage) =>
    ((at.cpuUserMicroseconds ?? 0) + (at.cpuSystemMicroseconds ?? 0)) / 1e6;
  const split = parts(usage) - parts(before);
  // Linux before 5.17 counts these by looking at the process once in a tick: beside others that is a guess.
  t.true(split > used / 3 && split < used * 3, `${split} ${used}`);
  t.is(usage.oomKills, 0);
});

test('a processor limit slows a process down', async (t) => {
  const script = 'for ((i = 0; i < 150000; i++)); do :; done';
  const { child, pid, name, cgroups } = await waitingShell(t, script);
  cgroups.limit(pid, name, { cpus: 0.25 });
  const started = performance.now();
  await finish(child);
  const took = performance.now() - started;
  const used = (cgroups.usage(name).cpuMicroseconds ?? 0) / 1000;
  // A quarter of the time, but for the first period.
  t.true(took > used * 2.5, `${took} ms for ${used} ms`);
});

test('a limit of processes refuses forks, and counts them', async (t) => {
  const script = 'for i in {1..20}; do sleep 1 & done; wait; exit 0';
  const { child, pid, name, cgroups } = await waitingShell(t, script);
  cgroups.limit(pid, name, { pids: 8 });
  const group = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  t.true(group.includes(name), group);
  await finish(child);
  const usage = cgroups.usage(name);
  t.true((usage.pidsRefused ?? 0) > 0);
  t.is(usage.peakPids, 8);
  await removeOwnCgroups(name);
  t.false(existsSync(join(rootOf('pids').path, 'kiln', name)));
  await t.notThrowsAsync(removeOwnCgroups(name));
});

test('bytes read from and written to disk are counted', async (t) => {
  const { child, name, cgroups } = await waitingShell(
    t,
    `f=$(mktemp -p /var/tmp); head -c 3M /dev/urandom > $f; sync $f
     dd if=$f of=/dev/null iflag=direct bs=1M status=none; rm $f; echo done; read`,
  );
  child.stdin?.write('\n');
  await once(child.stdout!, 'data');
  const { readBytes = 0, writtenBytes = 0 } = cgroups.usage(name);
  const about = (bytes: number) => bytes >= 3 * 2 ** 20 && bytes < 16 * 2 ** 20;
  t.true(about(readBytes) && about(writtenBytes), `${readBytes} ${writtenBytes}`);
});

test('a process that already is in its own pids group is limited there', async (t) => {
  const { child, pid, name, cgroups } = await waitingShell(t, 'exit 0');
  await cgroups.prepare(pid, name);
  const before = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  const prepared = ProcessCgroups.of(pid);
  prepared.limit(pid, name, { pids: 8 });
  t.is(readFileSync(`/proc/${pid}/cgroup`, 'utf8'), before);
  t.is(prepared.limits(name).pids, 8);
  await finish(child);
});

test('a limit that cannot be set is an error', async (t) => {
  const { pid, name, cgroups } = await waitingShell(t, 'true');
  t.throws(() => cgroups.limit(pid, name, { memory: -5 }), { code: 'E_LIMIT' });
  t.throws(() => ProcessCgroups.of(0x7ffffff0));
});
