/**
 * Every kind of file in KILN_STATE, as real commands make it, is emptied, cut, changed in one byte, and
 * replaced by a directory. Then everything goes on: what cannot is told by name.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { withLock } from '../../src/host/files/flock.ts';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { writeRecord } from '../../src/host/state/checked-file.ts';
import { KINDS, kindOf } from '../../src/host/state/kinds.ts';
import { packageDirectory } from '../../src/image/store/entry.ts';
import { findContents } from '../../src/image/store/manifest.ts';
import { verifyPackages } from '../../src/image/store/verify.ts';
import { packagesLock } from '../../src/image/store/work-directory.ts';
import type { SandboxRecord } from '../../src/sandbox/domain/sandbox-record.ts';
import { sourcePackage } from '../build/source-packages.ts';
import { debianRepository, type ImageState, imageState } from '../image/image-state.ts';
import { MirrorServer } from '../repository/mirror-server.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { isLong } from '../support/long.ts';
import { NOARCH_RECIPE } from '../support/unpacked-packages.ts';

const PACKAGES = 'packages: [coreutils, dash, /bin/bash]\nscriptlets: { mode: none }';

let count = 0;

/** A recipe of the same packages that has never been asked for: they are solved, and an image is made. */
async function freshRecipe(): Promise<string> {
  const path = join(state.directory, `fresh-${++count}.yaml`);
  const text = await readFile(recipe, 'utf8');
  const content = `files: [{ path: /etc/count, content: '${count}' }]`;
  await writeFile(path, `${text}exclude: [nothing-${count}]\n${content}\n`);
  return path;
}

let state: ImageState;
let mirror: MirrorServer;
let recipe: string;
/** Of the image that the service has. */
let serviceRecipe: string;
let env: NodeJS.ProcessEnv;

/** Runs kiln as people have it: the bundle, where it is up to date. */
const kiln = (...args: readonly string[]) => state.kiln(args, { env });

async function ok(...args: readonly string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await kiln(...args);
  if (exitCode !== 0) throw new Error(`kiln ${args.join(' ')}: ${stderr}`);
  return String(stdout);
}

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await imageState();
  const { KILN_FROM_SOURCE = '' } = process.env;
  env = { ...state.env, KILN_FROM_SOURCE };
  const { directory, key } = await debianRepository();
  mirror = await MirrorServer.start(directory);
  recipe = join(state.directory, 'small.yaml');
  await writeFile(
    recipe,
    `repositories: [{ id: debian, baseurl: '${mirror.url}', gpgcheck: true, gpgkey: ${key} }]\n${PACKAGES}\n`,
  );
  await ok('image', 'build', recipe);
  await ok('run', '-r', recipe, '--', 'true');
  await ok('run', '-r', recipe, '--keep', '--', 'true');
  await ok('park', '-n', '1');
  await ok('service', 'create', '-r', recipe, 'idle', '--', 'sleep', '1000000');
  await ok('service', 'start', 'idle');
  await ok('service', 'stop', 'idle');
  serviceRecipe = await freshRecipe();
  await ok('service', 'upgrade', 'idle', '--to', serviceRecipe);
  await makeRoot();
  const source = await sourcePackage(state.directory, { name: 'tiny' });
  const results = join(state.directory, 'results');
  const root = join(state.directory, 'noarch.yaml');
  await writeFile(root, NOARCH_RECIPE);
  await ok('build', '-r', root, source, '--resultdir', results);
  await ok('image', 'rm', 'noarch');
  // Nothing is to be written in the background while files are damaged.
  await ok('gc', '--sync-only');
});

test.after.always(async () => {
  if (state !== undefined) await kiln('service', 'stop', 'idle');
  await mirror?.[Symbol.asyncDispose]();
  await state?.[Symbol.asyncDispose]();
});

/** A root of kiln-mock, in which nothing is built. */
async function makeRoot(): Promise<void> {
  const { directory } = await debianRepository();
  const config = join(state.directory, 'tiny.cfg');
  await writeFile(
    config,
    `config_opts['root'] = 'tiny'
config_opts['target_arch'] = 'x86_64'
config_opts['chroot_setup_cmd'] = 'install coreutils dash bash rpm'
config_opts['dnf.conf'] = """
[main]
[debian]
name=Debian
baseurl=${pathToFileURL(directory)}
"""
`,
  );
  const { exitCode, stderr } = await execa(
    join(import.meta.dirname, '../../bin/kiln-mock'),
    ['-q', '-r', config, '--init'],
    { env: { ...env, HOME: state.directory }, reject: false },
  );
  if (exitCode !== 0) throw new Error(stderr);
}

/** Files of the state by their path in it; what trees of images, roots and services hold is left out. */
function files(folder = ''): string[] {
  return readdirSync(join(state.engine.paths.root, folder), { withFileTypes: true }).flatMap(
    (entry) => {
      const path = join(folder, entry.name);
      if (!entry.isDirectory()) return [path];
      return kindOf(`${path}/x`)?.care === 'tree' || /^libvirt|^store\/trash/.test(path)
        ? []
        : files(path);
    },
  );
}

const full = (path: string) => join(state.engine.paths.root, path);

/** What is in the place of a file: other bytes, or a directory. */
type Garbled = (bytes: Buffer) => Buffer | 'directory';

const GARBLINGS: Readonly<Record<string, Garbled>> = {
  'an empty file': () => Buffer.alloc(0),
  'a file that was cut': (bytes) => bytes.subarray(0, bytes.length / 2),
  'a file with another byte': (bytes) => {
    const other = Buffer.from(bytes);
    const at = Math.floor(bytes.length / 2);
    other[at] = (other[at] ?? 0) ^ 1;
    return other;
  },
  'a folder': () => 'directory',
};

/** Puts something else in the place of a file. (One that is executed cannot be written to.) */
async function replace(path: string, bytes: Buffer | 'directory'): Promise<void> {
  const { mode } = await stat(path);
  await rm(path);
  if (bytes === 'directory') await mkdir(join(path, 'something'), { recursive: true });
  else await writeFile(path, bytes, { mode });
}

/** Runs everything that reads the state; each has to do its work. What they said. */
async function everything(t: ExecutionContext): Promise<string> {
  let said = '';
  const run = async (args: readonly string[], expected: RegExp) => {
    const { exitCode, stdout, stderr } = await kiln(...args);
    const all = `${stdout}${stderr}`;
    said += all;
    t.is(exitCode, 0, `kiln ${args.join(' ')}: ${all}`);
    t.regex(String(stdout), expected, `kiln ${args.join(' ')}: ${all}`);
    t.notRegex(all, /internal error|^ +at /m);
    return String(stdout);
  };
  await run(['doctor', 'state-files'], /state-files/);
  await run(['run', '-r', recipe, '--', 'echo', 'it works'], /^it works$/);
  await run(['image', 'build', recipe], /^[0-9a-f]{64}$/);
  const fresh = await run(['image', 'build', await freshRecipe()], /^[0-9a-f]{64}$/);
  await run(['image', 'rm', fresh.trim()], /^/);
  await run(['ps'], /^ID/);
  await run(['image', 'ls'], /small/);
  await run(['gc'], /^removed/);
  await run(['service', 'list'], /^NAME.*\nidle /);
  return said;
}

test.serial('every kind of file that commands make is known', (t) => {
  const found = files();
  t.deepEqual(
    found.filter((path) => kindOf(path) === undefined),
    [],
  );
  // What is read back and has been made here is damaged below.
  const made = new Set(found.map((path) => kindOf(path)));
  const missing = KINDS.filter((kind) => GARBLED.has(kind.care) && !made.has(kind));
  t.deepEqual(
    missing.map(({ pattern }) => pattern.source).filter((source) => !ELSEWHERE.test(source)),
    [],
  );
});

const GARBLED: ReadonlySet<string> = new Set([
  ...['cached record', 'checked when used', 'record', 'image', 'header'],
  ...['definition', 'no content'],
]);

/** Of detached jobs, snapshots (of roots, too), accounts, of downloads that broke off, and of upgrades that are under way. */
const ELSEWHERE =
  /detached|snapshots|account|cache\\?\/partial|cache\\?\/\(bases|previous|packages-|store\\?\/damage/;

/**
 * Who reads it says so; but `kiln run` and the others have no reason to (`kiln gc --verify` has), or what writes an
 * image to the disk, with nobody to tell, may come to it first.
 */
const NEED_NOT_BE_TOLD =
  /^(store\/roots\/[^/]+\/packages.json|mock\/|store\/sync-points|store\/images\/[^/]+\/own-files)/;

type Kind = (typeof KINDS)[number];

/** Every garbling in long runs; otherwise one for each kind, by turns. */
function garblingsOf(index: number): [string, Garbled][] {
  const all = Object.entries(GARBLINGS);
  return all.filter((_, at) => isLong || at === index % all.length);
}

/** Kinds of packages, which only who wants a package mends: roots and images that are made anew want them. */
const ALONE = /packages\\\/.*(package\\?\.json|header\\?\.rpm)/;

/** What is damaged at once, and how: in long runs each kind by itself, otherwise most kinds with the same garbling. */
function damages(): {
  readonly title: string;
  readonly garbling: string;
  readonly kinds: Kind[];
}[] {
  const each = KINDS.filter(({ care }) => GARBLED.has(care)).flatMap((kind, index) =>
    (kind.care === 'no content' ? ['a folder'] : garblingsOf(index).map(([name]) => name)).map(
      (garbling) => ({ title: `${kind.pattern.source}: ${garbling}`, garbling, kinds: [kind] }),
    ),
  );
  if (isLong) return each;
  const alone = each.filter(({ title }) => ALONE.test(title));
  const others = each.filter((one) => !alone.includes(one));
  const together = Object.entries(Object.groupBy(others, ({ garbling }) => garbling)).map(
    ([garbling, these = []]) => ({
      title: `${garbling} in the place of each file of ${these.length} kinds`,
      garbling,
      kinds: these.flatMap(({ kinds }) => kinds),
    }),
  );
  return [...alone, ...together];
}

for (const { title, garbling, kinds } of damages()) {
  const garble = GARBLINGS[garbling]!;
  test.serial(title, async (t) => {
    t.timeout(120_000 * PATIENCE);
    const all = files();
    const damaged = kinds.map((kind) => ({
      kind,
      found: all.filter((path) => kindOf(path) === kind),
      kept: new Map<string, Buffer>(),
    }));
    for (const { kind, found, kept } of damaged) {
      if (found.length === 0) t.regex(kind.pattern.source, ELSEWHERE);
      for (const path of found) {
        kept.set(path, readFileSync(full(path)));
        await replace(full(path), garble(readFileSync(full(path))));
      }
    }
    if (damaged.every(({ found }) => found.length === 0)) return;
    const said = await everything(t);
    for (const { kind, found } of damaged) {
      const told = found.some((path) => said.includes(relative('/', full(path))));
      // A person may well have meant the other byte.
      const meant = kind.care === 'definition' && garbling === 'a file with another byte';
      const quiet = meant || kind.care === 'no content' || kind.care === 'checked when used';
      if (!quiet && !found.every((path) => NEED_NOT_BE_TOLD.test(path))) {
        t.true(told, `${kind.pattern.source}: ${said}`);
      }
    }
    // Who wants an image mends what is known of it.
    await ok('image', 'build', serviceRecipe);
    for (const { kind, kept } of damaged) await mendByHand(kind, kept);
    await mendRoots();
    // Nothing is damaged any more: what was has been made anew, or is out of the way.
    t.regex(await ok('doctor', 'state-files'), /no damaged file/);
    if (garbling !== 'an empty file' || !isLong) return;
    const again = await everything(t);
    t.notRegex(again, /damaged:/);
  });
}

/** What only a person can mend. */
async function mendByHand(
  { care, pattern }: Kind,
  kept: ReadonlyMap<string, Buffer>,
): Promise<void> {
  // The groups of a repository are written with the rest of what is converted.
  if (pattern.source.includes('solv')) {
    await rm(full('cache/solv'), { recursive: true });
    await ok('image', 'rm', (await ok('image', 'build', await freshRecipe())).trim());
  }
  for (const [path, content] of kept) {
    const isService = /^services\/[^/]+\/image.json$/.test(path);
    // Of the first, that the service ends again would write it, too.
    if (path.endsWith('/outcome.json') || care === 'definition') {
      await rm(full(path), { recursive: true, force: true });
      await writeFile(full(path), content);
    } else if (isService) await ok('service', 'upgrade', 'idle', '--to', serviceRecipe);
  }
}

/** Whoever wants a root mends what is known of it. */
async function mendRoots(): Promise<void> {
  if (existsSync(full('store/roots')) && readdirSync(full('store/roots')).length > 0) {
    await makeRoot();
  }
}

/** Whose an id range is; nobody's where it was given back meanwhile, by whatever else runs on this host. */
function ownerOf(range: string): string {
  try {
    return readFileSync(range, 'utf8');
  } catch {
    return '';
  }
}

for (const [title, garble] of garblingsOf(0)) {
  test.serial(`a parked and a kept sandbox with a damaged record go: ${title}`, async (t) => {
    t.timeout(120_000 * PATIENCE);
    const { sandboxes } = state.engine.paths;
    await ok('run', '-r', recipe, '--keep', '--', 'true');
    // The run may have taken the one that waited.
    await ok('park', '-n', '1');
    const found = readdirSync(sandboxes).map((id) => join(sandboxes, id));
    t.true(found.length >= 2);
    for (const sandbox of found) {
      const path = join(sandbox, 'sandbox.json');
      await replace(path, garble(readFileSync(path)));
    }
    // Whoever sweeps it says so: that may have been the daemon, on its own, in its log.
    const log = full('kilnd.log');
    const said = (await everything(t)) + (existsSync(log) ? readFileSync(log, 'utf8') : '');
    t.true(
      found.some((sandbox) => said.includes(`${sandbox}/sandbox.json is damaged`)),
      said,
    );
    await ok('park', '-n', '1');
    // They are gone, their domains, too: libvirt is asked.
    const { stdout } = await execa('virsh', [
      '-c',
      embeddedFiles(state.engine.paths).uri,
      'list',
      '--name',
    ]);
    for (const sandbox of found) {
      t.false(existsSync(sandbox));
      t.false(stdout.includes(basename(sandbox)), stdout);
    }
    // Their ids are free, though no record says which they had.
    const ranges = join(state.engine.paths.hostRun, 'ranges');
    for (const name of readdirSync(ranges)) {
      const owner = ownerOf(join(ranges, name));
      t.false(
        found.some((sandbox) => owner.includes(basename(sandbox))),
        `${name}: ${owner}`,
      );
    }
    t.notRegex(await everything(t), /damaged:/);
  });
}

test.serial('an image whose tree is gone is damaged, and is made again', async (t) => {
  const path = await freshRecipe();
  const id = (await ok('image', 'build', path)).trim();
  const tree = full(`store/images/${id}/tree`);
  await rm(tree, { recursive: true });
  t.regex(
    await ok('doctor', 'state-files'),
    /tree is damaged: it is gone; the image is made again/,
  );
  const run = await kiln('run', '-r', id, '--', 'true');
  t.is(run.exitCode, 125);
  t.regex(String(run.stderr), /tree is damaged: it is gone; .* made again when it is needed/);
  t.regex(String(run.stderr), /E_IMAGE_MISSING.*\n.*build it again from its recipe/);
  t.is((await ok('image', 'build', path)).trim(), id);
  t.true(existsSync(tree));
  await ok('image', 'rm', id);
});

/** Changes a byte of a file that an image shares with its package: one inode. */
async function changeByte(path: string): Promise<void> {
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
  await writeFile(path, bytes);
}

/** The digest of a package's file as rpm says, and that of the file in an image. */
async function digests(id: string, file: string): Promise<[wanted: string, found: string]> {
  const { directory } = await debianRepository();
  const [rpm = ''] = readdirSync(directory).filter((name) => /^coreutils-\d/.test(name));
  const dump = await execa('rpm', ['-qp', '--dump', '--nosignature', join(directory, rpm)]);
  const line = dump.stdout.split('\n').find((it) => it.startsWith(`${file} `));
  const wanted = line?.split(' ')[3] ?? '';
  const sum = wanted.length === 32 ? 'md5sum' : 'sha256sum';
  const { stdout } = await execa(sum, [full(`store/images/${id}/tree${file}`)]);
  return [wanted, stdout.split(' ')[0] ?? ''];
}

const WRONG = /tree\/usr\/bin\/env is damaged: its \w+ is another one/;

test.serial('gc --verify finds a changed byte, and later commands remember it', async (t) => {
  t.timeout(240_000 * PATIENCE);
  const path = await freshRecipe();
  const id = (await ok('image', 'build', path)).trim();
  const good = await ok('gc', '--verify');
  t.regex(good, /^compared \d+ packages: no damage\nremoved /);
  // It holds up nobody while it reads: others have the lock meanwhile.
  const { paths } = state.engine;
  await withLock(packagesLock(paths), async () =>
    t.like(await verifyPackages(paths), { damaged: [] }),
  );
  const running = kiln('run', '-r', id, '--', 'sleep', '1000');
  const sandbox = await eventually(async () => {
    const all = JSON.parse(await ok('ps', '--json')) as { id: string; record: SandboxRecord }[];
    return all.find(({ record }) => record.command?.join(' ') === 'sleep 1000')?.id;
  });
  await changeByte(full(`store/images/${id}/tree/usr/bin/env`));
  const { exitCode, stdout, stderr } = await kiln('gc', '--verify');
  t.is(exitCode, 1, String(stderr));
  t.regex(String(stdout), /: 1 damaged, \d+ images? with damaged files/);
  t.regex(String(stderr), WRONG);
  // The package is gone; the image stays, for somebody uses it, but it is not used any more.
  const again = await kiln('gc', '--verify');
  t.is(again.exitCode, 1);
  t.regex(
    String(again.stdout),
    /packages: \d+ images? with damaged files; 1 package could not be compared\n/,
  );
  t.regex(String(again.stderr), /env is damaged: its \w+ is another one \[E_DAMAGED\]\n.*doctor/);
  const doctor = await ok('doctor', 'state-files');
  t.regex(doctor, WRONG);
  t.regex(doctor, new RegExp(`kiln kill ${sandbox}; `));
  const refused = await kiln('run', '-r', id, '--', 'true');
  t.is(refused.exitCode, 125);
  t.regex(
    String(refused.stderr),
    /E_IMAGE_MISSING.*\n.*because: .*env is damaged.*\n.*build it again/,
  );
  // Whoever names the recipe gets a good one, beside the one that is in use. rpm is the oracle.
  t.is((await ok('image', 'build', path)).trim(), id);
  const [wanted, found] = await digests(id, '/usr/bin/env');
  t.is(found, wanted);
  t.is(await ok('run', '-r', id, '--', 'echo', 'it works'), 'it works');
  await ok('kill', sandbox);
  await running;
  await mendAll(t);
  const mended = await kiln('gc', '--verify');
  t.is(mended.exitCode, 0, String(mended.stderr));
  t.regex(String(mended.stdout), /^compared \d+ packages: no damage\n/);
  t.notRegex(String(mended.stderr), /damaged/);
  await ok('image', 'rm', id);
});

test.serial('known damage is remembered after a kill', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const path = await freshRecipe();
  const id = (await ok('image', 'build', path)).trim();
  const { paths } = state.engine;
  const { linked } = findContents(paths, id).value!;
  const digest = linked.find((one) =>
    existsSync(join(packageDirectory(paths, one), 'tree/usr/bin/env')),
  )!;
  await changeByte(full(`store/images/${id}/tree/usr/bin/env`));
  // The first thing that is written; whoever writes it is killed then.
  const directory = packageDirectory(paths, digest);
  const file = '/usr/bin/env';
  const damage = { path: `${directory}/tree${file}`, why: 'its sha256 is another one' };
  const { ino: inode } = await stat(directory);
  writeRecord(join(paths.store, 'damage.json'), { found: [{ digest, inode, file, ...damage }] });
  const refused = await kiln('run', '-r', id, '--', 'true');
  t.is(refused.exitCode, 125);
  t.regex(String(refused.stderr), /cannot be used any more/);
  t.is((await ok('image', 'build', path)).trim(), id);
  const [wanted, found] = await digests(id, file);
  t.is(found, wanted);
  await mendAll(t);
  t.is((await kiln('gc', '--verify')).exitCode, 0);
  await ok('image', 'rm', id);
});

test.serial(
  'gc --verify counts what it cannot compare, and a damaged header as damage',
  async (t) => {
    t.timeout(120_000 * PATIENCE);
    const id = (await ok('image', 'build', await freshRecipe())).trim();
    const { paths } = state.engine;
    const [first = '', second = ''] = findContents(paths, id).value?.linked ?? [];
    for (const [digest, name] of [
      [first, 'header.rpm'],
      [second, 'package.json'],
    ] as const) {
      await changeByte(join(packageDirectory(paths, digest), name));
    }
    const { exitCode, stdout, stderr } = await kiln('gc', '--verify');
    t.is(exitCode, 1);
    // Of the first the files were compared before it was thrown away.
    t.regex(String(stdout), /: 2 damaged; 2 packages could not be compared\n/);
    t.regex(String(stderr), /header\.rpm is damaged.*unpacked again when it is needed/);
    t.regex(String(stderr), /package\.json is damaged.*unpacked again when it is needed/);
    t.regex(await ok('doctor', 'state-files'), /no damaged file/);
    // Nothing is damaged any more, and yet nobody can tell.
    const unknown = await kiln('gc', '--verify');
    t.is(unknown.exitCode, 1);
    t.regex(String(unknown.stdout), /: no damage; 2 packages could not be compared\n/);
    t.regex(String(unknown.stderr), /digests of the files of 2 packages are lost: .*\[E_DAMAGED\]/);
    // What an image shares with no package any more is compared with the package that is unpacked anew.
    const next = (await ok('image', 'build', await freshRecipe())).trim();
    const before = JSON.parse(await ok('gc', '--verify', '--json')).verified;
    t.deepEqual([before.uncompared.packages, before.images], [[], []]);
    const [file = ''] = Object.keys(await ownFiles(first));
    await changeByte(full(`store/images/${id}/tree${file}`));
    const after = await kiln('gc', '--verify', '--json');
    t.is(after.exitCode, 1);
    // Other images may share it.
    t.true(JSON.parse(String(after.stdout)).verified.images.length > 0);
    for (const one of [id, next]) await kiln('image', 'rm', one);
    await mendAll(t);
  },
);

test.serial('gc --verify compares what an image has of its own', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const id = (await ok('image', 'build', await freshRecipe())).trim();
  const archive = join(state.directory, 'own.tar');
  await ok('image', 'export', id, '-o', archive);
  const brought = (await ok('image', 'import', archive, '--name', 'brought')).trim();
  const verify = async () => {
    const { exitCode, stdout, stderr } = await kiln('gc', '--verify', '--json');
    return { exitCode, stderr: String(stderr), ...JSON.parse(String(stdout)).verified };
  };
  t.like(await verify(), { exitCode: 0, images: [], uncompared: { packages: [], images: [] } });
  for (const image of [id, brought]) {
    const folder = full(`store/images/${image}`);
    const note = await readFile(join(folder, 'own-files.json'));
    // A digest of every file of an imported image, and of few of one that is made of packages: sha256sum is the oracle.
    const { own } = JSON.parse(note.toString()) as { own: Record<string, string> };
    const tree = join(folder, 'tree');
    const { stdout: alone } = await execa('find', [
      tree,
      '-type',
      'f',
      '-size',
      '+0',
      '-links',
      '1',
    ]);
    const file = alone.split('\n')[0] ?? '';
    const { stdout } = await execa('sha256sum', [file]);
    t.is(own[file.slice(tree.length)], stdout.split(' ')[0]);
    t.is('/usr/bin/env' in own, image === brought);
    await rm(join(folder, 'own-files.json'));
    t.like(await verify(), { exitCode: 1, images: [], uncompared: { images: [image] } });
    await writeFile(join(folder, 'own-files.json'), note, { mode: 0o600 });
    await changeByte(file);
    const found = await verify();
    t.like(found, { exitCode: 1, damaged: [], images: [image], uncompared: { images: [] } });
    t.regex(found.stderr, /tree\/.* is damaged: its sha256 is another one/);
    // Nobody used it.
    t.notRegex(await ok('image', 'ls', '--json'), new RegExp(image));
  }
  t.like(await verify(), { exitCode: 0, images: [] });
});

test.serial('doctor’s advice mends what doctor finds', async (t) => {
  t.timeout(240_000 * PATIENCE);
  const kinds = KINDS.filter(({ care }) => GARBLED.has(care) && care !== 'definition');
  for (const garbling of [GARBLINGS['a file with another byte']!, GARBLINGS['an empty file']!]) {
    for (const path of files()) {
      const kind = kindOf(path);
      if (kind === undefined || !kinds.includes(kind) || kind.care === 'no content') continue;
      if (readFileSync(full(path)).length > 0)
        await replace(full(path), garbling(readFileSync(full(path))));
    }
    await mendAll(t, 2);
  }
  t.is(await ok('run', '-r', recipe, '--', 'echo', 'it works'), 'it works');
});

/** Does what doctor says, once; twice where a service’s record has to be mended first. */
async function mendAll(t: ExecutionContext, rounds = 1): Promise<void> {
  const bin = join(import.meta.dirname, '../../bin');
  const said: string[] = [];
  for (let round = 0; ; round++) {
    const { checks } = JSON.parse(await ok('doctor', '--json', 'state-files')) as {
      checks: { status: string; problem?: string; mend?: string }[];
    };
    const [check] = checks;
    if (check?.status === 'ok') return;
    if (round === rounds) return t.fail(`${check?.problem}: ${check?.mend}; ${said.join('\n')}`);
    const commands = check?.mend?.split('; ').filter((text) => text.startsWith('kiln ')) ?? [];
    for (const command of commands) {
      const { stdout, stderr } = await execa('sh', ['-c', command], {
        env: { ...env, PATH: `${bin}:${env.PATH}` },
        reject: false,
      });
      said.push(`${command}: ${stdout}${stderr}`);
    }
  }
}

/** The plain files of a stored package, by their paths. */
async function ownFiles(digest: string): Promise<Record<string, true>> {
  const tree = join(packageDirectory(state.engine.paths, digest), 'tree');
  const { stdout } = await execa('find', [tree, '-type', 'f', '-size', '+0', '-links', '2']);
  const paths = stdout.split('\n').filter((path) => path !== '');
  return Object.fromEntries(paths.map((path) => [path.slice(tree.length), true as const]));
}
