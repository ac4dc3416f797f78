import { readFileSync } from 'node:fs';
import { mkdtemp, rm, statfs } from 'node:fs/promises';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { checkNames } from '../../src/doctor/checks.ts';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';

const kiln = join(import.meta.dirname, '../../bin/kiln');

interface Found {
  readonly name: string;
  readonly status: string;
  readonly found: string;
  readonly problem?: string;
  readonly mend?: string;
}

test.serial(
  'on a host that runs sandboxes, every check agrees with the host’s tools',
  async (t) => {
    const state = await mkdtemp(join(tmpdir(), 'kiln-doctor-'));
    const paths = statePaths({ KILN_STATE: state });
    try {
      await execa('chmod', ['755', state]);
      const env = { KILN_STATE: state, KILN_URI: undefined };
      const result = await execa(kiln, ['doctor', '--json'], { env, reject: false });
      const { ok, checks } = JSON.parse(result.stdout) as { ok: boolean; checks: Found[] };
      const byName = new Map(checks.map((check) => [check.name, check]));
      t.deepEqual(
        checks.filter(({ status }) => status === 'fail'),
        [],
      );
      t.true(ok);
      t.is(result.exitCode, 0);

      t.true(byName.get('kernel')?.found.includes(release()));
      const mount = await execa('findmnt', ['-no', 'FSTYPE', '-T', state]);
      t.true(byName.get('state-directory')?.found.includes(mount.stdout));
      const limit = (await execa('cat', ['/proc/sys/user/max_user_namespaces'])).stdout;
      t.true(byName.get('namespaces')?.found.includes(`${limit} user namespaces`));

      // The libvirt that answered is the one whose files --files lists.
      const socket = join(paths.run, 'libvirt/libvirt-sock');
      const uri = `lxc+unix:///system?socket=${socket}`;
      const virsh = await execa('virsh', ['-c', uri, 'version', '--daemon']);
      const version = /Running against daemon: ([\d.]+)/.exec(virsh.stdout)?.[1];
      t.truthy(version);
      t.true(byName.get('libvirt')?.found.includes(`libvirt ${version}`));
      const listed = await execa(kiln, ['doctor', '--files', '--json'], { env });
      const { files } = JSON.parse(listed.stdout) as { files: { path: string; exists: boolean }[] };
      const daemon = (await execa('pgrep', ['-f', `libvirtd.*${paths.run}/`])).stdout.split(
        '\n',
      )[0];
      const cgroup = (await execa('cat', [`/proc/${daemon}/cgroup`])).stdout;
      const home = /\/(kiln-[0-9a-f]+)/.exec(cgroup)?.[1] ?? 'no cgroup of its own';
      const cgroups = files.filter(({ path }) => path.startsWith('/sys/fs/cgroup'));
      t.true(cgroups.length > 0);
      t.true(cgroups.every(({ path, exists }) => exists && path.includes(home)));
      t.true(files.some(({ path, exists }) => exists && socket.startsWith(path)));

      const table = await execa(kiln, ['doctor'], { env });
      t.regex(table.stdout, /^ok {4}kernel .*Linux/m);
      t.regex(table.stdout, /^\d+ ok, \d+ to watch, 0 to mend$/m);
    } finally {
      await stopEmbeddedDaemon(paths);
      await rm(state, { recursive: true, force: true });
      await rm(paths.run, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    }
  },
);

test('a check can be run by name, and an unknown name lists all checks', async (t) => {
  const one = await execa(kiln, ['doctor', 'kernel', '--json']);
  t.deepEqual(
    (JSON.parse(one.stdout) as { checks: Found[] }).checks.map(({ name }) => name),
    ['kernel'],
  );
  const unknown = await execa(kiln, ['doctor', 'humours'], { reject: false });
  t.is(unknown.exitCode, 125);
  t.regex(unknown.stderr, /no check named humours/);
  t.regex(unknown.stderr, /kernel/);
});

test('docs/doctor.md lists every check, in order', (t) => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/doctor.md'), 'utf8');
  const rows = [...page.matchAll(/^\| `([a-z0-9-]+)` /gm)].map(([, name]) => name);
  t.deepEqual(rows, checkNames());
});

test('free space is what statfs says', async (t) => {
  const { stdout } = await execa(kiln, ['doctor', 'state-directory', '--json'], {
    env: { KILN_STATE: join(tmpdir(), 'kiln-doctor-nowhere') },
    reject: false,
  });
  const [check] = (JSON.parse(stdout) as { checks: Found[] }).checks;
  const told = Number(/([\d.]+) GiB free/.exec(check?.found ?? '')?.[1]);
  const { bavail, bsize } = await statfs(tmpdir());
  // Others write to the same disk meanwhile.
  t.true(Math.abs(told - (bavail * bsize) / 2 ** 30) < 5);
});
