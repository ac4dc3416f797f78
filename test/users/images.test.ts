/** Images of users’ own: who sees them by which name, and who may have what is in them. */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  watch,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { specText } from '../build/core/build-state.ts';
import { IMAGE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';
import { long } from '../support/long.ts';
import {
  leftOfJobs,
  OTHER,
  USER,
  type UserState,
  userState,
  writeConfig,
} from '../support/second-user.ts';

type Who = typeof USER | typeof OTHER;

interface Context extends UserState {
  readonly listed: UserState;
  readonly server: Server;
}

const test = anyTest as TestFn<Context>;
const MARK = 'nobody-but-root';
const PASSWORD = 'hunter2-is-secret';

/** Makes a repository with one package, which has busybox and a text. */
async function repository(folder: string, name: string): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const spec = join(folder, 'x.spec');
  const install = `mkdir %{buildroot}/bin; cp /bin/busybox %{buildroot}/bin/; echo text-of-${name} >%{buildroot}/usr/share/${name}/text`;
  const files = `/bin/busybox\n/usr/share/${name}`;
  writeFileSync(spec, specText({ name, preamble: 'AutoReqProv: no', install, files }));
  const top = join(folder, 'top');
  await execa('rpmbuild', [
    '-bb',
    '--quiet',
    '--define',
    `_topdir ${top}`,
    '--define',
    `_rpmdir ${folder}`,
    spec,
  ]);
  rmSync(top, { recursive: true });
  rmSync(spec);
  await execa('createrepo_c', ['--quiet', folder]);
}

/** A folder that is one user’s alone, with a recipe and a repository. */
async function workshop(
  state: UserState,
  who: Who,
  folderName: string,
  name: string,
): Promise<string> {
  const folder = join(state.beside, folderName);
  await repository(join(folder, 'repo'), name);
  writeFileSync(join(folder, 'base.yaml'), recipe(name));
  writeFileSync(join(folder, 'mine.yaml'), 'extends: ./base.yaml\n');
  writeFileSync(join(folder, 'beside.txt'), `beside-${name}`);
  await give(folder, who);
  return folder;
}

async function give(path: string, { uid, gid }: Who): Promise<void> {
  await execa('chown', ['-Rh', `${uid}:${gid}`, path]);
  if (statSync(path).isDirectory()) chmodSync(path, 0o700);
}

function recipe(name: string, repo = '{ id: own, directory: repo }'): string {
  return `repositories: [${repo}]
packages: [${name}]
scriptlets: { mode: none }
workdir: /
files: [{ path: /etc/beside, source: beside.txt }]
`;
}

function succeeds(t: ExecutionContext, result: { exitCode?: unknown; stderr?: unknown }): void {
  t.is(result.exitCode, 0, String(result.stderr));
}

/** A call that fails, and tells nothing. */
async function refused(
  t: ExecutionContext<Context>,
  call: ReturnType<UserState['as']>,
  expected: RegExp,
  what = '',
): Promise<void> {
  const { exitCode, stdout, stderr } = await call;
  t.not(exitCode, 0, what);
  t.regex(String(stderr), expected, what);
  t.notRegex(`${stdout}${stderr}`, /text-of-|nobody-but-root/, what);
}

async function list(state: UserState, who: Who): Promise<{ id: string; name: string }[]> {
  return JSON.parse(String((await state.as(who, ['image', 'ls', '--json'])).stdout));
}

test.before(async (t) => {
  const state = await userState('  limits: { disk: 64M }\n');
  writeFileSync(join(state.beside, 'loot'), MARK, { mode: 0o600 });
  await repository(join(state.beside, 'roots/repo'), 'roots');
  writeFileSync(join(state.beside, 'roots/beside.txt'), 'x');
  chmodSync(join(state.beside, 'roots'), 0o700);
  const server = createServer((request, response) => {
    const wanted = `Basic ${Buffer.from(`me:${PASSWORD}`).toString('base64')}`;
    if (request.headers.authorization !== wanted) response.writeHead(401).end();
    else {
      try {
        response.end(readFileSync(join(state.beside, 'roots/repo', request.url ?? '')));
      } catch {
        response.writeHead(404).end();
      }
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.context = { ...state, server, listed: await userState("  images: ['hid*', private]\n") };
});

test.after.always(async ({ context }) => {
  context.server.close();
  await context[Symbol.asyncDispose]();
  await context.listed[Symbol.asyncDispose]();
});

test.serial('an image of a user’s recipe is the user’s, by name and by id', async (t) => {
  const { as, kiln } = t.context;
  const cwd = await workshop(t.context, USER, 'one', 'first');
  const made = await as(USER, ['image', 'build', './mine.yaml'], { cwd });
  succeeds(t, made);
  const id = String(made.stdout).trim();
  t.notRegex(String(made.stderr), /\/jobs\//);
  const cat = ['--', '/bin/busybox', 'cat', '/usr/share/first/text', '/etc/beside'];
  for (const name of ['mine', 'mine.yaml', id.slice(0, 12)]) {
    const run = await as(USER, ['run', '-r', name, ...cat], { cwd });
    t.is(String(run.stdout), 'text-of-first\nbeside-first', String(run.stderr));
  }
  t.deepEqual((await list(t.context, USER)).map(({ name }) => name).sort(), ['busybox', 'mine']);
  t.deepEqual(
    (await list(t.context, OTHER)).map(({ name }) => name),
    ['busybox'],
  );
  for (const name of ['mine', id, id.slice(0, 12)]) {
    const none = /there is no image/;
    await refused(t, as(OTHER, ['run', '-r', name, ...cat], { cwd: '/' }), none, name);
    await refused(t, as(OTHER, ['image', 'show', name], { cwd: '/' }), none, name);
    await refused(t, as(OTHER, ['image', 'export', name, '-o', '-'], { cwd: '/' }), none, name);
    await refused(t, as(OTHER, ['image', 'rm', name], { cwd: '/' }), none, name);
  }
  // Root sees it, and is not misled by its name.
  t.regex(String((await kiln(['image', 'ls'])).stdout), new RegExp(`user ${USER.uid}: mine`));
  t.not((await kiln(['run', '-r', 'mine', ...cat], { cwd: '/' })).exitCode, 0);
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('two users can each have an image of the same name', async (t) => {
  const { as } = t.context;
  const cwd = await workshop(t.context, OTHER, 'two', 'second');
  succeeds(t, await as(OTHER, ['image', 'build', 'mine.yaml'], { cwd }));
  for (const [who, name] of [
    [USER, 'first'],
    [OTHER, 'second'],
  ] as const) {
    const cat = ['--', '/bin/busybox', 'cat', `/usr/share/${name}/text`];
    const run = await as(who, ['run', '-r', 'mine', ...cat], { cwd: '/' });
    t.is(String(run.stdout), `text-of-${name}`, String(run.stderr));
  }
});

test.serial('knowing a package’s digest does not give access to the package', async (t) => {
  const { as, beside } = t.context;
  const [mine] = (await list(t.context, USER)).filter(({ name }) => name === 'mine');
  // All that a repository says of itself, and the recipe, but not the package.
  const cwd = join(beside, 'thief');
  cpSync(join(beside, 'one'), cwd, { recursive: true });
  rmSync(join(cwd, 'repo/x86_64'), { recursive: true });
  await give(cwd, OTHER);
  const cat = ['--', '/bin/busybox', 'cat', '/usr/share/first/text'];
  await refused(
    t,
    as(OTHER, ['run', '-r', 'mine.yaml', ...cat], { cwd }),
    /E_PACKAGE_CHANGED|is missing/,
  );
  writeFileSync(join(cwd, 'beside.txt'), 'another image of it');
  await refused(
    t,
    as(OTHER, ['run', '-r', 'mine.yaml', ...cat], { cwd }),
    /E_PACKAGE_CHANGED|is missing/,
  );
  t.false((await list(t.context, OTHER)).some(({ id }) => id === mine?.id));
  // Who has the package shares the image with its first owner.
  const has = join(beside, 'has');
  cpSync(join(beside, 'one'), has, { recursive: true });
  await give(has, OTHER);
  const made = await as(OTHER, ['image', 'build', 'base.yaml'], { cwd: has });
  succeeds(t, made);
  t.is(String(made.stdout).trim(), mine?.id ?? '');
  succeeds(t, await as(OTHER, ['image', 'rm', 'base'], { cwd: '/' }));
  t.false((await list(t.context, OTHER)).some(({ id }) => id === mine?.id));
  t.true((await list(t.context, USER)).some(({ id }) => id === mine?.id));
});

test.serial('a recipe cannot name a file that its user may not read', async (t) => {
  const { as, beside } = t.context;
  const cwd = await workshop(t.context, USER, 'three', 'third');
  const loot = join(beside, 'loot');
  symlinkSync(loot, join(cwd, 'link.yaml'));
  symlinkSync(loot, join(cwd, 'link.txt'));
  const roots = join(beside, 'roots/repo');
  for (const [what, text] of [
    ['include by link', 'extends: ./link.yaml\n'],
    ['include by path', `extends: ${loot}\n`],
    ['file by link', recipe('third').replace('beside.txt', 'link.txt')],
    ['file by path', recipe('third').replace('beside.txt', loot)],
    ['repository', recipe('roots', `{ id: own, directory: ${roots} }`)],
    ['repository by URL', recipe('roots', `{ id: own, baseurl: 'file://${roots}' }`)],
    ['key', recipe('third', `{ id: own, directory: repo, gpgcheck: true, gpgkey: ${loot} }`)],
    [
      'password',
      recipe(
        'third',
        `{ id: own, baseurl: 'http://127.0.0.1:1/', gpgcheck: false, username: x, password_file: ${loot} }`,
      ),
    ],
    [
      'certificate',
      recipe(
        'third',
        `{ id: own, baseurl: 'https://127.0.0.1:1/', gpgcheck: false, sslclientcert: ${loot} }`,
      ),
    ],
  ] as const) {
    writeFileSync(join(cwd, 'evil.yaml'), text);
    const build = ['image', 'build', 'evil.yaml'];
    await refused(t, as(USER, build, { cwd }), /may name what lies in its folder/, what);
    await refused(t, as(USER, [...build, '--allow-host'], { cwd }), /you cannot use/, what);
  }
  for (const name of ['/etc/shadow.yaml', '../loot', `${beside}/roots/x.json`])
    await refused(t, as(USER, ['image', 'build', name], { cwd }), /cannot use|not for users/, name);
});

test.serial('the metadata of a user’s repository cannot name files of the host', async (t) => {
  const { as, beside } = t.context;
  const cwd = await workshop(t.context, USER, 'four', 'fourth');
  // The very package, where root alone has it; then by a link.
  const rpm = join(cwd, 'repo/x86_64');
  const away = join(beside, 'roots/away');
  cpSync(rpm, join(away, 'x86_64'), { recursive: true });
  await execa('createrepo_c', ['--quiet', '--baseurl', `file://${away}`, join(cwd, 'repo')]);
  rmSync(rpm, { recursive: true });
  await give(cwd, USER);
  await refused(t, as(USER, ['image', 'build', 'mine.yaml'], { cwd }), /file:\/\/|no file/);
  await execa('createrepo_c', ['--quiet', away]);
  rmSync(join(cwd, 'repo'), { recursive: true });
  cpSync(away, join(cwd, 'repo'), { recursive: true });
  rmSync(join(cwd, 'repo/x86_64'), { recursive: true });
  symlinkSync(join(away, 'x86_64'), join(cwd, 'repo/x86_64'));
  await give(cwd, USER);
  await refused(t, as(USER, ['image', 'build', 'mine.yaml'], { cwd }), /is missing/);
});

test.serial('kilnd asks no server of this host for a user, and sends no password', async (t) => {
  const { as, server, paths } = t.context;
  const cwd = await workshop(t.context, USER, 'five', 'roots');
  const { port } = server.address() as AddressInfo;
  const repo = `{ id: own, baseurl: 'http://127.0.0.1:${port}/', gpgcheck: false, username: me, password: ${PASSWORD} }`;
  writeFileSync(join(cwd, 'web.yaml'), recipe('roots', repo));
  const failed = await as(USER, ['image', 'build', 'web.yaml'], { cwd });
  t.regex(String(failed.stderr), /not a public address/);
  t.notRegex(`${failed.stdout}${failed.stderr}`, new RegExp(PASSWORD));
  t.deepEqual(await leftOfJobs(t.context), []);
  const grep = await execa('grep', ['-rlF', PASSWORD, paths.root], { reject: false });
  t.is(grep.stdout, '');
});

long<Context>(
  'an image that root made with a login is root’s, unless kiln.yaml says otherwise',
  async (t) => {
    const { server, beside } = t.context;
    const { port } = server.address() as AddressInfo;
    const repo = `{ id: own, baseurl: 'http://127.0.0.1:${port}/', gpgcheck: false, username: me, password: ${PASSWORD} }`;
    const cwd = join(beside, 'roots');
    for (const name of ['private', 'hidden']) {
      writeFileSync(join(cwd, 'beside.txt'), name);
      writeFileSync(join(cwd, `${name}.yaml`), recipe('roots', repo));
      for (const { kiln } of [t.context, t.context.listed])
        succeeds(t, await kiln(['image', 'build', `${name}.yaml`], { cwd }));
    }
    t.regex(String((await t.context.kiln(['image', 'ls'])).stdout), /private/);
    const ids = String((await t.context.kiln(['image', 'ls', '--json'])).stdout);
    const id = JSON.parse(ids).find(({ name }: { name: string }) => name === 'private').id;
    t.false((await list(t.context, USER)).some(({ name }) => /private|hidden/.test(name)));
    for (const name of ['private', id]) {
      const none = /there is no image/;
      await refused(t, t.context.as(USER, ['run', '-r', name, '--', '/bin/busybox']), none);
      await refused(t, t.context.as(USER, ['image', 'show', name]), none);
      await refused(t, t.context.as(USER, ['image', 'export', name, '-o', 'out.tar']), none);
      await refused(
        t,
        t.context.as(USER, ['build', '-r', name, 'x.src.rpm']),
        /no image|cannot use/,
      );
    }
    // By its whole name alone; a pattern is for those that are not private, and what is not listed is not there.
    t.deepEqual(
      (await list(t.context.listed, USER)).map(({ name }) => name),
      ['private'],
    );
    const cat = ['--', '/bin/busybox', 'cat', '/usr/share/roots/text'];
    const run = await t.context.listed.as(USER, ['run', '-r', 'private', ...cat]);
    t.is(String(run.stdout), 'text-of-roots', String(run.stderr));
    await refused(
      t,
      t.context.listed.as(USER, ['run', '-r', 'busybox', '--', 'true']),
      /there is no image/,
    );
    await refused(
      t,
      t.context.listed.as(USER, ['run', '-r', 'debian-build', '--', 'true']),
      /there is no image/,
    );
  },
);

test.serial('users can use root’s recipes, unless these log in', async (t) => {
  const { as, kiln, beside, server } = t.context;
  const { port } = server.address() as AddressInfo;
  const login = `{ id: own, baseurl: 'http://127.0.0.1:${port}/', gpgcheck: false, username: me, password: ${PASSWORD} }`;
  const recipes = join(beside, 'recipes');
  mkdirSync(recipes);
  t.teardown(() => rmSync(recipes, { recursive: true }));
  for (const name of ['beside.txt', '../cwd-decoy']) writeFileSync(join(recipes, name), 'root’s');
  writeFileSync(
    join(recipes, 'open.yaml'),
    recipe('roots', `{ id: own, directory: ${beside}/roots/repo }`),
  );
  writeFileSync(join(recipes, 'sealed.yaml'), recipe('roots', login));
  const cat = ['--', '/bin/busybox', 'cat', '/usr/share/roots/text', '/etc/beside'];
  const decoy = join(t.context.home, 'open.yaml');
  writeFileSync(decoy, 'packages: []\n');
  const run = await as(USER, ['run', '-r', 'open', ...cat]);
  t.is(String(run.stdout), 'text-of-roots\nroot’s', String(run.stderr));
  const missing = /there is no image and no recipe called sealed/;
  await refused(t, as(USER, ['run', '-r', 'sealed', ...cat]), missing);
  succeeds(t, await kiln(['image', 'build', 'sealed']));
  await refused(t, as(USER, ['run', '-r', 'sealed', ...cat]), missing);
  await refused(t, as(USER, ['image', 'show', 'sealed']), /there is no image/);
  await refused(t, as(USER, ['build', '-r', 'sealed', 'x.src.rpm']), /no image|cannot use/);
  const child = join(t.context.home, 'child.yaml');
  writeFileSync(child, 'extends: sealed\n');
  await give(child, USER);
  await refused(t, as(USER, ['image', 'build', 'child.yaml']), /no image|not a public address/);
  for (const path of [decoy, child]) rmSync(path);
});

test.serial('a user can import an archive and a layout, within bounds', async (t) => {
  const { as, home, beside } = t.context;
  const exported = await as(USER, ['image', 'export', 'mine', '-o', 'mine.tar']);
  succeeds(t, exported);
  succeeds(t, await as(USER, ['image', 'export', 'mine', '-o', 'layout']));
  for (const [path, name] of [
    ['mine.tar', 'from-tar'],
    ['layout', 'from-oci'],
  ] as const) {
    succeeds(t, await as(USER, ['image', 'import', path, '--name', name]));
    const cat = ['--', '/bin/busybox', 'cat', '/usr/share/first/text'];
    const run = await as(USER, ['run', '-r', name, '--workdir', '/', ...cat]);
    t.is(String(run.stdout), 'text-of-first', String(run.stderr));
    t.false((await list(t.context, OTHER)).some((image) => image.name === name));
  }
  // Links out of the tree, of the archive and of the folder.
  const evil = join(home, 'evil');
  mkdirSync(join(evil, 'etc'), { recursive: true });
  writeFileSync(join(evil, 'etc/kiln-test-import'), 'x');
  const tar = join(home, 'evil.tar');
  await execa('tar', ['-C', evil, '-cf', tar, 'etc/kiln-test-import']);
  rmSync(join(evil, 'etc'), { recursive: true });
  symlinkSync('/etc', join(evil, 'etc'));
  await execa('tar', ['-C', evil, '-cf', join(home, 'link.tar'), 'etc']);
  await execa('tar', ['--concatenate', '-f', join(home, 'link.tar'), tar]);
  await give(join(home, 'link.tar'), USER);
  await as(USER, ['image', 'import', 'link.tar', '--name', 'evil']);
  t.is(statSync('/etc/kiln-test-import', { throwIfNoEntry: false }), undefined);
  symlinkSync(join(beside, 'loot'), join(home, 'loot.tar'));
  await refused(t, as(USER, ['image', 'import', 'loot.tar']), /cannot use/);
  const blobs = join(home, 'layout/blobs/sha256');
  for (const blob of readdirSync(blobs)) {
    cpSync(join(blobs, blob), join(beside, blob));
    chmodSync(join(beside, blob), 0o600);
    rmSync(join(blobs, blob));
    symlinkSync(join(beside, blob), join(blobs, blob));
  }
  await refused(t, as(USER, ['image', 'import', 'layout', '--name', 'x']), /kiln: /);
  const big = join(home, 'big.tar');
  await execa('dd', [
    'if=/dev/zero',
    `of=${join(home, 'zeros')}`,
    'bs=1M',
    'count=80',
    'status=none',
  ]);
  await execa('tar', ['-C', home, '-czf', big, 'zeros']);
  await give(big, USER);
  await refused(t, as(USER, ['image', 'import', 'big.tar']), /67108864|64M|E_DISK|more than/);
  for (const name of ['../x', 'x.yaml', '-x', 'a/b'])
    await refused(t, as(USER, ['image', 'import', 'mine.tar', `--name=${name}`]), /--name/, name);
});

test.serial('users can use any name that root can give an image', async (t) => {
  const { as, home, paths, kiln } = t.context;
  const tar = join(home, 'größe~1:a.tar');
  await execa('tar', ['-cf', tar, '-C', join(paths.images, IMAGE, 'tree'), '.']);
  await give(tar, USER);
  succeeds(t, await kiln(['image', 'import', tar, '--name', 'roots:1']));
  succeeds(t, await as(USER, ['run', '-r', 'roots:1', '--', 'true']));
  // Without --name it is called as the file is.
  const imported = await as(USER, ['image', 'import', 'größe~1:a.tar', '--json']);
  succeeds(t, imported);
  const { name } = JSON.parse(String(imported.stdout));
  succeeds(t, await as(USER, ['run', '-r', name, '--', 'true']));
  succeeds(t, await as(USER, ['image', 'rm', name]));
});

test.serial('a name of root’s still means root’s image for root and for others', async (t) => {
  const { as, kiln } = t.context;
  succeeds(t, await as(USER, ['image', 'import', 'mine.tar', '--name', 'busybox']));
  await refused(t, as(USER, ['run', '-r', 'busybox', '--', 'true']), /you and root each have/);
  succeeds(t, await as(USER, ['run', '-r', IMAGE.slice(0, 8), '--', 'true']));
  succeeds(t, await as(OTHER, ['run', '-r', 'busybox', '--', 'true'], { cwd: '/' }));
  succeeds(t, await kiln(['run', '-r', 'busybox', '--', 'true']));
  await refused(t, as(USER, ['image', 'rm', IMAGE]), /not for users|root’s/);
  const own = (await list(t.context, USER)).find(
    ({ id, name }) => name === 'busybox' && id !== IMAGE,
  );
  // Of one image that is both of theirs, each finds it by the own name, the user by root's as well.
  const mine = join(t.context.home, 'mine.tar');
  succeeds(t, await kiln(['image', 'import', mine, '--name', 'of-root']));
  succeeds(t, await as(USER, ['image', 'import', 'mine.tar', '--name', 'of-user']));
  const found = async (name: string) =>
    JSON.parse(String((await as(USER, ['image', 'show', name])).stdout)).id;
  for (const name of ['of-root', 'of-user']) t.is(await found(name), own?.id, name);
  await refused(t, kiln(['image', 'show', 'of-user']), /no image and no recipe called of-user/);
  succeeds(t, await kiln(['image', 'import', mine, '--name', 'mine-too']));
  t.is(await found('of-root'), own?.id, 'an earlier name of root’s');
  succeeds(t, await as(USER, ['image', 'rm', own?.id ?? '']));
  succeeds(t, await as(USER, ['run', '-r', 'busybox', '--', 'true']));
});

test.serial('root’s gc also prunes the caches of users', async (t) => {
  const { kiln, paths } = t.context;
  const folder = join(paths.root, `users/${USER.uid}/cache/objects/sha256/ab`);
  mkdirSync(folder, { recursive: true });
  const [old, fresh] = ['a', 'b'].map((digit) => join(folder, digit.repeat(64)));
  for (const path of [old, fresh]) writeFileSync(path ?? '', 'x');
  const before = new Date(Date.now() - 48 * 3_600_000);
  utimesSync(old ?? '', before, before);
  const { stdout } = await kiln(['gc', '--dry-run', '--json', '--max-age', '1d']);
  t.deepEqual(JSON.parse(String(stdout)).downloads, { files: 1, bytes: 1 });
  succeeds(t, await kiln(['gc', '--max-age', '1d']));
  t.deepEqual(readdirSync(folder), ['b'.repeat(64)]);
});

test.serial('images, packages and caches count against users.limits.storage', async (t) => {
  const { as, config } = t.context;
  const limits = (text: string) => writeConfig(config, `  limits: { ${text} }\n`);
  t.teardown(() => limits('disk: 64M'));
  const kept = async (who: Who): Promise<Record<string, { count: number; bytes: number }>> => {
    const shown = await as(who, ['df', '--json'], { cwd: '/' });
    succeeds(t, shown);
    const rows: { type: string; count: number; bytes: number }[] = JSON.parse(String(shown.stdout));
    return Object.fromEntries(rows.map((row) => [row.type, row]));
  };
  const cwd = await workshop(t.context, OTHER, 'large', 'large');
  const before = await kept(OTHER);
  const build = ['image', 'build', 'mine.yaml', '--json'];
  const over = /users\.limits\.storage/;
  const bytes = Object.values(before).reduce((sum, row) => sum + row.bytes, 0);
  limits(`disk: 64M, storage: ${bytes + 4096}`);
  await refused(t, as(OTHER, build, { cwd }), over);
  // Nor by an archive.
  succeeds(t, await as(OTHER, ['image', 'export', 'busybox', '-o', 'large.tar'], { cwd }));
  await refused(t, as(OTHER, ['image', 'import', 'large.tar'], { cwd }), /E_DISK|storage/);
  // A recipe's own `disk` is bounded by what one command may write.
  limits('disk: 1900K');
  writeFileSync(join(cwd, 'asks.yaml'), `disk: 1T\n${recipe('large')}`);
  await give(cwd, OTHER);
  await refused(t, as(OTHER, ['image', 'build', 'asks.yaml'], { cwd }), /users\.limits\.disk/);
  limits('disk: 64M, storage: 64M');
  const made = await as(OTHER, build, { cwd });
  succeeds(t, made);
  const after = await kept(OTHER);
  const busybox = statSync('/bin/busybox').size;
  t.true((after.packages?.bytes ?? 0) - (before.packages?.bytes ?? 0) >= busybox);
  t.regex(
    String((await as(OTHER, ['df'], { cwd })).stderr),
    /of 64\.0M \(users\.limits\.storage\)/,
  );
  // It is nobody else's share, and goes with gc once no image has it.
  t.notDeepEqual(await kept(USER), after);
  const { id } = JSON.parse(String(made.stdout));
  succeeds(t, await as(OTHER, ['image', 'rm', id], { cwd }));
  succeeds(t, await as(OTHER, ['gc'], { cwd }));
  t.true(((await kept(OTHER)).packages?.bytes ?? 0) < busybox + (before.packages?.bytes ?? 0));
});

long<Context>('packages of root’s and others’ images do not count as a user’s', async (t) => {
  const { as, kiln, beside } = t.context;
  const packages = async (who: Who) => {
    const rows = JSON.parse(String((await as(who, ['df', '--json'], { cwd: '/' })).stdout));
    return rows.find(({ type }: { type: string }) => type === 'packages');
  };
  const workshopOf = async (who: Who, name: string) => {
    const cwd = join(beside, name);
    cpSync(join(beside, 'common'), cwd, { recursive: true });
    await give(cwd, who);
    return cwd;
  };
  const afterGc = async (who: Who) => {
    succeeds(t, await as(who, ['gc'], { cwd: '/' }));
    return await packages(who);
  };
  for (const who of [USER, OTHER]) await as(who, ['image', 'rm', 'mine'], { cwd: '/' });
  const [before, others] = [await afterGc(USER), await afterGc(OTHER)];
  await workshop(t.context, { uid: 0, gid: 0 } as unknown as Who, 'common', 'common');
  const cwd = await workshopOf(USER, 'common-1');
  succeeds(t, await as(USER, ['image', 'build', 'mine.yaml'], { cwd }));
  const { count, bytes } = await packages(USER);
  t.is(count, before.count + 1);
  // Another user's image of the package keeps it, but not as a part of this user's share.
  const second = await workshopOf(OTHER, 'common-2');
  succeeds(t, await as(OTHER, ['image', 'build', 'mine.yaml'], { cwd: second }));
  const removed = await as(USER, ['image', 'rm', 'mine'], { cwd: '/' });
  t.regex(
    String(removed.stderr),
    /^kiln: freed 0\.0M; 1 package that no image of yours uses \(\d+\.\dM\) is kept; `kiln gc` removes them$/,
  );
  t.deepEqual(await afterGc(USER), before);
  t.is((await packages(OTHER)).bytes - others.bytes, bytes - before.bytes);
  // Nor does an image of root's, made of what users have brought.
  const roots = await kiln(['image', 'build', join(beside, 'common/mine.yaml')]);
  succeeds(t, roots);
  t.deepEqual(await packages(OTHER), others);
  succeeds(t, await as(USER, ['image', 'build', 'mine.yaml'], { cwd }));
  t.deepEqual(await packages(USER), before);
  // Root removes it for all.
  succeeds(t, await kiln(['image', 'rm', String(roots.stdout).trim()]));
  t.is((await packages(OTHER)).count, others.count + 1);
  t.deepEqual(await afterGc(OTHER), others);
});

/** Packs a folder with these files, which is the user's, into an archive. */
async function archive(
  { beside }: UserState,
  who: Who,
  name: string,
  files: Readonly<Record<string, string>>,
): Promise<{ cwd: string; file: string }> {
  const cwd = join(beside, `archive-${name}`);
  mkdirSync(join(cwd, 'tree/etc'), { recursive: true });
  for (const [path, text] of Object.entries(files)) writeFileSync(join(cwd, 'tree', path), text);
  const file = `${name}.tar`;
  await execa('tar', ['-C', join(cwd, 'tree'), '-cf', join(cwd, file), '.']);
  await give(cwd, who);
  return { cwd, file };
}

test.serial('an image with too many accounts for calls is refused', async (t) => {
  const { as, paths } = t.context;
  const before = readdirSync(paths.images).length;
  const { cwd, file } = await archive(t.context, USER, 'accounts', {
    'etc/passwd': 'a::0:0\n'.repeat(100_000),
  });
  await refused(t, as(USER, ['image', 'import', file], { cwd }), /says of itself/);
  t.is(readdirSync(paths.images).length, before);
});

test.serial('looking up a name does not read others’ images', async (t) => {
  const { as, kiln, paths } = t.context;
  const { cwd, file } = await archive(t.context, USER, 'unread', { x: '' });
  const made = await as(USER, ['image', 'import', file], { cwd });
  succeeds(t, made);
  const folder = join(paths.images, String(made.stdout).trim());
  t.teardown(() => rmSync(folder, { recursive: true }));
  // Whoever reads it tells that it is damaged.
  writeFileSync(join(folder, 'image.json'), '{');
  t.regex(String((await kiln(['image', 'ls'])).stderr), /image\.json/);
  for (const call of [kiln, (args: readonly string[]) => as(OTHER, args)]) {
    const run = await call(['run', '-r', 'busybox', '--', 'true']);
    succeeds(t, run);
    t.notRegex(String(run.stderr), /image\.json/);
  }
});

test.serial('many tiny images, and empty files, count against the storage', async (t) => {
  const { as, config, paths } = t.context;
  const empty = Object.fromEntries(Array.from({ length: 100 }, (_, index) => [`${index}`, '']));
  const { cwd, file } = await archive(t.context, USER, 'little', empty);
  const importing = ['image', 'import', file];
  const kept = async (): Promise<{ bytes: number }[]> =>
    JSON.parse(String((await as(USER, ['df', '--json'], { cwd: '/' })).stdout));
  const before = (await kept()).reduce((sum, { bytes }) => sum + bytes, 0);
  writeConfig(config, `  limits: { disk: 64M, storage: ${before + 2 ** 20} }\n`);
  t.teardown(() => writeConfig(config, '  limits: { disk: 64M }\n'));
  await refused(t, as(USER, importing, { cwd }), /more than \d+ files|users\.limits\.storage/);
  writeConfig(config, '  limits: { disk: 64M }\n');
  const made = await as(USER, importing, { cwd });
  succeeds(t, made);
  const id = String(made.stdout).trim();
  const after = (await kept()).reduce((sum, { bytes }) => sum + bytes, 0);
  t.true(after - before >= 100 * 16 * 1024);
  // As if the user had made so many.
  const manifest = JSON.parse(readFileSync(join(paths.images, id, 'image.json'), 'utf8'));
  const many = Array.from({ length: 500 }, (_, index) => String(index).padStart(64, '0'));
  t.teardown(() => {
    for (const copy of many) rmSync(join(paths.images, copy), { recursive: true, force: true });
  });
  const { check: _, ...same } = manifest;
  for (const copy of many) {
    mkdirSync(join(paths.images, copy, 'tree'), { recursive: true });
    for (const name of ['contents.json', `owner-${USER.uid}.json`, 'lease'])
      cpSync(join(paths.images, id, name), join(paths.images, copy, name));
    const text = JSON.stringify({ ...same, id: copy, ownBytes: 0 });
    writeFileSync(join(paths.images, copy, 'image.json'), text);
  }
  const next = await archive(t.context, USER, 'more', { more: '' });
  await refused(
    t,
    as(USER, ['image', 'import', next.file], { cwd: next.cwd }),
    /has 50\d images already/,
  );
  succeeds(t, await as(USER, ['image', 'rm', id]));
});

test.serial('each of a user’s packages is unpacked apart from the others', async (t) => {
  const { as, beside, paths, kiln } = t.context;
  const cwd = await workshop(t.context, USER, 'apart', 'left');
  await repository(join(cwd, 'repo'), 'right');
  const both = recipe('left').replace('[left]', '[left, right]');
  writeFileSync(join(cwd, 'mine.yaml'), both);
  await give(cwd, USER);
  // Each confined child has a work directory; the image has one as well.
  const places = async (build: () => ReturnType<UserState['as']>): Promise<number> => {
    const made = new Set<string>();
    const work = watch(join(paths.store, 'work'), (_, name) => made.add(name ?? ''));
    succeeds(t, await build());
    // Watching is over once an event has come that is younger than all of them.
    writeFileSync(join(paths.store, 'work/last'), '');
    t.true(await until(() => made.has('last')));
    work.close();
    rmSync(join(paths.store, 'work/last'));
    return made.size - 1;
  };
  t.is(await places(() => as(USER, ['image', 'build', 'mine.yaml'], { cwd })), 3);
  // Of root's recipes, those of a repository have the same children.
  const roots = join(beside, 'roots-two');
  await repository(join(roots, 'repo'), 'up');
  await repository(join(roots, 'repo'), 'down');
  writeFileSync(join(roots, 'two.yaml'), recipe('up').replace('[up]', '[up, down]'));
  writeFileSync(join(roots, 'beside.txt'), 'x');
  t.is(await places(() => kiln(['image', 'build', join(roots, 'two.yaml')])), 2);
});

long<Context>('a user can lock only their own recipes', async (t) => {
  const { as, beside } = t.context;
  const cwd = await workshop(t.context, USER, 'locked', 'pinned');
  const lock = join(cwd, 'mine.lock.json');
  const made = await as(USER, ['image', 'lock', 'mine.yaml'], { cwd });
  succeeds(t, made);
  t.is(String(made.stdout), lock);
  t.is(statSync(lock).uid, USER.uid);
  const text = readFileSync(lock, 'utf8');
  t.notRegex(text, /\/jobs\//);
  const { packages } = JSON.parse(text);
  t.deepEqual(packages.repositories[0].source, { kind: 'directory', path: join(cwd, 'repo') });
  const parameters = { recipe: join(cwd, 'mine.yaml'), output: join(cwd, 'api.json') };
  const message = JSON.stringify({ method: 'io.kiln.LockImage', parameters });
  const called = await as(USER, ['varlink'], { cwd, stdin: 'pipe', input: `${message}\0` });
  t.deepEqual(JSON.parse(String(called.stdout).replace('\0', '')).parameters, {
    result: parameters.output,
  });
  t.is(readFileSync(parameters.output, 'utf8'), text);
  const id = String((await as(USER, ['image', 'build', 'mine.yaml'], { cwd })).stdout);
  t.regex(id, /^[0-9a-f]{64}$/);
  // It is heeded: the repository has the package no more, and the store has it.
  const [data, away] = ['repo/repodata', 'repo/away'].map((name) => join(cwd, name)) as [
    string,
    string,
  ];
  renameSync(data, away);
  t.is(String((await as(USER, ['image', 'build', 'mine.yaml'], { cwd })).stdout), id);
  renameSync(away, data);
  const others = await workshop(t.context, OTHER, 'locked-other', 'pinned');
  const recipes = [join(others, 'mine.yaml'), join(beside, 'roots/x.yaml'), 'debian-build'];
  for (const path of recipes)
    await refused(
      t,
      as(USER, ['image', 'lock', path], { cwd }),
      /you cannot use|not for users/,
      path,
    );
  t.false(existsSync(join(others, 'mine.lock.json')));
  writeFileSync(
    join(cwd, 'again.yaml'),
    recipe('pinned', `{ id: own, directory: ${others}/repo }`),
  );
  const again = ['image', 'lock', 'again.yaml', '--allow-host'];
  await refused(t, as(USER, again, { cwd }), /you cannot use/);
  for (const output of [join(others, 'x.json'), join(beside, 'roots/x.json'), '/etc/x.json']) {
    const locking = as(USER, ['image', 'lock', 'mine.yaml', '-o', output], { cwd });
    await refused(t, locking, /cannot/, output);
    t.false(existsSync(output));
  }
  t.deepEqual(await leftOfJobs(t.context), []);
});
