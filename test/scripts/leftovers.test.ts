import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import test from 'ava';
import { Leftovers } from '../../scripts/testing/leftovers.ts';
import { type CgroupHierarchy, cgroupHierarchies } from '../../src/host/cgroup/cgroup.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';

/** Longer than a sandbox takes to go, so that what is found stays. */
const GRACE = 3000;

const folders: string[] = [];
/** As scripts/test makes one. */
function folder(): string {
  const path = mkdtempSync(join(realpathSync(tmpdir()), 'kiln-leftovers-'));
  spawnSync('chmod', ['711', path]);
  folders.push(path);
  return path;
}
test.after.always(() => {
  for (const path of folders) rmSync(path, { recursive: true, force: true });
});

const keep = async ({ kiln }: BusyboxState) =>
  await kiln(['run', '-r', IMAGE, '--keep', '--', 'true']);

/** Tests that run meanwhile may leave something for a moment. */
const about = (lines: readonly string[], ...names: readonly string[]) =>
  lines.filter((line) => names.some((name) => line.includes(name)));

/** Where kiln has groups of its own, whatever the layout. */
function hierarchy(): string {
  const isOurs = ({ controllers, version }: CgroupHierarchy) =>
    version === 2 || controllers.includes('pids');
  return cgroupHierarchies().find(isOurs)?.path ?? '';
}

/** Once what was in it has ended. Another kiln may have been first. */
function isRemoved(group: string): boolean {
  try {
    rmdirSync(group);
  } catch {}
  return !existsSync(group);
}

test('leftovers of a run are found, and what another kiln does meanwhile is not', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const [ours, theirs] = [folder(), folder()];
  using left = new Leftovers([ours]);
  const names: string[] = [];
  {
    await using other = await busyboxState(theirs);
    t.is((await keep(other)).exitCode, 0);
    t.is((await other.kiln(['park', '-n', '1'])).exitCode, 0);
    const named = [basename(other.paths.run), theirs, ...readdirSync(other.paths.sandboxes)];
    t.deepEqual(about(await left.find(GRACE), ...named), [], 'theirs alone');
    await using state = await busyboxState(ours);
    t.is((await keep(state)).exitCode, 0);
    const found = await left.find(GRACE);
    const [id = ''] = readdirSync(state.paths.sandboxes);
    const hash = basename(state.paths.run);
    for (const pattern of [
      new RegExp(`^process \\d+: \\S*libvirt_lxc --name kiln-${hash}-${id} `, 'm'),
      new RegExp(`^process \\d+: \\S*libvirtd .*${hash}`, 'm'),
      new RegExp(`^cgroup /\\S*kiln-${hash}`, 'm'),
      new RegExp(`^run directory ${state.paths.run}$`, 'm'),
      new RegExp(`^reservation /run/kiln/ranges/\\d+ of \\S+/${id}$`, 'm'),
      new RegExp(`^temporary file ${state.paths.root}$`, 'm'),
    ]) {
      t.regex(found.join('\n'), pattern);
    }
    t.deepEqual(about(found, ...named), []);
    names.push(hash, ours, id);
    for (const { kiln } of [state, other]) t.is((await kiln(['kill', '--all'])).exitCode, 0);
  }
  t.deepEqual(about(await left.find(30_000 * PATIENCE), ...names), [], 'all is gone');
});

test('a cgroup is found even if its state’s folder is gone', async (t) => {
  const ours = folder();
  using left = new Leftovers([ours]);
  const groups: string[] = [];
  const child = spawn('sleep', ['600'], { stdio: 'ignore', env: {}, cwd: '/' });
  const make = (name: string) => {
    mkdirSync(join(hierarchy(), name), { recursive: true });
    groups.push(join(hierarchy(), name));
  };
  try {
    const state = await busyboxState(ours);
    t.is((await state.kiln(['run', '-r', IMAGE, '--', 'true'])).exitCode, 0);
    await state[Symbol.asyncDispose]();
    const hash = basename(state.paths.run);
    make(`kiln-${hash}`);
    // Another kiln that sweeps meanwhile takes an empty one away, whatever groups are in it.
    writeFileSync(join(hierarchy(), `kiln-${hash}`, 'cgroup.procs'), String(child.pid));
    make(`kiln/work-${hash}-1000`);
    make(`kiln/kiln-${hash}-0123456789`);
    // Nobody has a claim to that.
    make(`kiln/${process.pid}abcdef`);
    const found = about(await left.find(GRACE), ...groups);
    t.deepEqual(found.sort(), groups.map((group) => `cgroup ${group}`).sort());
  } finally {
    child.kill('SIGKILL');
    for (const group of groups) await until(() => isRemoved(group));
  }
});

test('a cgroup of an unknown state belongs to others while their processes are in it', async (t) => {
  using left = new Leftovers([folder()]);
  const group = join(hierarchy(), `kiln-${process.pid}`);
  mkdirSync(group);
  const child = spawn('sleep', ['600'], { stdio: 'ignore', env: {}, cwd: '/' });
  try {
    writeFileSync(join(group, 'cgroup.procs'), String(child.pid));
    t.deepEqual(about(await left.find(GRACE), group), []);
    child.kill('SIGKILL');
    await once(child, 'exit');
    const found = about(await left.find(GRACE), group);
    // Another kiln that sweeps meanwhile takes it away: then there is nothing to be found.
    if (existsSync(group)) t.deepEqual(found, [`cgroup ${group}`]);
  } finally {
    child.kill('SIGKILL');
    await until(() => isRemoved(group));
  }
});

test('processes and mounts are found by their folder, and other runs’ are not', async (t) => {
  const [ours, theirs] = [folder(), join(folder(), 'kiln-test-abc123')];
  mkdirSync(theirs);
  using left = new Leftovers([ours]);
  const start = (cwd: string) =>
    // In a table of its own, which has all mounts of the host.
    spawn('unshare', ['--mount', 'sleep', '600'], {
      stdio: 'ignore',
      env: { PATH: process.env.PATH },
      cwd,
    });
  const mount = (at: string) => {
    mkdirSync(join(at, 'mounted'));
    t.is(spawnSync('mount', ['-t', 'tmpfs', 'none', join(at, 'mounted')]).status, 0);
  };
  const children = [];
  try {
    for (const at of [ours, theirs]) mount(at);
    for (const at of [ours, theirs]) children.push(start(at));
    const found = about(await left.find(GRACE), ours, theirs, 'sleep 600');
    const lines = found.filter((line) => !line.startsWith('temporary file'));
    t.deepEqual(lines, [
      `process ${children[0]?.pid}: sleep 600`,
      `mount ${join(ours, 'mounted')}`,
    ]);
  } finally {
    for (const child of children) child.kill('SIGKILL');
    for (const at of [ours, theirs]) spawnSync('umount', [join(at, 'mounted')]);
  }
});
