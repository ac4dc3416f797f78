import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { type BusyboxState, IMAGE } from '../../test/support/busybox-state.ts';

const ROOT = '/sys/fs/cgroup';

/** The content of `file` in the nearest cgroup, from `path` up, that has a limit in it. */
async function limitAbove(path: string, file: string): Promise<string | undefined> {
  for (let group = path; group.startsWith(ROOT); group = dirname(group)) {
    const text = (await readFile(join(group, file), 'utf8').catch(() => 'max')).trim();
    if (!text.startsWith('max')) return text;
  }
  return undefined;
}

/** How many threads the `libvirt_lxc` in the cgroup at `path` has. */
async function controllerThreads(path: string): Promise<number> {
  const pids = (await readFile(join(path, 'cgroup.procs'), 'utf8')).trim().split('\n');
  const { stdout } = await execa('ps', ['-o', 'nlwp=,comm=', '-p', pids.join(',')]);
  const line = stdout.split('\n').find((text) => text.endsWith(' libvirt_lxc'));
  return Number.parseInt(line ?? '0', 10);
}

/** The files of the kernel say what `kiln run --memory --cpus --pids` asked for, parked before or not. */
export async function checkLimits(state: BusyboxState): Promise<void> {
  for (const park of [['--none'], ['-n', '1']]) {
    await state.kiln(['park', ...park]);
    await checkRun(state);
  }
}

async function checkRun(state: BusyboxState): Promise<void> {
  const limits = ['--memory', '100M', '--cpus', '0.5', '--pids', '50'];
  const command = state.kiln([
    'run',
    '-r',
    IMAGE,
    ...limits,
    '--',
    'sh',
    '-c',
    'echo up; exec sleep 98765',
  ]);
  const up = once(command.stdout as NodeJS.ReadableStream, 'data');
  const early = await Promise.race([command, up.then(() => undefined)]);
  assert.equal(early, undefined, `it ended at once: ${early?.stderr}`);
  const { stdout } = await execa('ps', ['-e', '-o', 'pid=,args=']);
  const line = stdout.split('\n').find((text) => /^\s*\d+ sleep 98765$/.test(text));
  const pid = line?.trim().split(' ')[0];
  assert.ok(pid, `the command is among the processes:\n${stdout}`);
  const cgroup = (await readFile(`/proc/${pid}/cgroup`, 'utf8')).trim().slice('0::'.length);
  const path = join(ROOT, cgroup);
  assert.equal(await limitAbove(path, 'memory.max'), String(100 * 2 ** 20), `memory of ${cgroup}`);
  assert.equal(await limitAbove(path, 'memory.swap.max'), '0', `swap of ${cgroup}`);
  assert.equal(await limitAbove(path, 'cpu.max'), '50000 100000', `cpu of ${cgroup}`);
  // libvirt's controller shares the group, and is not counted.
  const pids = 50 + (await controllerThreads(path));
  assert.equal(await limitAbove(path, 'pids.max'), String(pids), `pids of ${cgroup}`);
  command.kill('SIGINT');
  assert.equal((await command).exitCode, 130);
}
