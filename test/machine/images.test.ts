/** File systems in files that a caller names: the kernel of the machine mounts them, and the host's reads none. */
import { execFileSync } from 'node:child_process';
import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest from 'ava';
import { findKernel } from '../../src/sandbox/domain/machine/kernel.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { type DiskKind, makeDiskImage, makeTree } from '../support/disk-images.ts';
import { long } from '../support/long.ts';

const test = anyTest.serial;

const KINDS = ['squashfs', 'erofs', 'xfs', 'ext4'] as const satisfies readonly DiskKind[];

let state: BusyboxState;
let place: string;

test.before(async () => {
  state = await busyboxState();
  place = join(state.beside, 'files');
  await mkdir(place);
  const tree = await makeTree(place);
  for (const kind of KINDS) await makeDiskImage(tree, kind);
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const run = (words: readonly string[]) =>
  state.kiln(['run', '--isolation', 'vm', '--allow-missing', 'kvm', '-r', IMAGE, ...words], {
    timeout: 120_000 * PATIENCE,
  });

const mount = (file: string) => [
  '--mount',
  `type=image,source=${join(place, file)},target=/tmp/${file}`,
];

test('modules of file systems are not loaded by every machine', (t) => {
  const { modules, imageModules } = findKernel();
  t.true(imageModules.some(({ name }) => name.startsWith('xfs.ko')));
  t.false(modules.some(({ name }) => /^(xfs|squashfs|erofs)\.ko/.test(name)));
  const paths = modules.map(({ path }) => path);
  t.deepEqual(
    imageModules.filter(({ path }) => paths.includes(path)),
    [],
  );
});

test('--explain says who mounts a file system in a machine', async (t) => {
  const { stdout, stderr } = await run([...mount('xfs'), '--explain', '--', 'true']);
  t.regex(
    String(stdout),
    /^file system +on +\S+xfs at \/tmp\/xfs, read-only; mounted by the machine’s own kernel/m,
    String(stderr),
  );
});

long('the kernel of a machine mounts squashfs, erofs, xfs and ext4, read-only', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const script = KINDS.map(
    (kind) => `cd /tmp/${kind}; cat folder/file; stat -c "%a %u" folder/file set-id; cat closed;
echo x >new; grep " /tmp/${kind} " /proc/self/mountinfo`,
  ).join('\n');
  const { stdout, stderr } = await run([...KINDS.flatMap(mount), '--', 'sh', '-c', script]);
  const lines = String(stdout).split('\n');
  for (const kind of KINDS) {
    const [text, file, setId, shown = ''] = lines.splice(0, 4);
    t.deepEqual([text, file, setId], ['of the image', '640 1000', '4755 0'], String(stderr));
    t.regex(shown, new RegExp(` ro,nosuid,nodev,relatime,idmapped - ${kind} /dev/loop\\d+ ro`));
  }
  const refused = String(stderr);
  t.is(refused.match(/closed'?: Permission denied/g)?.length, KINDS.length, refused);
  t.is(refused.match(/new: Read-only file system/g)?.length, KINDS.length, refused);
  // No kernel of this host has them: a loop device would.
  const loops = execFileSync('losetup', ['--list', '--noheadings', '--output', 'BACK-FILE']);
  t.false(String(loops).includes(place));
});

long('what no kernel of a machine mounts is refused by name', async (t) => {
  t.timeout(600_000 * PATIENCE);
  await writeFile(join(place, 'other'), 'text\n'.repeat(1000));
  await using xfs = await open(join(place, 'xfs'));
  const { buffer } = await xfs.read(Buffer.alloc(4 << 20), 0, 4 << 20, 0);
  await writeFile(join(place, 'short'), buffer);
  for (const [file, why] of [
    ['other', /other cannot be mounted: it is no squashfs, erofs, xfs or ext4 that the machine/],
    ['short', /short cannot be mounted: it may be damaged/],
    ['', /files\/? cannot be mounted: it is no file/],
  ] as const) {
    const { exitCode, stderr } = await run([
      '--mount',
      `type=image,source=${place}/${file},target=/tmp/x`,
      '--',
      'true',
    ]);
    t.is(exitCode, 125, file);
    t.regex(String(stderr), why);
  }
});
