import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { connect, openConnection } from '../../src/host/libvirt/connection.ts';
import { isWatchedNow } from '../../src/host/libvirt/controllers.ts';
import {
  embeddedDaemonStatus,
  ensureEmbeddedDaemon,
  sweepEndedDaemons,
} from '../../src/host/libvirt/embedded/daemon.ts';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { homeOf } from '../../src/host/libvirt/embedded/launch.ts';
import { LibvirtError } from '../../src/host/libvirt/errors.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { type PrivateState, privateState, processesWith, WAITING } from './private-state.ts';

const CHILD = join(import.meta.dirname, 'fixture-child.ts');

function child(state: PrivateState, ...words: string[]): ChildProcess {
  return spawn(process.execPath, [CHILD, ...words], {
    env: state.env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

async function firstLine(process: ChildProcess): Promise<string> {
  let text = '';
  for await (const chunk of process.stdout ?? []) {
    text += chunk;
    if (text.includes('\n')) break;
  }
  return text.trim();
}

/** kill -9 of the daemon, as a crash; its pid. */
async function crash(state: PrivateState): Promise<number> {
  const { pid } = await embeddedDaemonStatus(state.paths);
  if (pid === undefined) throw new Error('no daemon runs');
  process.kill(pid, 'SIGKILL');
  return pid;
}

/** Waits until `condition` holds; false after `within` milliseconds. */
async function becomes(condition: () => Promise<boolean>, within = 10_000): Promise<boolean> {
  const until = performance.now() + within * PATIENCE;
  while (!(await condition())) {
    if (performance.now() > until) return false;
    await sleep(20);
  }
  return true;
}

/** A domain's id, which is the pid of its controller. */
async function idOf(state: PrivateState, name: string): Promise<number> {
  return Number(await state.virsh('domid', name));
}

async function gone(pid: number): Promise<boolean> {
  return becomes(async () => (await stat(`/proc/${pid}`).catch(() => undefined)) === undefined);
}

test('a sweep removes the cgroups of a daemon that ended, not of one that runs', async (t) => {
  const [ended, runs, sweeps] = [
    await privateState(t),
    await privateState(t),
    await privateState(t),
  ];
  const there = async ({ paths }: PrivateState) => {
    const { joined } = await homeOf(embeddedFiles(paths));
    return joined.filter((path) => existsSync(path)).length;
  };
  const daemon = await ensureEmbeddedDaemon(ended.paths, 1);
  await ensureEmbeddedDaemon(runs.paths, 600);
  t.true(await gone(daemon.pid));
  const before = await there(runs);
  t.true(before > 0);
  // Under systemd a unit's cgroups are systemd's to remove.
  await sweepEndedDaemons(sweeps.paths);
  t.is(await there(ended), 0);
  t.is(await there(runs), before);
  t.true((await embeddedDaemonStatus(runs.paths)).running);
  // What was removed is made again.
  await ensureEmbeddedDaemon(ended.paths, 60);
  t.true((await there(ended)) > 0);
});

test('the parent of the domains’ cgroups is set up before there is a domain', async (t) => {
  const state = await privateState(t);
  const { pid } = await ensureEmbeddedDaemon(state.paths, 60);
  // As the kernel has it: the daemon’s own line of each hierarchy, below where that is mounted.
  const mounts = await readFile('/proc/self/mounts', 'latin1');
  const own = await readFile(`/proc/${pid}/cgroup`, 'latin1');
  const mount = /^\S+ (\S+) cgroup \S*\bcpuset\b/m.exec(mounts)?.[1];
  const group = /^\d+:cpuset:(.+)$/m.exec(own)?.[1];
  if (mount === undefined || group === undefined) {
    t.pass('cgroup v2 has no cpusets that must be filled');
    return;
  }
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    const here = await readFile(join(mount, group, 'machine', file), 'latin1');
    t.is(here, await readFile(join(mount, group, file), 'latin1'));
    t.not(here.trim(), '');
  }
});

test('a domain is in the kernel, in virsh and in the daemon’s own cgroup, then is gone', async (t) => {
  const state = await privateState(t);
  {
    await using connection = await connect({ paths: state.paths, env: state.env });
    const domain = await connection.createDomain(state.xml('whole', WAITING));
    const id = await idOf(state, 'whole');
    t.is((await state.virsh('domuuid', 'whole')).trim(), domain.uuid);
    t.is((await state.virsh('list', '--name')).trim(), 'whole');

    // The controller and, in namespaces of its own, the init.
    const [init] = (await readFile(`/proc/${id}/task/${id}/children`, 'latin1')).split(' ');
    t.regex(await readFile(`/proc/${init}/cmdline`, 'latin1'), /^\/bin\/sh\0-c\0trap/);
    for (const kind of ['mnt', 'pid', 'net', 'ipc', 'uts']) {
      t.not(await readlink(`/proc/${init}/ns/${kind}`), await readlink(`/proc/self/ns/${kind}`));
    }
    const cgroups = await readFile(`/proc/${init}/cgroup`, 'latin1');
    t.regex(cgroups, new RegExp(`/${state.files.name}[^/]*/machine/lxc-\\d+-whole`));
    t.notRegex(cgroups, new RegExp(`memory:/(?!.*${state.files.name})`));

    const { pid } = await embeddedDaemonStatus(state.paths);
    t.not(await readlink(`/proc/${pid}/ns/mnt`), await readlink('/proc/self/ns/mnt'));
    t.not(await readlink(`/proc/${pid}/ns/cgroup`), await readlink('/proc/self/ns/cgroup'));
    // A start closes as many descriptors, so they are few where kiln can give commands more.
    const raises = await execa('sh', ['-c', 'ulimit -n 100; ulimit -n 200'], { reject: false });
    const { stdout: most } = await execa('sh', ['-c', 'ulimit -H -n']);
    const limits = await readFile(`/proc/${pid}/limits`, 'latin1');
    const open = /^Max open files +\d+ +(\d+)/m.exec(limits)?.[1];
    t.is(open, raises.exitCode === 0 ? '4096' : most);
    // What sandboxes have of these counts as root's: half of it stays root's own.
    const ours = await readFile('/proc/self/limits', 'latin1');
    for (const line of [
      /^Max pending signals .* (\d+) +signals/m,
      /^Max msgqueue .* (\d+) +bytes/m,
    ]) {
      const [own, its] = [ours, limits].map((text) => Number(line.exec(text)?.[1]));
      t.is(its, Math.floor((own ?? 0) / 2), String(line));
    }
    t.is((await stat(state.files.run)).mode & 0o777, 0o700);
    t.is((await stat(state.files.socket)).mode & 0o777, 0o700);

    t.true(await domain.destroy());
    t.false(await domain.destroy());
    t.is(await state.virsh('list', '--all', '--name').then((text) => text.trim()), '');
    t.true(await gone(Number(init)));
  }
  t.deepEqual(await state.cleared(), []);
});

test('the end of a domain is noticed, and callers get the reason', async (t) => {
  const state = await privateState(t);
  {
    await using connection = await connect({ paths: state.paths, env: state.env });
    const start = async (name: string): Promise<string> => {
      const made = await connection.createDomain(state.xml(name, WAITING));
      // True may have come too early, false is for ever.
      if (await made.isWatched()) await sleep(500);
      if (isWatchedNow(name)) return name;
      // libvirt's race, see there: try another.
      await made.destroy();
      return start(`${name}-again`);
    };
    const ends = await start(`ending-${process.pid}`);
    t.deepEqual(await connection.domainNames(), [ends]);
    const controller = await idOf(state, ends);
    const children = await readFile(`/proc/${controller}/task/${controller}/children`, 'latin1');
    process.kill(Number(children.trim()), 'SIGKILL');
    t.true(await becomes(async () => (await connection.domainNames()).length === 0));
    t.false(isWatchedNow(ends));

    const xml = state.xml('passing', WAITING);
    const wrong = await t.throwsAsync(
      connection.createDomain(xml.replace('<init>/bin/sh</init>', '<init>/no/such</init>')),
      { instanceOf: LibvirtError },
    );
    t.regex(wrong?.message ?? '', /\/no\/such/);
    t.is(wrong?.libvirt?.level, 2);
    const unknown = await t.throwsAsync(
      connection.createDomain(xml.replace("type='exe'", '').replace('>exe<', '>pony<')),
      { instanceOf: LibvirtError },
    );
    t.regex(unknown?.message ?? '', /pony/);
    await connection.createDomain(xml);
    await t.throwsAsync(connection.createDomain(xml), { message: /passing/ });
  }
  t.deepEqual(await state.cleared(), []);
});

test('a domain stays when its maker ends, killed or not', async (t) => {
  const state = await privateState(t);
  {
    await using connection = await connect({ paths: state.paths, env: state.env });
    const maker = child(state, 'create', state.xml('stays', WAITING));
    t.is(await firstLine(maker), 'stays');
    maker.kill('SIGKILL');
    await once(maker, 'exit');
    const short = await openConnection(state.files.uri);
    await short.createDomain(state.xml('stays-too', WAITING));
    await short.close();
    await sleep(500);
    for (const name of ['stays', 'stays-too']) {
      t.is((await state.virsh('domstate', name)).trim(), 'running');
      t.true(await (await connection.lookupByName(name)).destroy());
    }
  }
  t.deepEqual(await state.cleared(), []);
});

test('ten processes at once start one daemon, which outlives them', async (t) => {
  const state = await privateState(t);
  const children = Array.from({ length: 10 }, () => child(state, 'connect'));
  const pids = new Set(await Promise.all(children.map(firstLine)));
  t.is(pids.size, 1);
  await Promise.all(
    children.map(({ exitCode }, index) => exitCode ?? once(children[index]!, 'exit')),
  );
  const daemons = await processesWith(state.files.config);
  t.deepEqual(daemons.map(String), [...pids]);
  t.is((await embeddedDaemonStatus(state.paths)).pid, daemons[0]);
  t.deepEqual(await state.cleared(), []);
});

test('after kill -9 of the daemon, the next call finds the domain running', async (t) => {
  const state = await privateState(t);
  {
    await using connection = await connect({ paths: state.paths, env: state.env });
    const domain = await connection.createDomain(state.xml('survivor', WAITING));
    const id = await idOf(state, 'survivor');
    const first = await crash(state);
    t.true(await gone(first));
    t.false((await embeddedDaemonStatus(state.paths)).running);

    t.deepEqual(await connection.domainNames(), ['survivor']);
    t.is((await connection.lookupByName('survivor')).uuid, domain.uuid);
    t.is(await idOf(state, 'survivor'), id);
    t.is((await state.virsh('domstate', 'survivor')).trim(), 'running');
    t.not((await embeddedDaemonStatus(state.paths)).pid, first);

    // In the same cgroup as before, where new ones go too; all can be ended.
    const other = await connection.createDomain(state.xml('newcomer', WAITING));
    for (const one of [domain, other]) {
      const cgroup = await readFile(`/proc/${await idOf(state, one.name)}/cgroup`, 'latin1');
      t.regex(cgroup, new RegExp(`${state.files.name}[^/]*/machine/lxc-\\d+-${one.name}`));
      t.true(await one.destroy());
    }
    t.true(await gone(Number(id)));

    // A create on a connection that broke unnoticed is made on a new one.
    t.true(await gone(await crash(state)));
    t.is((await connection.createDomain(state.xml('later', WAITING))).name, 'later');
  }
  t.deepEqual(await state.cleared(), []);
});

test('a daemon whose state was deleted is replaced, and its domains end', async (t) => {
  const state = await privateState(t);
  {
    await using connection = await connect({ paths: state.paths, env: state.env });
    await connection.createDomain(state.xml('orphan', WAITING));
    const orphan = await idOf(state, 'orphan');
    const { pid } = await embeddedDaemonStatus(state.paths);
    await rm(state.paths.libvirt, { recursive: true });
    await using next = await connect({ paths: state.paths, env: state.env });
    t.is((await next.createDomain(state.xml('again', WAITING))).name, 'again');
    t.true(await gone(Number(pid)));
    t.true(await gone(orphan));
    t.is((await state.virsh('list', '--name')).trim(), 'again');
  }
  t.deepEqual(await state.cleared(), []);
});

// Alone, so that the process's share of libvirt calls is its own: three are under way at once.
test.serial('calls to a daemon that is killed fail or are answered, and never hang', async (t) => {
  const state = await privateState(t);
  {
    await using connection = await connect({ paths: state.paths, env: state.env });
    const codes = new Set<string>();
    // Which step a create is at is chance: a kill between two of them is healed and goes unnoticed.
    for (let round = 1; round <= 5 && !codes.has('E_LIBVIRT_LOST'); round++) {
      const creates = Array.from({ length: 16 }, (_, index) =>
        connection.createDomain(state.xml(`cut-${round}-${index}`, WAITING)).then(
          () => 'made',
          (error: unknown) => (error instanceof LibvirtError ? error.code : String(error)),
        ),
      );
      await Promise.race(creates);
      await crash(state);
      for (const outcome of await Promise.all(creates)) codes.add(outcome);
    }
    t.true(codes.delete('E_LIBVIRT_LOST'));
    codes.delete('made');
    t.deepEqual(
      [...codes].filter((code) => !code.startsWith('E_LIBVIRT')),
      [],
    );
    // Half-made ones are listed as shut off: libvirt's doing. Everything can be ended.
    for (const name of await connection.domainNames()) {
      const running = (await state.virsh('domstate', name)).trim() === 'running';
      t.is(await (await connection.lookupByName(name)).destroy(), running);
    }
    t.deepEqual(await connection.domainNames(), []);
    t.is((await state.virsh('list', '--all', '--name')).trim(), '');
  }
  t.deepEqual(await state.cleared(), []);
});

test('an idle daemon ends by itself, and one with a domain stays', async (t) => {
  const state = await privateState(t);
  const options = { paths: state.paths, env: state.env };
  await ensureEmbeddedDaemon(state.paths, 2 * PATIENCE);
  const connection = await connect(options);
  const domain = await connection.createDomain(state.xml('parked', WAITING));
  const { pid } = await embeddedDaemonStatus(state.paths);
  await connection.close();
  await t.throwsAsync(domain.destroy(), { code: 'E_LIBVIRT_CLOSED' });
  await sleep(4500 * PATIENCE);
  t.is((await embeddedDaemonStatus(state.paths)).pid, pid);
  {
    await using again = await connect(options);
    await (await again.lookupByName('parked')).destroy();
    t.is((await embeddedDaemonStatus(state.paths)).pid, pid);
  }
  t.true(await gone(pid ?? 0));
  t.false((await embeddedDaemonStatus(state.paths)).running);
  t.deepEqual(await state.cleared(), []);
});

test('a stale socket and a pid file that names an unrelated process are replaced, the process lives', async (t) => {
  const state = await privateState(t);
  await mkdir(state.files.run, { recursive: true, mode: 0o700 });
  const stranger = spawn('/bin/sleep', ['100']);
  await writeFile(state.files.pid, `${stranger.pid}\n`);
  const listener = createServer().listen(state.files.socket);
  await once(listener, 'listening');
  // Closing would remove the file: a killed process leaves it, as this copy does.
  const left = spawn('/bin/sh', ['-c', `ln '${state.files.socket}' '${state.files.socket}.left'`]);
  await once(left, 'exit');
  listener.close();
  await once(listener, 'close');
  const back = spawn('/bin/mv', [`${state.files.socket}.left`, state.files.socket]);
  await once(back, 'exit');
  t.true((await stat(state.files.socket)).isSocket());

  const daemon = await ensureEmbeddedDaemon(state.paths);
  t.is((await state.virsh('list', '--name')).trim(), '');
  t.is(stranger.exitCode, null);
  t.is(stranger.signalCode, null);
  stranger.kill();
  t.deepEqual(await ensureEmbeddedDaemon(state.paths), daemon);
  t.deepEqual(await state.cleared(), []);
});

test('a daemon that cannot start says why, with the end of its log', async (t) => {
  const state = await privateState(t);
  await mkdir(state.paths.libvirt, { recursive: true });
  // A file where a directory is bound from.
  await writeFile(join(state.paths.libvirt, 'lib'), '');
  const error = await t.throwsAsync(ensureEmbeddedDaemon(state.paths));
  t.regex(String(error), /EEXIST|E_LIBVIRT_START|ended with status/);
  t.deepEqual(await state.cleared(), []);
});
