/** What a malicious sandbox leaves in its layers, against what reads them: diff, apply, snapshot, commit. */
import { lstatSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { keptSandboxes } from '../support/kept-sandbox.ts';
import { isLong, long } from '../support/long.ts';

const test = anyTest as TestFn;

let state: BusyboxState;
let program: string;
let made = 0;
test.before(async () => {
  state = await busyboxState();
  program = join(state.beside, 'hostile');
  const source = join(import.meta.dirname, 'hostile-layer.c');
  await execa('cc', ['-std=gnu17', '-O1', '-static', '-o', program, source]);
});
test.after.always(() => state[Symbol.asyncDispose]());

// Two million files take ten minutes on a busy host.
const { kiln, ok } = keptSandboxes(() => state, isLong ? 40 * 60_000 : undefined);

interface Hostile {
  readonly id: string;
  /** Bound with cow at /src. */
  readonly folder: string;
  /** What the program said. */
  readonly out: string;
}

/** A kept sandbox whose root (/x) and folder have what the words make. */
async function hostile(
  t: ExecutionContext,
  words: readonly string[],
  ...options: readonly string[]
): Promise<Hostile> {
  const folder = join(state.beside, `folder${made++}`);
  mkdirSync(join(folder, 'marked'), { recursive: true });
  writeFileSync(join(folder, 'passwd'), 'mine\n');
  writeFileSync(join(folder, 'marked/mine'), 'mine\n');
  const bind = ['--copy-in', `${program}:/tmp/hostile`, '--bind', `${folder}:/src:cow`];
  const script = `mkdir -p /x /bad; for at in /x /src; do /tmp/hostile $at ${words.join(' ')} || exit; done`;
  const { code, out, said } = await kiln(
    ...['run', '-r', IMAGE, '--keep', '--user', 'root', ...bind, ...options],
    ...['--', 'sh', '-c', script],
  );
  t.is(code, 0, said);
  return { id: /kept as (\w+)/.exec(said)?.[1] ?? '', folder, out };
}

/** Names, kinds, modes, links and content of what is the host's. */
async function whole(folder: string): Promise<string> {
  const { stdout } = await execa('find', [folder, '-printf', '%P %y %m %U:%G %s %T@ %i %l\\0']);
  return stdout.split('\0').sort().join('\n');
}

/** A terminal or a log shows each change as a line, and nothing of a name acts on it. */
function isHarmless(text: string): boolean {
  return !/[\x00-\x08\x0b-\x1f\x7f]/.test(text);
}

test.serial(
  'names, links and special files of a sandbox do no harm to what reads them',
  async (t) => {
    const { id, folder, out } = await hostile(t, ['names', 'specials']);
    // What is tried there and fails is refused by the kernel and the filter.
    for (const what of ['char', 'block', 'whiteout', 'trusted.overlay.opaque']) {
      t.regex(out, new RegExp(`^${what}: E(PERM|NODEV|OPNOTSUPP|ACCES)$`, 'm'), what);
    }
    t.regex(out, /^fifo: done$/m);
    const before = await whole(folder);
    const etc = await whole('/etc');
    const diffs = [await kiln('diff', id, '/src'), await kiln('diff', id, '/', 'x')];
    for (const { code, out: shown, said } of diffs) {
      t.is(code, 0, said);
      t.true(isHarmless(shown), JSON.stringify(shown));
      t.regex(shown, /^A "(x\/)?line\\nbreak"$/m);
      t.regex(shown, /^A (x\/)?fifo \(fifo\)$/m);
      t.notRegex(shown, /^D /m);
    }
    const [mine = ''] = diffs.map(({ out: shown }) => shown);
    t.regex(mine, /^A marked\/in$/m);
    t.false(mine.includes('marked/mine'), mine);
    const json = JSON.parse(await ok(t, 'diff', '--json', id, '/src'));
    const bytes = json.changes.flatMap(({ pathBytes }: { pathBytes?: string }) => pathBytes ?? []);
    t.deepEqual(bytes, [Buffer.from('\xff\xfe', 'latin1').toString('base64')]);
    for (const where of [['/src'], ['/', 'x']]) {
      const patch = await kiln('diff', '--patch', id, ...where);
      t.is(patch.code, 0, patch.said);
      t.regex(patch.out, /^new file mode 100755$/m);
    }
    t.is(await whole(folder), before);

    const applied = await kiln('apply', id, '/src');
    t.is(applied.code, 125);
    t.true(isHarmless(applied.said), JSON.stringify(applied.said));
    for (const path of ['out', 'up', 'fifo', 'socket', 'char', 'block', 'whiteout']) {
      t.is(lstatSync(join(folder, path), { throwIfNoEntry: false }), undefined, path);
    }
    t.is(readFileSync(join(folder, 'passwd'), 'utf8'), 'mine\n');
    t.is(readFileSync(join(folder, 'marked/mine'), 'utf8'), 'mine\n');
    t.is(statSync(join(folder, 'set-id')).mode & 0o7777, 0o755);
    t.is(statSync(join(folder, 'sticky')).mode & 0o7777, 0o777);
    const attributes = await execa('getfattr', ['-R', '-P', '-h', '-d', '-m', '-', folder]);
    t.is(attributes.stdout.replace(/^.*security\.selinux.*\n/gm, ''), '');
    t.is(await whole('/etc'), etc);

    const image = await committed(t, id);
    t.is(readFileSync(join(image, 'etc/passwd'), 'utf8').split('\n').length, 3);
    t.true(readdirSync(join(image, 'x')).includes('line\nbreak'));
    t.is(readFileSync(join(image, 'x/plain'), 'utf8'), 'p\n');
    t.is(statSync(join(image, 'x/plain')).nlink, 2);
    t.is(statSync(join(image, 'x/set-id')).mode & 0o7777, 0o755);
    await harmlessImage(t, image);
    await ok(t, 'kill', id);
  },
);

/** The tree of the image that a sandbox's root becomes. */
async function committed(t: ExecutionContext, id: string): Promise<string> {
  const { code, out, said } = await kiln('image', 'commit', id, '--name', `hostile${made++}`);
  t.is(code, 0, said);
  t.true(isHarmless(said), JSON.stringify(said));
  return join(state.paths.images, out, 'tree');
}

async function harmlessImage(t: ExecutionContext, image: string): Promise<void> {
  const kinds = ['-type', 'c', '-o', '-type', 'b', '-o', '-type', 'f', '-perm', '/6000'];
  const special = await execa('find', [image, ...kinds]);
  t.is(special.stdout, '');
  const marks = await execa('getfattr', [
    '-R',
    '-P',
    '-h',
    '-d',
    '-m',
    'overlay|capability',
    image,
  ]);
  t.is(marks.stdout, '');
}

test.serial('folders that are too deep are named, and block nothing', async (t) => {
  const { id, folder } = await hostile(t, [`deep=${isLong ? 10_000 : 2500}`]);
  for (const where of [['/src'], ['/']]) {
    const shown = await kiln('diff', id, ...where);
    t.is(shown.code, 125);
    t.regex(shown.said, /too much to look at.*\[E_CHANGES\]/);
  }
  t.is((await kiln('apply', id, '/src')).code, 125);
  t.deepEqual(readdirSync(folder).sort(), ['marked', 'passwd']);
  const taken = await kiln('snapshot', id);
  t.is(taken.code, 125, taken.said);
  t.regex(taken.said, /\[E_(SNAPSHOT|TREE_DEPTH)\]/);
  t.is((await kiln('image', 'commit', id, '--name', 'deep')).code, 125);
  t.is((await kiln('exec', id, '--', 'true')).code, 0);
  await ok(t, 'kill', id);
  await ok(t, 'gc');
  t.deepEqual(readdirSync(state.paths.snapshots), []);
  t.deepEqual(readdirSync(join(state.paths.store, 'work')), []);
});

test.serial('a sparse file of a terabyte takes neither disk nor time', async (t) => {
  const start = performance.now();
  const { id, folder } = await hostile(t, ['sparse']);
  t.is(await ok(t, 'diff', id, '/src'), 'A sparse');
  t.regex(
    await ok(t, 'diff', '--patch', id, '/', 'x'),
    /Binary files \/dev\/null and b\/x\/sparse differ/,
  );
  const applied = await kiln('apply', id, '/src');
  t.is(applied.code, 125);
  t.deepEqual(readdirSync(folder).sort(), ['marked', 'passwd']);
  const taken = await kiln('snapshot', id);
  t.regex(taken.said, /\[E_SNAPSHOT\]/);
  const commit = await kiln('image', 'commit', id, '--name', 'sparse');
  t.regex(commit.said, /\[E_SNAPSHOT\]/);
  await ok(t, 'kill', id);
  t.true(performance.now() - start < 60_000 * PATIENCE);
});

test.serial(
  'a sparse file of a terabyte on the disk takes no time of those who list snapshots',
  async (t) => {
    const start = performance.now();
    const { id } = await hostile(t, ['sparse'], '--on-disk');
    const snapshot = await ok(t, 'snapshot', id, 'sparse');
    const listed = await kiln('snapshot', 'ls', '--json');
    t.is(listed.code, 0, listed.said);
    t.is(JSON.parse(listed.out)[0].id, snapshot);
    await ok(t, 'df');
    const commit = await kiln('image', 'commit', 'sparse', '--name', 'sparse');
    t.regex(commit.said, /\[E_SNAPSHOT\]/);
    t.is((await kiln('run', '--from', 'sparse', '--', 'true')).code, 0);
    await ok(t, 'kill', id);
    await ok(t, 'snapshot', 'rm', 'sparse');
    t.true(performance.now() - start < 60_000 * PATIENCE);
  },
);

test.serial('a layer that changes while it is read is refused, or whole', async (t) => {
  const { id } = await hostile(t, ['names']);
  const start = ['sh', '-c', '(trap "" HUP; /tmp/hostile /x churn) >/dev/null 2>&1 & true'];
  await ok(t, 'exec', id, '--', ...start);
  for (let turn = 0; turn < 2; turn++) {
    const shown = await kiln('diff', id, '/');
    t.true(shown.code === 0 || /\[E_CHANGES\]/.test(shown.said), shown.said);
    const patch = await kiln('diff', '--patch', id, '/', 'x');
    t.true(patch.code === 0 || /\[E_CHANGES\]/.test(patch.said), patch.said);
    const taken = await kiln('snapshot', id);
    t.true(taken.code === 0 || /\[E_SNAPSHOT\]/.test(taken.said), taken.said);
    const commit = await kiln('image', 'commit', id, '--name', 'churned');
    t.true(commit.code === 0 || /\[E_SNAPSHOT\]/.test(commit.said), commit.said);
  }
  await ok(t, 'snapshot', id, '--kill');
  await ok(t, 'kill', id);
  await ok(t, 'gc');
  t.deepEqual(readdirSync(state.paths.snapshots), []);
  t.deepEqual(readdirSync(join(state.paths.store, 'work')), []);
});

/** By root of the host, since no sandbox can: what a fault in the kernel or the filter would let one do. */
const PLANT = `
set -e
mknod char c 1 3; mknod block b 7 0; chmod 666 char block; mknod passwd c 0 0
mkdir -p opaque/in redirect meta; echo in > opaque/in/file; echo m > metacopy
for name in opaque redirect metacopy whiteout origin; do
  setfattr -n trusted.overlay.$name -v y opaque; setfattr -n trusted.overlay.$name -v /etc redirect
done
setfattr -n user.overlay.redirect -v /etc redirect; setfattr -n user.overlay.metacopy -v "" metacopy
setfattr -n user.overlay.redirect -v /etc/shadow metacopy
setfattr -n user.overlay.whiteout -v y metacopy; setfattr -n user.overlay.opaque -v x meta
cp /bin/true set-id; chmod 6755 set-id; cp /bin/true capable; setcap all=ep capable
chown 1234567890:1234567890 meta; ln -s /proc/1/root root; mkfifo fifo
`;

test.serial('what even root could plant in a layer gives nothing of the host’s', async (t) => {
  const { id } = await hostile(t, ['names'], '--on-disk');
  const written = join(state.paths.written, id);
  // That of the root: binds with cow have theirs below `cow`.
  const where = ['-name', 'upper', '-not', '-path', '*/cow/*'];
  const { stdout: upper } = await execa('find', [written, ...where]);
  await execa('sh', ['-c', PLANT], { cwd: join(upper, 'x') });
  const shown = await ok(t, 'diff', id, '/', 'x');
  t.true(isHarmless(shown));
  const snapshot = await ok(t, 'snapshot', id, 'planted');
  await ok(t, 'snapshot', 'show', 'planted');
  await ok(t, 'diff', '--patch', 'planted', '/', 'x');
  const look = `cd /x; echo | cat >char; cat block; ls redirect root/ opaque/in; cat metacopy;
    /x/set-id; stat -c %a set-id; cat /etc/passwd | wc -l`;
  const { out, said } = await kiln(
    'run',
    '--from',
    'planted',
    '--user',
    'root',
    '--',
    'sh',
    '-c',
    look,
  );
  t.regex(said, /char: Permission denied/);
  t.regex(said, /block'?: Permission denied/);
  t.regex(said, /root\/: Permission denied/);
  t.notRegex(`${out}${said}`, /shadow|root:[*!$]/);
  t.regex(out, /^755$/m);
  const image = await committed(t, snapshot);
  await harmlessImage(t, image);
  await ok(t, 'kill', id);
  await ok(t, 'snapshot', 'rm', 'planted');
});

long('a million files in a layer are told in part, and kept whole', async (t) => {
  const { id } = await hostile(t, ['many=1000000'], '--on-disk', '--disk', '40G');
  for (const where of [['/src'], ['/']]) {
    const shown = await kiln('diff', id, ...where);
    t.is(shown.code, 0, shown.said);
    t.is(shown.out.split('\n').length, 100_000);
    t.regex(shown.said, /there is more/);
  }
  t.regex((await kiln('apply', id, '/src')).said, /more than 100000 changes.*\[E_CHANGES\]/);
  const snapshot = await ok(t, 'snapshot', id);
  t.regex(JSON.parse(await ok(t, 'snapshot', 'show', snapshot)).digest, /^[0-9a-f]{64}$/);
  await ok(t, 'kill', id);
});
