import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { execa } from 'execa';
import { endEngine, eventually, kiln, listed, property, systemctl } from './services.ts';

const names = ['booted', 'plain', 'taken'] as const;
type Name = (typeof names)[number];

const unit = (name: string) => `kiln@${name}.service`;

/** A machine's properties, as machinectl shows them. */
async function machine(name: string, key: string): Promise<string> {
  const { stdout } = await execa('machinectl', ['show', '--value', '--property', key, name]);
  return stdout;
}

async function machines(): Promise<string[]> {
  const { stdout } = await execa('machinectl', ['list', '--no-legend', '--no-pager']);
  return stdout.split('\n').map((line) => line.trim().split(/\s+/).slice(0, 3).join(' '));
}

/** systemd-machined knows services by their names, and can harm nothing else by them. */
export async function checkMachined(): Promise<void> {
  await kiln('image', 'build', 'debian-systemd');
  const create = ['service', 'create', '-r', 'debian-systemd', '--memory', '700M'];
  await kiln(...create, '--boot', 'booted');
  for (const name of ['plain', 'taken']) await kiln(...create, name, '--', 'sleep', 'infinity');
  await execa('systemd-run', ['--unit=stranger', '--quiet', 'sleep', 'infinity']);
  const stranger = await property('stranger.service', 'MainPID');
  const manager = ['org.freedesktop.machine1', '/org/freedesktop/machine1'];
  const words = ['org.freedesktop.machine1.Manager', 'RegisterMachine', 'sayssus', 'taken', '0'];
  await execa('busctl', ['call', ...manager, ...words, 'other', 'container', stranger, '']);
  try {
    await kiln('service', 'start', ...names);
    const found = await machines();
    assert.ok(found.includes('booted container kiln'), found.join('\n'));
    assert.ok(found.includes('plain container kiln'), found.join('\n'));
    for (const name of ['booted', 'plain'] as const) await isRegistered(name);
    await isEntered();
    await isForeign(stranger);
    await isRegisteredAgain();
    await endsAlone();
  } finally {
    await kiln('service', 'stop', ...names);
    await kiln('service', 'delete', '--yes', ...names);
    await systemctl('stop', 'stranger.service', 'system-kiln.slice');
    await endEngine();
  }
  const left = (await machines()).filter((line) => line.endsWith(' kiln'));
  assert.deepEqual(left, []);
}

/** machined has the service's own unit; the init is where its limits are. */
async function isRegistered(name: Name): Promise<void> {
  assert.equal(await machine(name, 'Unit'), unit(name));
  const leader = await machine(name, 'Leader');
  assert.equal(leader, String((await listed(name))?.initPid));
  const group = /^0::(.*)$/m.exec(await readFile(`/proc/${leader}/cgroup`, 'utf8'))?.[1] ?? '';
  assert.ok(!group.includes('kiln@'), group);
  const accounted = group.replace(/\/kiln-boot.*/, '');
  const limit = await readFile(`/sys/fs/cgroup${accounted}/memory.max`, 'utf8');
  assert.equal(Number(limit), 700 * 2 ** 20);
}

/** A booted system has a bus and a journal of its own. */
async function isEntered(): Promise<void> {
  const line = 'echo "shell of $(id -u) in $(hostname), cpu $(cat /proc/1/comm)"';
  const shell = await execa('machinectl', ['-q', 'shell', 'booted', '/bin/sh', '-c', line]);
  assert.match(shell.stdout, /shell of 0 in booted, cpu systemd/);
  const journal = await execa('journalctl', ['-M', 'booted', '--no-pager', '-o', 'cat']);
  assert.match(journal.stdout, /Reached target .*kiln\.target|Startup finished/);
  const refused = await execa('machinectl', ['-q', 'shell', 'plain', '/bin/true'], {
    reject: false,
  });
  assert.notEqual(refused.exitCode, 0, 'without systemd inside there is no shell');
}

/** Whose name is taken runs all the same, and the other machine stays what it is. */
async function isForeign(leader: string): Promise<void> {
  assert.equal((await listed('taken'))?.state, 'running');
  assert.equal(await machine('taken', 'Leader'), leader);
  assert.match(await kiln('service', 'logs', 'taken'), /machinectl does not know it: .*exists/);
}

async function isRegisteredAgain(): Promise<void> {
  const before = await machine('plain', 'Leader');
  process.kill(Number(await property(unit('plain'), 'MainPID')), 'SIGKILL');
  await eventually('the service is registered again', async () => {
    const now = await machine('plain', 'Leader');
    return now !== before && now === String((await listed('plain'))?.initPid);
  });
}

async function endsAlone(): Promise<void> {
  await execa('machinectl', ['terminate', 'plain']);
  await eventually('the unit is down', async () => {
    return (await property(unit('plain'), 'ActiveState')) === 'inactive';
  });
  assert.equal(await property(unit('plain'), 'Result'), 'success');
  assert.equal((await listed('booted'))?.state, 'running');
  assert.equal(await property(unit('booted'), 'ActiveState'), 'active');
}
