/** File systems in files of a caller's: a program of the host unpacks them in a sandbox, and the kernel reads none. */
import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { type DiskKind, makeDiskImage, makeTree } from '../support/disk-images.ts';
import { until } from '../support/eventually.ts';
import { USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

const KINDS = ['squashfs', 'erofs', 'ext4'] as const satisfies readonly DiskKind[];

let place: string;

test.before(async (t) => {
  t.context = await userState();
  place = join(t.context.beside, 'files');
  await mkdir(place);
  const tree = await makeTree(place);
  for (const kind of KINDS) await makeDiskImage(tree, kind);
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

const mount = (file: string) => ['--mount', `type=image,source=${join(place, file)},target=/tmp/x`];

/** Loop devices that have a file of a state. */
function loops({ paths }: UserState): string[] {
  const words = ['--list', '--noheadings', '--output', 'BACK-FILE'];
  return execFileSync('losetup', words, { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.startsWith(paths.root));
}

const LOOK =
  'cat folder/file; cat closed; stat -c "%a %u" folder/file set-id; touch new; grep " /tmp/x " /proc/self/mountinfo';

for (const type of KINDS) {
  test.serial(`the files of a ${type} are there, with owners and modes, read-only`, async (t) => {
    const words = ['run', '-r', 'busybox', ...mount(type), '-w', '/tmp/x', '--', 'sh', '-c', LOOK];
    for (const call of [t.context.kiln(words), t.context.as(USER, words)]) {
      const { stdout, stderr } = await call;
      const [text, file, setId, shown = ''] = String(stdout).split('\n');
      t.is(text, 'of the image', String(stderr));
      t.is(file, '640 1000');
      // debugfs leaves set-id bits out, and no mount heeds them.
      t.regex(setId ?? '', /^4?755 0$/);
      // A file system of kiln's own, and not the caller's.
      t.regex(shown, / ro,nosuid,nodev,relatime,idmapped - ext4 \/dev\/loop\d+ /);
      t.regex(String(stderr), /closed'?: Permission denied[\s\S]*new: Read-only file system/);
    }
    t.true(await until(() => loops(t.context).length === 0));
  });
}

test.serial('a kept sandbox keeps the files of --mount type=image until it ends', async (t) => {
  const { kiln } = t.context;
  await kiln([
    'run',
    '--name',
    'kept',
    '--keep',
    '-r',
    'busybox',
    ...mount('squashfs'),
    '--',
    'true',
  ]);
  const { stdout, stderr } = await kiln(['exec', 'kept', '--', 'cat', '/tmp/x/folder/file']);
  t.is(stdout, 'of the image', String(stderr));
  t.is(loops(t.context).length, 1);
  await kiln(['kill', 'kept']);
  t.true(await until(() => loops(t.context).length === 0));
});

test.serial('a service has the files of an image, unpacked at each start', async (t) => {
  const service = async (...args: readonly string[]) => {
    const { stdout, stderr, exitCode } = await t.context.kiln(['service', ...args]);
    t.is(exitCode, 0, String(stderr));
    return String(stdout);
  };
  const mounts = ['-m', `${place}/ext4:/mnt/x:image`];
  await service('create', '-r', 'busybox', ...mounts, 'shown', '--', '/bin/sleep', '100');
  await service('start', 'shown');
  t.is(loops(t.context).length, 1);
  const look = [
    'execute',
    'shown',
    '--',
    'sh',
    '-c',
    `cd /mnt/x; ${LOOK.replaceAll('/tmp', '/mnt')}`,
  ];
  const { stdout, stderr } = await t.context.kiln(['service', ...look]);
  const [text, file, , setId, shown = ''] = String(stdout).split('\n');
  t.deepEqual([text, file, setId], ['of the image', 'of its root', '755 0'], String(stderr));
  t.regex(shown, / ro,nosuid,nodev,relatime,idmapped - ext4 /);
  t.regex(String(stderr), /new: Read-only file system/);
  await service('stop', 'shown');
  t.true(await until(() => loops(t.context).length === 0));
  await writeFile(join(place, 'none'), 'text\n');
  await service('create', '-r', 'busybox', '-m', `${place}/none:/x:image`, 'no', '--', 'true');
  const failed = await t.context.kiln(['service', 'start', 'no']);
  t.regex(String(failed.stderr), /none cannot be mounted: it is no squashfs, erofs or ext4/);
  await service('delete', '--yes', 'shown');
  await service('delete', '--yes', 'no');
});

test.serial('what cannot be unpacked is refused by name, and leaves nothing', async (t) => {
  const { kiln, as } = t.context;
  await writeFile(join(place, 'xfs'), 'XFSB');
  await writeFile(join(place, 'other'), 'text\n');
  await writeFile(
    join(place, 'damaged'),
    Buffer.concat([Buffer.from('hsqs'), Buffer.alloc(4096, 7)]),
  );
  await mkdir(join(place, 'bomb-tree'));
  await execa('sh', ['-c', 'yes | head -c 67108864 >much'], { cwd: join(place, 'bomb-tree') });
  await execa('mksquashfs', [join(place, 'bomb-tree'), join(place, 'bomb'), '-quiet']);
  await writeFile(join(place, 'private'), '', { mode: 0o600 });
  const run = ['run', '-r', 'busybox'];
  const refusals: readonly (readonly [words: readonly string[], why: RegExp])[] = [
    [mount('xfs'), /xfs cannot be mounted: no program reads xfs but a kernel[\s\S]*--isolation vm/],
    [mount('other'), /other cannot be mounted: it is no squashfs, erofs or ext4/],
    [mount('damaged'), /damaged cannot be mounted: unpacking it failed: /],
    [['--disk', '16M', ...mount('bomb')], /bomb cannot be mounted: it has more in it than --disk/],
    [['-v', `${place}/ext4:/x:image,rw`], /what is unpacked from an image is read-only/],
  ];
  for (const [words, why] of refusals) {
    const { exitCode, stderr } = await kiln([...run, ...words, '--', 'true']);
    t.is(exitCode, 125, words.join(' '));
    t.regex(String(stderr), why);
  }
  const explained = await as(USER, [...run, ...mount('ext4'), '--explain', '--', 'true']);
  t.regex(
    String(explained.stdout),
    /^file system +on +\S+ext4 at \/tmp\/x, read-only; unpacked onto a disk of 8 GiB by a program in a sandbox/m,
  );
  const closed = await as(USER, [...run, ...mount('private'), '--', 'true']);
  t.regex(String(closed.stderr), /private cannot be mounted: you may not read it/);
  t.true(await until(() => loops(t.context).length === 0));
});
