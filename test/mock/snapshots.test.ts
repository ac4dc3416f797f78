/** Snapshots of kiln-mock's roots: what mock's plugins overlayfs and lvm_root promise. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { MockRoot } from '../../src/jobs/mock/root/root.ts';
import { takeSnapshot } from '../../src/jobs/mock/root/snapshots.ts';
import { WIRE } from '../../src/sandbox/wire/table.ts';
import { sourcePackage } from '../build/source-packages.ts';
import { buildPackages } from '../repository/rpm-repository.ts';
import { ends, type MockState, mockState } from './mock-state.ts';

let state: MockState;

test.before(async () => {
  state = await mockState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** What a call wrote; it must go well. */
async function mock(t: ExecutionContext, ...args: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await state.mock(args);
  t.is(exitCode, 0, `${args.join(' ')}: ${stderr}`);
  return stdout;
}

const inRoot = (t: ExecutionContext, script: string) => mock(t, '--chroot', script);

const LOOK = 'cd /srv; cat a b 2>/dev/null; ls; test -e /etc/motd && echo motd; true';

/** Files of this name that roots have on the disk. */
async function onDisk(name: string): Promise<string[]> {
  const { stdout } = await execa('find', [
    state.engine.paths.roots,
    '-path',
    `*/upper/srv/${name}`,
  ]);
  return stdout.split('\n').filter(Boolean);
}

test.serial(
  'a root goes back to its snapshots, each of which stands on the one before',
  async (t) => {
    const list = 'Snapshots for demo-x86_64:';
    t.is(await mock(t, '--list-snapshots'), list);
    await inRoot(t, 'echo a >/srv/a; rm /etc/motd');
    const before = await stat((await onDisk('a'))[0]!);
    await mock(t, '--snapshot', 'one');
    // It was moved, not copied.
    const [file = '', ...others] = await onDisk('a');
    t.deepEqual(others, []);
    t.is((await stat(file)).ino, before.ino);

    await inRoot(t, 'echo b >/srv/b; echo more >>/srv/a');
    await mock(t, '--snapshot', 'two');
    const change = 'rm -r /srv/a /srv/one; mkdir -p /srv/one/new';
    t.is(await inRoot(t, `${change}; ${LOOK}; ls /srv/one`), 'b\nb\ndeep\none\nnew');
    // Cleaning goes back to the newest.
    await mock(t, '--clean');
    t.is(await inRoot(t, `${LOOK}; ls /srv/one`), 'a\nmore\nb\na\nb\ndeep\none');
    t.is(await mock(t, '-l'), `${list}\n  postinit\n  one\n* two`);

    await mock(t, '--rollback-to', 'one');
    t.is(await inRoot(t, `${LOOK}; echo c >/srv/c`), 'a\na\ndeep\none');
    await mock(t, '--init');
    t.is(await inRoot(t, LOOK), 'a\na\ndeep\none');
    t.deepEqual(await onDisk('c'), []);
    await mock(t, '--rollback-to', 'postinit');
    t.is(await inRoot(t, LOOK), 'deep\none\nmotd');
    await mock(t, '--rollback-to', 'two');
    t.is(await inRoot(t, LOOK), 'a\nmore\nb\na\nb\ndeep\none');
  },
);

test.serial('snapshots are removed with what nothing else stands on', async (t) => {
  t.is((await onDisk('a')).length, 2);
  await mock(t, '--remove-snapshot', 'one');
  // Two stands on it.
  t.is((await onDisk('a')).length, 2);
  await mock(t, '--remove-snapshot', 'two');
  // The root stands on both until it is cleaned.
  t.is(await inRoot(t, LOOK), 'a\nmore\nb\na\nb\ndeep\none');
  await mock(t, '--clean');
  t.is(await inRoot(t, LOOK), 'deep\none\nmotd');
  t.deepEqual(await onDisk('a'), []);
});

test.serial('wrong words of --snapshot are refused with mock’s messages', async (t) => {
  await mock(t, '--snapshot', 'kept');
  const wrong: readonly [string[], number, RegExp][] = [
    [['--snapshot'], 50, /Requires a snapshot name/],
    [['--snapshot', 'kept'], 1, /Snapshot kept already exists/],
    [['--snapshot', 'postinit'], 1, /Snapshot postinit already exists/],
    [['--snapshot', '../x'], 1, /Invalid snapshot name/],
    [['--rollback-to', 'other'], 1, /Snapshot other doesn't exist/],
    [['--remove-snapshot', 'postinit'], 1, /Won't remove postinit snapshot/],
  ];
  for (const [args, status, words] of wrong) ends(t, await state.mock(args), status, words);
});

test.serial('packages are those of the snapshot, for rpm and for kiln-mock', async (t) => {
  const directory = join(state.directory, 'extra');
  await buildPackages(directory, [{ name: 'extra', version: '1' }]);
  const file = join(directory, 'extra-1-1.noarch.rpm');
  const has = 'rpm -q extra >/dev/null && echo installed; true';
  await mock(t, '--install', file);
  await mock(t, '--snapshot', 'with-extra');
  await mock(t, '--rollback-to', 'postinit');
  t.is(await inRoot(t, has), '');
  await mock(t, '--install', file);
  t.is(await inRoot(t, has), 'installed');
  await mock(t, '--rollback-to', 'with-extra');
  await mock(t, '--remove', 'extra');
  t.is(await inRoot(t, has), '');
});

test.serial('a build begins with the current snapshot, and leaves it as it was', async (t) => {
  await inRoot(t, 'mkdir -p /opt; echo from the snapshot >/opt/tool');
  await mock(t, '--snapshot', 'tools');
  await inRoot(t, 'echo later >/opt/tool');
  const spec = { name: 'tooled', build: 'cat /opt/tool' };
  const source = await sourcePackage(join(state.directory, 'srpms'), spec);
  const out = join(state.directory, 'tooled');
  await mock(t, '--rebuild', source, '--resultdir', out);
  t.regex(await readFile(join(out, 'build.log'), 'utf8'), /^from the snapshot$/m);
  t.true(existsSync(join(out, 'tooled-1-1.noarch.rpm')));
  // --resultdir: the root is cleaned afterwards.
  t.is(await inRoot(t, 'cat /opt/tool'), 'from the snapshot');
  const chain = await state.mock([
    '--chain',
    '--localrepo',
    join(state.directory, 'chain'),
    source,
  ]);
  ends(t, chain, 5, /--chain builds in fresh roots, and demo-x86_64 is at its snapshot tools/);
});

test.serial('a root that was killed while it changed is as at its snapshot', async (t) => {
  await inRoot(t, 'echo half >/opt/half');
  {
    await using root = await MockRoot.lock(state.engine, 'demo-x86_64');
    await root.open(() => undefined);
    await root.note({ changing: true });
  }
  const { stdout, stderr } = await state.mock(['--chroot', 'cat /opt/tool; ls /opt']);
  t.regex(stderr, /the root demo-x86_64 is as at its snapshot tools: it was being changed/);
  t.is(stdout, 'from the snapshot\ntool');
});

/** Makes snapshots, each with the number of those below in a file, until the root stands on so many. */
async function stack(number: number): Promise<void> {
  await using root = await MockRoot.lock(state.engine, 'demo-x86_64');
  await root.open(() => undefined);
  for (let nth = root.layers.length; nth < number; nth++) {
    await mkdir(join(root.scratch, 'upper/srv'), { recursive: true });
    await writeFile(join(root.scratch, 'upper/srv/nth'), `${nth}`);
    await takeSnapshot(root, `nth-${nth}`);
  }
}

test.serial('a root stands on as many snapshots as any sandbox, and on no more', async (t) => {
  // More need Linux 6.7.
  await stack(14);
  t.is(await inRoot(t, 'cat /srv/nth /opt/tool'), '13from the snapshot');
  await stack(WIRE.lowerLayers);
  await t.throwsAsync(stack(WIRE.lowerLayers + 1), {
    code: 'E_SNAPSHOT',
    message: /stands on 32 snapshots, which is the most/,
  });
  await mock(t, '--rollback-to', 'nth-13');
});

test.serial('--scrub chroot keeps snapshots; all, overlayfs and lvm remove them', async (t) => {
  await mock(t, '--scrub', 'chroot');
  t.is(await inRoot(t, 'cat /srv/nth'), '13');
  await mock(t, '--scrub', 'overlayfs');
  t.is(await mock(t, '-l'), 'Snapshots for demo-x86_64:');
  t.false(existsSync(join(state.engine.paths.roots, 'demo-x86_64')));
  await mock(t, '--scrub', 'all');
});

/** Folders of a root that have files of their own: of its snapshots, and what is written above them. */
async function layersOnDisk(): Promise<number> {
  const { roots } = state.engine.paths;
  const words = [roots, '-maxdepth', '4', '-name', 'upper', '-not', '-empty'];
  return (await execa('find', words)).stdout.split('\n').filter(Boolean).length;
}

// Each step of mock's own overlayfs_layers_test.py, which calls the plugin: what it counts besides is the image.
test.serial('the layers of a root are those that mock’s 15-overlayfs-layers has', async (t) => {
  const command = () => inRoot(t, 'echo x >>/srv/x');
  const steps: readonly [string, () => Promise<unknown>, number, string, string][] = [
    ['initLayers', () => mock(t, '--init'), 0, '', ''],
    ['prepareLayersForMount', command, 1, '', 'x'],
    ['createSnapshot a', () => mock(t, '--snapshot', 'a'), 1, 'a', 'x'],
    ['prepareLayersForMount', command, 2, 'a', 'xx'],
    ['restoreSnapshot a', () => mock(t, '--rollback-to', 'a'), 1, 'a', 'x'],
    ['prepareLayersForMount', command, 2, 'a', 'xx'],
    ['createSnapshot b', () => mock(t, '--snapshot', 'b'), 2, 'b', 'xx'],
    ['prepareLayersForMount', command, 3, 'b', 'xxx'],
    ['prepareLayersForMount', command, 3, 'b', 'xxxx'],
    ['restoreSnapshot .base', () => mock(t, '--rollback-to', 'postinit'), 2, 'postinit', ''],
    ['deleteSnapshot a', () => mock(t, '--remove-snapshot', 'a'), 2, 'postinit', ''],
    ['deleteSnapshot b', () => mock(t, '--remove-snapshot', 'b'), 0, 'postinit', ''],
  ];
  for (const [nth, [step, act, layers, current, content]] of steps.entries()) {
    await act();
    t.is(await layersOnDisk(), layers, `${nth} ${step}`);
    const listed = await mock(t, '--list-snapshots');
    t.is(/^\* (\w+)$/m.exec(listed)?.[1] ?? '', current || 'postinit', `${nth} ${step}`);
    const { stdout } = await state.mock(['--chroot', 'cat /srv/x 2>/dev/null; true']);
    t.is(stdout.replaceAll('\n', ''), content, `${nth} ${step}`);
  }
  t.is(await mock(t, '-l'), 'Snapshots for demo-x86_64:\n* postinit');
});
