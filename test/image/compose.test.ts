/** How a tree is put together of unpacked packages: links, and copies where a link cannot be. */
import { readdirSync } from 'node:fs';
import { link, mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { SyscallError } from '../../src/host/calls/libc.ts';
import { composeTree } from '../../src/image/tree/compose.ts';
import { TreePlan } from '../../src/image/tree/plan.ts';
import type { RpmFile, RpmPackage } from '../../src/packages/rpm/package.ts';
import { rpmFile } from '../support/rpm-file.ts';

/** EXT4_LINK_MAX of the kernel's fs/ext4/ext4.h. */
const LINKS = 65_000;
const TIME = 1_000_000_000;

const file = (path: string) => rpmFile(path, { mtime: TIME });
const folder = (path: string, mode: number) =>
  rpmFile(path, { type: 'directory', mode: 0o040000 | mode, mtime: TIME });

function planOf(files: readonly RpmFile[]): TreePlan {
  const plan = new TreePlan();
  plan.add({ name: 'some', arch: 'noarch', files } as unknown as RpmPackage);
  return plan;
}

/** Makes it in `to` of what is unpacked in `from`. */
function compose(files: readonly RpmFile[], from: string, to: string) {
  return composeTree(planOf(files), to, () => from);
}

async function scratch(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp('/tmp/kiln-test-compose-');
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** An ext4, which knows how many links a file may have: a tmpfs does not. */
async function ext4(t: ExecutionContext): Promise<string> {
  const directory = await scratch(t);
  const image = join(directory, 'image');
  const mounted = join(directory, 'mounted');
  await writeFile(image, '');
  await truncate(image, 64 << 20);
  await execa('mke2fs', ['-q', '-t', 'ext4', '-m0', image]);
  await mkdir(mounted);
  await execa('mount', ['-o', 'loop', image, mounted]);
  t.teardown(() => execa('umount', [mounted]));
  return mounted;
}

test('a file that has too many links already is copied', async (t) => {
  const top = await ext4(t);
  const from = join(top, 'unpacked');
  const files = [folder('/full', 0o511), file('/full/a'), file('/full/b'), file('/less/c')];
  await mkdir(join(from, 'full'), { recursive: true });
  await mkdir(join(from, 'less'));
  for (const { path, type } of files) if (type === 'file') await writeFile(from + path, 'text\n');
  await mkdir(join(top, 'links'));
  for (let count = 1; count < LINKS; count++) {
    await link(join(from, 'full/a'), join(top, 'links', String(count)));
  }

  const made = compose(files, from, join(top, 'tree'));
  t.deepEqual([made.bytes, made.copiedBytes], [15, 5]);
  const format = '%P %y %n %m %T@ %s\\n';
  const { stdout } = await execa('find', [join(top, 'tree'), '-mindepth', '1', '-printf', format]);
  const seconds = (line: string) => line.replace(/(\d+)\.0+ /, '$1 ');
  const [full, a, b, , c] = stdout.split('\n').sort().map(seconds);
  t.is(full?.replace(/ \d+$/, ''), `full d 2 511 ${TIME}`);
  t.is(a, `full/a f 1 640 ${TIME} 5`);
  t.regex(b ?? '', /^full\/b f 2 644 /);
  t.regex(c ?? '', /^less\/c f 2 644 /);
  const { stdout: same } = await execa('cat', [join(top, 'tree/full/a')]);
  t.is(same, 'text');
});

test.serial('a failed link is reported, and no descriptor stays open', async (t) => {
  const directory = await scratch(t);
  const from = join(directory, 'unpacked');
  const names = Array.from({ length: 2000 }, (_, index) => `/in/${index % 40}/${index}`);
  for (const name of names) {
    await mkdir(join(from, name, '..'), { recursive: true });
    await writeFile(from + name, '');
  }
  await rm(from + names[700]!);
  const before = readdirSync('/proc/self/fd').length;
  const error = t.throws(() => compose(names.map(file), from, join(directory, 'to')), {
    instanceOf: SyscallError,
  });
  t.is(error?.errnoName, 'ENOENT');
  t.is(error?.call, 'linkat');
  t.is(readdirSync('/proc/self/fd').length, before);
});
