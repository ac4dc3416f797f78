/** What an image is called: its caller's word decides, never what a file says of itself. */
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { IMAGE } from '../support/busybox-state.ts';
import { USER, type UserState, userState } from '../support/second-user.ts';
import { ownRepository } from '../users/own-package.ts';

interface Context extends UserState {
  /** Two archives of images that say who they are in /etc/who. */
  readonly archives: { readonly good: string; readonly other: string };
  /** An OCI layout whose label says that it is called tools. */
  readonly layout: string;
}

const test = anyTest as TestFn<Context>;
const WHO = ['--', 'busybox', 'cat', '/etc/who'];

/** Writes a blob under its digest, as skopeo and kiln check it. @returns its descriptor */
function blob(layout: string, value: object): { digest: string; size: number } {
  const bytes = Buffer.from(JSON.stringify(value));
  const hex = createHash('sha256').update(bytes).digest('hex');
  writeFileSync(join(layout, 'blobs/sha256', hex), bytes);
  return { digest: `sha256:${hex}`, size: bytes.length };
}

/** Changes the configuration of a layout, and with it all digests up to its index. */
function label(layout: string, labels: Record<string, string>): void {
  const read = (path: string) => JSON.parse(readFileSync(join(layout, path), 'utf8'));
  const at = ({ digest }: { digest: string }) => `blobs/${digest.replace(':', '/')}`;
  const index = read('index.json');
  const manifest = read(at(index.manifests[0]));
  const config = read(at(manifest.config));
  Object.assign(
    manifest.config,
    blob(layout, { ...config, config: { ...config.config, Labels: labels } }),
  );
  Object.assign(index.manifests[0], blob(layout, manifest));
  writeFileSync(join(layout, 'index.json'), JSON.stringify(index));
}

test.before(async (t) => {
  const state = await userState();
  const { beside, paths } = state;
  const archives = { good: join(beside, 'good.tar'), other: join(beside, 'other.tar') };
  for (const [who, archive] of Object.entries(archives)) {
    const tree = join(beside, who);
    cpSync(join(paths.images, IMAGE, 'tree'), tree, { recursive: true, verbatimSymlinks: true });
    writeFileSync(join(tree, 'etc/who'), who);
    await execa('tar', ['-C', tree, '-cf', archive, '.']);
  }
  await state.kiln(['image', 'import', archives.other, '--name', 'tools']);
  const layout = join(beside, 'evil');
  const exported = await state.kiln(['image', 'export', 'tools', '-o', layout]);
  if (exported.exitCode !== 0) throw new Error(String(exported.stderr));
  await state.kiln(['image', 'rm', 'tools']);
  label(layout, { 'org.opencontainers.image.title': 'tools' });
  t.context = { ...state, archives, layout };
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

async function done(t: ExecutionContext<Context>, ...args: string[]) {
  const { exitCode, stdout, stderr } = await t.context.kiln(args);
  t.is(exitCode, 0, `${args.join(' ')}: ${stderr}`);
  return { out: String(stdout), said: String(stderr) };
}

const short = (id: string) => id.slice(0, 12);

test.serial(
  'an image is named by its file, its reference or --name, not by its title',
  async (t) => {
    const { archives, layout, kiln } = t.context;
    const good = await done(t, 'image', 'import', archives.good, '--name', 'tools');
    const { out: evil, said } = await done(t, 'image', 'import', layout);
    t.not(evil, good.out);
    t.regex(said, new RegExp(`^kiln: image ${short(evil)} is called evil$`, 'm'));
    t.is((await done(t, 'run', '-r', 'tools', ...WHO)).out, 'good');
    t.is((await done(t, 'run', '-r', 'evil', ...WHO)).out, 'other');
    const pulled = await done(t, 'image', 'pull', `oci:${layout}`, '--name', 'pulled');
    t.regex(pulled.said, new RegExp(`^kiln: image ${short(pulled.out)} is called pulled$`, 'm'));
    t.is((await done(t, 'run', '-r', 'tools', ...WHO)).out, 'good');
    for (const name of ['evil', 'pulled'])
      t.is((await done(t, 'run', '-r', name, ...WHO)).out, 'other');
    const named = join(t.context.beside, 'a'.repeat(64));
    cpSync(archives.other, named);
    t.regex((await done(t, 'image', 'import', named)).said, /is called imported/);
    t.not((await kiln(['image', 'import', named, '--name', 'b'.repeat(64)])).exitCode, 0);
  },
);

test.serial('a name that is given again means the new image, and kiln says so', async (t) => {
  const { archives, kiln } = t.context;
  const before = (await done(t, 'image', 'show', 'tools')).out;
  const { id } = JSON.parse(before);
  const other = await done(t, 'image', 'import', archives.other, '--name', 'tools');
  const said = `is called tools, which meant image ${short(id)} before`;
  t.true(other.said.includes(said), other.said);
  t.is((await done(t, 'run', '-r', 'tools', ...WHO)).out, 'other');
  t.is(JSON.parse((await done(t, 'image', 'show', 'tools')).out).id, other.out);
  // Also where the image is the older one.
  const back = await done(t, 'image', 'import', archives.good, '--name', 'tools');
  t.is(back.out, id);
  t.true(back.said.includes(`which meant image ${short(other.out)} before`), back.said);
  t.is((await done(t, 'run', '-r', 'tools', ...WHO)).out, 'good');
  const again = await done(t, 'image', 'import', archives.good, '--name', 'tools');
  t.notRegex(again.said, /before/);
  // Gone is gone: the name falls back on nothing.
  t.is((await done(t, 'image', 'rm', 'tools')).out, id);
  for (const args of [
    ['run', '-r', 'tools', ...WHO],
    ['image', 'show', 'tools'],
    ['image', 'rm', 'tools'],
  ]) {
    const { exitCode, stderr } = await kiln(args);
    t.is(exitCode, 125);
    t.regex(String(stderr), /there is no image and no recipe called tools \[E_IMAGE_MISSING\]/);
  }
  t.regex((await done(t, 'image', 'ls')).out, new RegExp(`^${short(other.out)} +imported `, 'm'));
});

test.serial('a name that two processes give at once means one image', async (t) => {
  const { archives } = t.context;
  const giving = [archives.good, archives.other].flatMap((archive) =>
    [1, 2].map(() => done(t, 'image', 'import', archive, '--name', 'raced')),
  );
  const given = (await Promise.all(giving)).map(({ out }) => out);
  const { id } = JSON.parse((await done(t, 'image', 'show', 'raced')).out);
  t.true(given.includes(id));
  const rows: { names: string[] }[] = JSON.parse((await done(t, 'image', 'ls', '--json')).out);
  t.is(rows.filter(({ names }) => names.includes('raced')).length, 1);
});

test.serial('the name of a recipe means that recipe, and no image can get it', async (t) => {
  const { archives, kiln, beside, as, home } = t.context;
  const recipes = join(beside, 'recipes');
  await ownRepository(
    join(beside, 'repo'),
    {
      ...{ name: 'tiny', preamble: 'AutoReqProv: no', files: '/bin/busybox' },
      install: 'mkdir -p %{buildroot}/bin; cp /bin/busybox %{buildroot}/bin/',
    },
    { uid: 0, gid: 0 },
  );
  const text = (who: string) => `repositories: [{ id: own, directory: ${beside}/repo }]
packages: [tiny]
scriptlets: { mode: none }
workdir: /
files: [{ path: /etc/who, content: ${who} }]
`;
  mkdirSync(recipes);
  writeFileSync(join(recipes, 'site.yaml'), text('root'));
  for (const name of ['site', 'debian-build']) {
    for (const words of [
      ['import', archives.other],
      ['pull', `oci:${t.context.layout}`],
    ]) {
      const { exitCode, stderr } = await kiln(['image', ...words, '--name', name]);
      t.is(exitCode, 125);
      t.regex(String(stderr), new RegExp(`${name} means the recipe .+/${name}\\.yaml`));
      t.regex(String(stderr), /--name/);
    }
  }
  const mine = join(home, 'other.tar');
  cpSync(archives.other, mine);
  const theirs = await as(USER, ['image', 'import', mine, '--name', 'debian-build']);
  t.regex(String(theirs.stderr), /debian-build means the recipe/);
  // A file that is called as a recipe makes an image, whose name goes on to mean the recipe.
  const made = await done(t, 'image', 'build', 'site');
  const file = join(beside, 'site.yaml');
  writeFileSync(file, text('file'));
  const other = await done(t, 'image', 'build', file);
  t.true(
    other.said.includes(
      `making an image from ${file}; its name goes on to mean ${recipes}/site.yaml`,
    ),
    other.said,
  );
  t.not(other.out, made.out);
  t.is((await done(t, 'run', '-r', 'site', '--', '/bin/busybox', 'cat', '/etc/who')).out, 'root');
  t.is(JSON.parse((await done(t, 'image', 'show', 'site')).out).id, made.out);
  t.is((await done(t, 'run', '-r', file, '--', '/bin/busybox', 'cat', '/etc/who')).out, 'file');
  t.is(JSON.parse((await done(t, 'image', 'show', file)).out).id, other.out);
  t.is((await done(t, 'image', 'rm', 'site')).out, made.out);
  t.regex(
    String((await kiln(['image', 'show', 'site'])).stderr),
    /there is no image of \S+recipes\/site\.yaml/,
  );
  t.is((await done(t, 'image', 'rm', file)).out, other.out);
  // Without such a recipe, the name is the file's to give; the same recipe changes its image without a word.
  const own = join(beside, 'own.yaml');
  writeFileSync(own, text('first'));
  const first = await done(t, 'image', 'build', own);
  writeFileSync(own, text('second'));
  const second = await done(t, 'image', 'build', own);
  t.not(second.out, first.out);
  t.notRegex(second.said, /before/);
  t.is((await done(t, 'run', '-r', 'own', '--', '/bin/busybox', 'cat', '/etc/who')).out, 'second');
  const elsewhere = join(beside, 'elsewhere');
  mkdirSync(elsewhere);
  writeFileSync(join(elsewhere, 'own.yaml'), text('third'));
  const third = await done(t, 'image', 'build', '--allow-host', join(elsewhere, 'own.yaml'));
  t.true(third.said.includes(`own meant image ${short(second.out)} before`), third.said);
});

test.serial('the image of a lock is named after its file, whatever the lock says', async (t) => {
  const { beside } = t.context;
  const own = join(beside, 'own.yaml');
  const { out: lock } = await done(t, 'image', 'lock', own);
  const written = JSON.parse(readFileSync(lock, 'utf8'));
  written.image.name = 'evil';
  const file = join(beside, 'renamed.lock.json');
  writeFileSync(file, JSON.stringify(written));
  const before = JSON.parse((await done(t, 'image', 'show', 'evil')).out).id;
  await done(t, 'image', 'build', file);
  t.is(JSON.parse((await done(t, 'image', 'show', 'evil')).out).id, before);
  t.is(
    (await done(t, 'run', '-r', 'renamed', '--', '/bin/busybox', 'cat', '/etc/who')).out,
    'second',
  );
});

test.serial('a word that is a name and the beginning of an id is ambiguous', async (t) => {
  const { archives, kiln } = t.context;
  await done(t, 'image', 'import', archives.good, '--name', IMAGE.slice(0, 6));
  const { exitCode, stderr } = await kiln(['run', '-r', IMAGE.slice(0, 6), '--', 'true']);
  t.is(exitCode, 125);
  t.regex(
    String(stderr),
    /one image begins with b{6}, and one has that name \[E_IMAGE_AMBIGUOUS\]/,
  );
  t.is((await kiln(['run', '-r', IMAGE, '--', 'true'])).exitCode, 0);
});
