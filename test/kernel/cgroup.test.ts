import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import test from 'ava';
import { cgroupHierarchies, cgroupMode, parseCgroupMounts } from '../../src/kernel/cgroup.ts';

const V1 =
  '36 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:14 - cgroup cgroup rw,cpu,cpuacct';
const NAMED =
  '31 30 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd';
const V2 = '24 23 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate';
const OTHER = '25 23 0:26 / /sys/fs/pstore rw - pstore pstore rw';

test('reads hierarchies and their controllers out of mountinfo', (t) => {
  t.deepEqual(parseCgroupMounts([V1, NAMED, OTHER, ''].join('\n')), [
    { path: '/sys/fs/cgroup/cpu,cpuacct', version: 1, controllers: ['cpu', 'cpuacct'] },
    { path: '/sys/fs/cgroup/systemd', version: 1, controllers: ['name=systemd'] },
  ]);
  t.deepEqual(parseCgroupMounts('1 2 0:1 / /a\\040b rw - cgroup2 none rw'), [
    { path: '/a b', version: 2, controllers: [] },
  ]);
});

test('names the four layouts', (t) => {
  const mode = (...lines: string[]) => cgroupMode(parseCgroupMounts(lines.join('\n')));
  t.is(mode(V2), 'unified');
  t.is(mode(V1), 'legacy');
  t.is(mode(V1, NAMED, V2), 'hybrid');
  t.is(mode(NAMED, V2), 'unified');
  t.is(mode(OTHER), 'none');
});

test('sees the hierarchies of this machine as findmnt does', async (t) => {
  const { stdout } = await promisify(execFile)('findmnt', [
    '--noheadings',
    '--raw',
    '--types=cgroup,cgroup2',
    '--output=TARGET,FSTYPE',
  ]);
  const seen = (await cgroupHierarchies()).map(
    ({ path, version }) => `${path} ${version === 1 ? 'cgroup' : 'cgroup2'}`,
  );
  t.deepEqual(seen.sort(), stdout.trim().split('\n').sort());
});
