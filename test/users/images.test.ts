/** Images of users’ own: who sees them by which name, and who may have what is in them. */
import {
  chmodSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { specText } from '../build/core/build-state.ts';
import { IMAGE } from '../support/busybox-state.ts';
import { leftOfJobs, OTHER, USER, type UserState, userState } from '../support/second-user.ts';

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

test.serial(
  'an image of a user’s own recipe is the user’s, by its name and by its id',
  async (t) => {
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
  },
);

test.serial('two users have images of one name, and each the own one', async (t) => {
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

test.serial('to know the digest of a package is not to have it', async (t) => {
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

test.serial('a recipe names no file that its user may not read', async (t) => {
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
    await refused(t, as(USER, ['image', 'build', 'evil.yaml'], { cwd }), /you cannot use/, what);
  }
  for (const name of ['/etc/shadow.yaml', '../loot', `${beside}/roots/x.json`])
    await refused(t, as(USER, ['image', 'build', name], { cwd }), /cannot use|not for users/, name);
});

test.serial('the metadata of a user’s repository names no file of the host', async (t) => {
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

test.serial('kilnd asks no server of this host’s for a user, and tells no password', async (t) => {
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

test.serial(
  'an image that root has made with a login is root’s, unless kiln.yaml says otherwise',
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

test.serial('a user imports an archive and a layout, within bounds', async (t) => {
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

test.serial('a name of root’s stays root’s', async (t) => {
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
  succeeds(t, await as(USER, ['image', 'rm', own?.id ?? '']));
  succeeds(t, await as(USER, ['run', '-r', 'busybox', '--', 'true']));
});

test.serial('gc of root prunes the caches of users, too', async (t) => {
  const { kiln, paths } = t.context;
  const folder = join(paths.root, `users/${USER.uid}/cache/objects/sha256/ab`);
  mkdirSync(folder, { recursive: true });
  const [old, fresh] = ['a', 'b'].map((digit) => join(folder, digit.repeat(64)));
  for (const path of [old, fresh]) writeFileSync(path ?? '', 'x');
  const before = new Date(Date.now() - 48 * 3_600_000);
  utimesSync(old ?? '', before, before);
  succeeds(t, await kiln(['gc', '--max-age', '1d']));
  t.deepEqual(readdirSync(folder), ['b'.repeat(64)]);
});
