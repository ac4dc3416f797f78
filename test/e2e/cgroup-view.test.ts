/** kiln where the cgroups that are mounted are not those that /proc names: as in containers. */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { parseCgroupMounts, pathOfGroup } from '../../src/host/cgroup/cgroup.ts';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});
test.after.always(() => state[Symbol.asyncDispose]());

test('a cgroup is found below the part of its tree that is mounted', (t) => {
  const mount = (root: string) =>
    parseCgroupMounts(`33 31 0:30 ${root} /mnt/memory rw - cgroup cgroup rw,memory\n`)[0]!;
  const found = (root: string, group: string) => pathOfGroup(mount(root), group);
  t.is(found('/', '/a/b'), '/mnt/memory/a/b');
  t.is(found('/', '/'), '/mnt/memory');
  // A container without a cgroup namespace, that sees its own part.
  t.is(found('/pod/1', '/pod/1/kiln/x'), '/mnt/memory/kiln/x');
  t.is(found('/pod/1', '/pod/1'), '/mnt/memory');
  t.is(found('/pod/1', '/pod/12'), undefined);
  t.is(found('/pod/1', '/other'), undefined);
  // A cgroup namespace in which the host's whole tree is mounted.
  t.is(found('/../..', '/../../kiln/x'), '/mnt/memory/kiln/x');
  t.is(found('/../..', '/'), undefined);
  t.is(found('/..', '/../a'), '/mnt/memory/a');
  t.is(found('/../a', '/../a/b'), '/mnt/memory/b');
  t.is(found('/', '/..'), undefined);
});

/** Runs a shell script in a group of its own in each hierarchy, two levels down. */
async function inGroup(t: ExecutionContext, script: string, ...args: readonly string[]) {
  const { stdout } = await execa('findmnt', ['-rno', 'TARGET', '-t', 'cgroup,cgroup2']);
  const name = `kiln-view-${process.pid}`;
  const groups = stdout
    .split('\n')
    .filter((path) => !/cpuset|unified/.test(path))
    .map((path) => join(path, name, 'inner'));
  for (const group of groups) await mkdir(group, { recursive: true });
  try {
    const enter = groups.map((group) => `echo $$ > '${group}/cgroup.procs'`).join('\n');
    return await execa('sh', ['-c', `set -e\n${enter}\n${script}`, 'sh', ...args], {
      env: state.env,
      reject: false,
      timeout: 120_000 * PATIENCE,
    });
  } finally {
    // The daemon that was started there, which is this test's alone, and its groups.
    await stopEmbeddedDaemon(state.paths);
    const tops = groups.map((group) => join(group, '..'));
    const clear = `for top; do
      find "$top" -name cgroup.procs -exec cat {} + | xargs -r kill -9 2>/dev/null
      find "$top" -depth -type d -exec rmdir {} + 2>/dev/null; done
      for top; do [ ! -e "$top" ] || exit 1; done`;
    for (let tries = 0; tries < 50; tries++) {
      const cleared = await execa('sh', ['-c', clear, 'sh', ...tops], { reject: false });
      if (cleared.exitCode === 0) break;
      await sleep(100);
    }
    t.false(tops.some((path) => existsSync(path)));
  }
}

const run = (...options: readonly string[]) => [
  ...[KILN, 'run', '-r', IMAGE, ...options, '--', 'true'],
];

/** The container's own part of the tree in place of the whole, as podman's `--cgroupns host` has it. */
const OWN_PART = `
  findmnt -rno TARGET -t cgroup,cgroup2 | grep -v cpuset | grep -v unified | while read -r path; do
    mount --bind "$path/kiln-view-$TEST_PID/inner" "$path"
  done`;

for (const [title, script] of [
  ['a cgroup namespace in which the host’s tree is mounted', 'exec unshare --cgroup "$@"'],
  [
    'a part of the tree without a cgroup namespace',
    `exec unshare --mount sh -c '${OWN_PART}\n exec "$@"' sh "$@"`,
  ],
] as const) {
  test.serial(`limits are set and measured in ${title}`, async (t) => {
    for (const [options, expected] of [
      [[], undefined],
      [['--memory', '64M', '--cpus', '0.5'], 64 << 20],
    ] as const) {
      const out = join(state.paths.root, 'out');
      const result = await inGroup(
        t,
        `export TEST_PID=${process.pid}\n${script}`,
        ...run(...options, '--resultdir', out),
      );
      t.is(result.exitCode, 0, result.stderr);
      const { policy } = JSON.parse((await execa('cat', [join(out, 'result.json')])).stdout) as {
        policy: { limits: { memory?: number; cpus?: number; pids?: number } };
      };
      if (expected === undefined) t.true((policy.limits.memory ?? 0) > 1 << 30);
      else t.like(policy.limits, { memory: expected, cpus: 0.5 });
      t.true((policy.limits.pids ?? 0) > 0);
      await execa('rm', ['-r', out]);
    }
  });
}
