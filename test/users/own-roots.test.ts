/** Users build and work in roots of their own: of their own recipes, and those of kiln-mock. */

import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { debianRepository } from '../image/image-state.ts';
import { eventually } from '../support/eventually.ts';
import {
  leftOfJobs,
  OTHER,
  USER,
  type UserState,
  userState,
  writeConfig,
} from '../support/second-user.ts';
import { giveUnpackedPackages, NOARCH_RECIPE, NOARCH_ROOT } from '../support/unpacked-packages.ts';
import { ownPackage, ownRepository } from './own-package.ts';

const test = anyTest as TestFn<UserState & { readonly cwd: string; readonly srpm: string }>;
const LONG = { timeout: 600_000 };

/** The configuration of a state, with limits of users. */
function limit({ config, beside }: UserState, limits = 'disk: 1G'): void {
  const configs = join(beside, 'mock-configs');
  writeConfig(config, `  mockConfigs: ${configs}\n  limits: { ${limits} }\n`);
}

/** A recipe of a user's own: an image of debian-minimal, and a repository with the package `tool`. */
function recipe(repository = '{ id: own, directory: repo }'): string {
  return `${NOARCH_RECIPE}repositories: [${repository}]\n`;
}

async function writeMockConfigs(folder: string): Promise<void> {
  mkdirSync(folder);
  const { directory, key } = await debianRepository();
  const demo = `config_opts['root'] = 'demo'
config_opts['target_arch'] = 'x86_64'
config_opts['chroot_setup_cmd'] = 'install ${NOARCH_ROOT.join(' ')}'
config_opts['macros']['%_buildshell'] = '/bin/bash'
config_opts['dnf.conf'] = """
[debian]
baseurl=${pathToFileURL(directory)}
gpgcheck=1
gpgkey=${pathToFileURL(key ?? '')}
"""
`;
  writeFileSync(join(folder, 'demo.cfg'), demo);
  writeFileSync(join(folder, 'net.cfg'), `${demo}config_opts['rpmbuild_networking'] = True\n`);
  const bind = "config_opts['plugin_conf']['bind_mount_opts']['dirs'].append(('/etc', '/mnt'))";
  const on = "config_opts['plugin_conf']['bind_mount_enable'] = True";
  writeFileSync(join(folder, 'bind.cfg'), `${demo}${on}\n${bind}\n`);
}

test.before(async (t) => {
  const state = await userState();
  limit(state);
  await writeMockConfigs(join(state.beside, 'mock-configs'));
  const fixtures = process.env.KILN_FIXTURES ?? join(import.meta.dirname, '../../.cache/fixtures');
  symlinkSync(fixtures, join(state.paths.root, 'fixtures'));
  await giveUnpackedPackages(state.paths, 'noarch');
  const cwd = join(state.home, 'workshop');
  const install = 'echo text-of-tool >%{buildroot}/usr/share/tool/text';
  await ownRepository(join(cwd, 'repo'), { name: 'tool', install }, USER);
  chownSync(cwd, USER.uid, USER.gid);
  write(join(cwd, 'root.yaml'), recipe());
  const srpm = await ownPackage(state, {
    name: 'uses',
    preamble: 'BuildRequires: tool',
    build: 'cat /usr/share/tool/text',
  });
  t.context = { ...state, cwd, srpm };
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

/** Writes a file of the user's. */
function write(path: string, text: string): void {
  writeFileSync(path, text);
  chownSync(path, USER.uid, USER.gid);
}

async function imagesOf({ as }: UserState, who: typeof USER | typeof OTHER) {
  const { stdout } = await as(who, ['image', 'ls', '--json'], { cwd: '/' });
  return JSON.parse(String(stdout)) as { id: string; name: string }[];
}

/** A call that fails, and tells nothing of the user's. */
async function refused(
  t: ExecutionContext,
  call: ReturnType<UserState['as']>,
  expected: RegExp,
  what = '',
): Promise<void> {
  const { exitCode, stdout, stderr } = await call;
  t.not(exitCode, 0, what);
  t.regex(String(stderr), expected, what);
  t.notRegex(`${stdout}${stderr}`, /text-of-/, what);
}

test.serial('a user’s recipe can be the root of builds that need more packages', async (t) => {
  const { as, cwd, srpm, kiln, paths } = t.context;
  const argv = ['build', '-r', 'root.yaml', srpm, '--postinstall', '--resultdir', 'out'];
  const built = await as(USER, argv, { cwd, ...LONG });
  t.is(built.exitCode, 0, String(built.stderr));
  const out = join(cwd, 'out');
  for (const name of readdirSync(out)) {
    t.is(statSync(join(out, name)).uid, USER.uid, name);
    if (!name.endsWith('.rpm')) t.notRegex(readFileSync(join(out, name), 'utf8'), /.*\/jobs\/.*/);
  }
  t.regex(readFileSync(join(out, 'build.log'), 'utf8'), /text-of-tool/);
  t.true(readFileSync(join(out, 'lock.json'), 'utf8').includes(join(cwd, 'repo')));
  t.true(readFileSync(join(out, 'buildroot_lock.json'), 'utf8').includes(join(cwd, 'repo')));
  // Both images are the user's alone.
  const own = (await imagesOf(t.context, USER)).filter(({ name }) => name.startsWith('root'));
  t.deepEqual(own.map(({ name }) => name).sort(), ['root', 'root+1']);
  t.false((await imagesOf(t.context, OTHER)).some(({ name }) => name.startsWith('root')));
  const listed = String((await kiln(['image', 'ls'])).stdout);
  t.true(listed.includes(`user ${USER.uid}: root+1`), listed);
  const cat = ['--', 'cat', '/usr/share/tool/text'];
  for (const name of ['root', 'root+1', ...own.map(({ id }) => id)]) {
    const none = /there is no image/;
    await refused(t, as(OTHER, ['run', '-r', name, ...cat], { cwd: '/' }), none, name);
    await refused(
      t,
      as(OTHER, ['build', '-r', name, 'x.src.rpm'], { cwd: '/' }),
      /no image|cannot use/,
      name,
    );
  }
  // What a build makes for itself is listed, and meant by its id alone.
  const layer = own.find(({ name }) => name === 'root+1');
  t.is(String((await as(USER, ['run', '-r', layer?.id ?? '', ...cat])).stdout), 'text-of-tool');
  // Nothing of it is where calls of others look.
  const found = await execa('grep', ['-rlF', 'tool-1-1', join(paths.root, 'cache')], {
    reject: false,
  });
  t.is(found.stdout, '');
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('a chain in a user’s own recipe reads the recipe once', async (t) => {
  const { as, cwd, srpm } = t.context;
  const last = await ownPackage(t.context, {
    name: 'last',
    preamble: 'BuildRequires: uses, tool',
    build: 'cat /usr/share/tool/text',
  });
  const before = await imagesOf(t.context, USER);
  const argv = ['build', '--chain', '-r', 'root.yaml', srpm, last, '--resultdir', 'chain'];
  const built = await as(USER, argv, { cwd, ...LONG });
  t.is(built.exitCode, 0, String(built.stderr));
  const all = [built.stderr, readFileSync(join(cwd, 'chain/chain.json'), 'utf8')].join();
  t.notRegex(all, /.*\/jobs\/.*/);
  const made = (await imagesOf(t.context, USER)).filter(
    ({ id }) => !before.some((old) => old.id === id),
  );
  t.deepEqual(made.map(({ name }) => name).sort(), ['root+1', 'root+2']);
  t.false((await imagesOf(t.context, OTHER)).some(({ name }) => name.startsWith('root')));
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial(
  'a build in a user’s recipe gets no others’ files, no servers, and only its share',
  async (t) => {
    const { as, beside, cwd, srpm } = t.context;
    const build = (name: string, ...more: string[]) =>
      as(USER, ['build', '-r', name, srpm, '--resultdir', 'evil', ...more], { cwd, ...LONG });
    const others = join(beside, 'others');
    await ownRepository(join(others, 'repo'), { name: 'theirs' }, OTHER);
    writeFileSync(join(others, 'root.yaml'), recipe(), { mode: 0o600 });
    chmodSync(others, 0o700);
    symlinkSync(join(others, 'root.yaml'), join(cwd, 'link.yaml'));
    await refused(t, build(join(others, 'root.yaml')), /you cannot use/);
    await refused(
      t,
      build('link.yaml'),
      /link.yaml is a symbolic link that leads out of its folder/,
    );
    for (const repository of [
      `{ id: own, directory: ${join(others, 'repo')} }`,
      `{ id: own, baseurl: 'file://${join(others, 'repo')}' }`,
    ]) {
      write(join(cwd, 'evil.yaml'), recipe(repository));
      await refused(t, build('evil.yaml'), /may name what lies in its folder/, repository);
      await refused(t, build('evil.yaml', '--allow-host'), /you cannot use/, repository);
    }
    // A server that only this host reaches is asked nothing.
    let asked = 0;
    const server = createServer((_, response) => {
      asked++;
      response.writeHead(404).end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => server.close());
    const { port } = server.address() as AddressInfo;
    const web = `{ id: web, baseurl: 'http://127.0.0.1:${port}/', gpgcheck: false }`;
    write(join(cwd, 'evil.yaml'), recipe(web));
    await refused(t, build('evil.yaml'), /not a public address/);
    t.is(asked, 0);
    // Neither is one that the metadata of the user's repository names, for a package that only the build needs.
    await ownRepository(join(cwd, 'away'), { name: 'far' }, USER);
    const base = ['--baseurl', `http://127.0.0.1:${port}/`];
    await execa('createrepo_c', ['--quiet', ...base, join(cwd, 'away')]);
    await execa('chown', ['-R', `${USER.uid}:${USER.gid}`, join(cwd, 'away')]);
    write(join(cwd, 'evil.yaml'), recipe('{ id: away, directory: away }'));
    const fresh = await ownPackage(t.context, { name: 'fresh', preamble: 'BuildRequires: far' });
    const failed = await as(USER, ['build', '-r', 'evil.yaml', fresh, '--resultdir', 'evil'], {
      cwd,
      ...LONG,
    });
    t.not(failed.exitCode, 0);
    t.is(asked, 0, String(failed.stderr));
    t.regex(String(failed.stderr), /not a public address/);
    t.false(existsSync(join(cwd, 'evil/lock.json')));
    // What is made counts.
    limit(t.context, 'disk: 1G, storage: 1M');
    t.teardown(() => limit(t.context));
    write(join(cwd, 'more.yaml'), `${recipe()}environment: { MORE: x }\n`);
    await refused(t, build('more.yaml'), /users\.limits\.storage/);
    t.deepEqual(await leftOfJobs(t.context), []);
  },
);

type Who = typeof USER | typeof OTHER;

/** Calls kiln-mock with the configuration `demo`, in a folder of the user's. */
function mock(
  { as, mock: program, home }: UserState,
  who: Who,
  ...args: readonly string[]
): ReturnType<UserState['as']> {
  const cwd = who === USER ? home : '/';
  return as(who, ['-r', 'demo', ...args], { program, cwd, ...LONG });
}

async function succeeds(t: ExecutionContext, call: ReturnType<UserState['as']>): Promise<string> {
  const { exitCode, stdout, stderr } = await call;
  t.is(exitCode, 0, String(stderr));
  t.notRegex(String(stderr), /.*\/jobs\/.*/);
  return String(stdout);
}

/** A folder of another user's, and links of the user's to it. */
function othersFolder({ beside, home }: UserState): string {
  const folder = join(beside, 'elsewhere');
  mkdirSync(folder, { recursive: true });
  chownSync(folder, OTHER.uid, OTHER.gid);
  chmodSync(folder, 0o700);
  symlinkSync(folder, join(home, 'link'));
  return folder;
}

test.serial('kiln-mock --chain builds with earlier results, which are the user’s', async (t) => {
  const { home } = t.context;
  const first = await ownPackage(t.context, {
    name: 'first',
    install: 'echo text-of-first >%{buildroot}/usr/share/first/text',
  });
  const second = await ownPackage(t.context, {
    name: 'second',
    preamble: 'BuildRequires: first',
    build: 'cat /usr/share/first/text',
  });
  const chain = (...more: string[]) => mock(t.context, USER, '--chain', ...more);
  await succeeds(t, chain('--recurse', second, first, '--localrepo', 'mine'));
  const results = join(home, 'mine/results/demo');
  for (const name of ['first-1-1', 'second-1-1']) {
    for (const file of readdirSync(join(results, name)))
      t.is(statSync(join(results, name, file)).uid, USER.uid, file);
    t.true(existsSync(join(results, name, 'success')));
  }
  t.regex(readFileSync(join(results, 'second-1-1/build.log'), 'utf8'), /text-of-first/);
  const own = (await imagesOf(t.context, USER)).filter(({ name }) => name === 'demo+1');
  t.is(own.length, 1);
  t.false((await imagesOf(t.context, OTHER)).some(({ name }) => name === 'demo+1'));
  // Results go nowhere but where the user may write.
  const elsewhere = othersFolder(t.context);
  await refused(t, chain(first, '--localrepo', elsewhere), /you cannot use/);
  await refused(t, chain(first, '--localrepo', 'link'), /it is a symbolic link/);
  await refused(t, chain(join(elsewhere, 'x.src.rpm')), /you cannot use/);
  mkdirSync(join(home, 'trap'));
  symlinkSync(elsewhere, join(home, 'trap/results'));
  await execa('chown', ['-hR', `${USER.uid}:${USER.gid}`, join(home, 'trap')]);
  await chain(first, '--localrepo', 'trap');
  t.deepEqual(readdirSync(elsewhere), []);
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('a configuration’s result folder is root’s, so a user’s are elsewhere', async (t) => {
  const { home, paths } = t.context;
  const spec = 'Name: plain\nVersion: 1\nRelease: 1\nSummary: x\nLicense: MIT\n%description\nx\n';
  mkdirSync(join(home, 'sources'));
  for (const [name, text] of [
    ['plain.spec', spec],
    ['a', ''],
    ['b', ''],
  ] as const) {
    writeFileSync(join(home, name), text);
    chownSync(join(home, name), USER.uid, USER.gid);
  }
  chownSync(join(home, 'sources'), USER.uid, USER.gid);
  const sources = ['--spec', 'plain.spec', '--sources', 'sources'];
  await succeeds(t, mock(t.context, USER, '--buildsrpm', ...sources, 'a', 'b'));
  t.true(existsSync(join(home, 'result/plain-1-1.src.rpm')));
  t.false(existsSync(join(paths.root, 'mock/demo')));
});

test.serial('names of roots leave nothing behind, and others cannot see them', async (t) => {
  const { paths, run } = t.context;
  for (const mode of ['--clean', '--orphanskill']) {
    await succeeds(t, mock(t.context, USER, mode, '--uniqueext', 'once'));
  }
  const left = [join(paths.store, 'locks'), join(paths.root, 'mock')].flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' }),
  );
  t.true(left.some((name) => name.endsWith('/demo.yaml')));
  t.deepEqual(
    left.filter((name) => name.includes('once')),
    [],
  );
  const looked = await run(OTHER, ['ls', '-R', join(paths.root, 'mock')], { cwd: '/' });
  t.notRegex(String(looked.stdout), /demo/);
});

test.serial('users cannot use mock’s configurations in root’s home', async (t) => {
  const { as, beside, mock: program } = t.context;
  const folder = join(userInfo().homedir, '.config/mock');
  const name = `kiln-test-${process.pid}`;
  const made = mkdirSync(folder, { recursive: true });
  t.teardown(() => rmSync(made ?? join(folder, `${name}.cfg`), { recursive: true }));
  const demo = readFileSync(join(beside, 'mock-configs/demo.cfg'), 'utf8');
  const described = `${demo}config_opts['description'] = 'text-of-root'\n`;
  writeFileSync(join(folder, `${name}.cfg`), described, { mode: 0o600 });
  const { stdout } = await as(USER, ['--list-chroots'], { program });
  t.regex(String(stdout), /^demo$/m);
  t.notRegex(String(stdout), /text-of-root|kiln-test/);
  await refused(t, as(USER, ['-r', name, '--clean'], { program }), /Could not find/);
});

test.serial('a user’s root stays, and nobody else can use it', async (t) => {
  const { home, paths, kiln, as } = t.context;
  const own = (...args: string[]) => mock(t.context, USER, ...args);
  const others = (...args: string[]) => mock(t.context, OTHER, ...args);
  await succeeds(t, own('--init'));
  await succeeds(t, own('--shell', 'echo text-of-root >/kept; ln -s /etc/shadow /evil'));
  t.is(await succeeds(t, own('--shell', 'cat /kept')), 'text-of-root');
  t.is(await succeeds(t, own('--chroot', 'id -u')), '0');
  t.is(await succeeds(t, own('--unpriv', '--cwd', '/tmp', '--chroot', 'id -u; pwd')), '1000\n/tmp');
  // Others have roots of their own, whatever they call them.
  t.not((await others('--chroot', 'cat /kept')).exitCode, 0);
  for (const name of [`@${USER.uid}-demo`, `../@${USER.uid}-demo`, `x/../../@${USER.uid}-demo`])
    await refused(t, others('--uniqueext', name, '--chroot', 'cat /kept'), /not for users/, name);
  const roots = () => readdirSync(paths.roots).sort();
  t.deepEqual(roots(), [`@${USER.uid}-demo`, `@${OTHER.uid}-demo`]);
  await succeeds(t, others('--orphanskill'));
  const { stderr } = await others('--scrub-all-chroots');
  t.notRegex(String(stderr), /configdir/);
  t.deepEqual(roots(), [`@${USER.uid}-demo`]);
  await succeeds(t, others('--clean'));
  t.is(await succeeds(t, own('--shell', 'cat /kept')), 'text-of-root');
  // Packages of the configuration.
  await succeeds(t, own('--install', 'gnu-which'));
  await succeeds(t, own('--chroot', '--', 'rpm', '-q', 'gnu-which'));
  await succeeds(t, own('--remove', 'gnu-which'));
  t.not((await own('--chroot', '--', 'rpm', '-q', 'gnu-which')).exitCode, 0);
  const needs = await ownPackage(t.context, {
    name: 'needs',
    preamble: 'BuildRequires: gnu-which',
  });
  await succeeds(t, own('--installdeps', needs));
  await succeeds(t, own('--chroot', '--', 'rpm', '-q', 'gnu-which'));
  for (const file of ['/etc/x.rpm', './x.rpm'])
    await refused(t, own('--install', file), /users name packages, not files/, file);
  // Files of the user's go in, and come out as the user's.
  writeFileSync(join(home, 'mine.txt'), 'text of mine', { mode: 0o600 });
  chownSync(join(home, 'mine.txt'), USER.uid, USER.gid);
  await succeeds(t, own('--copyin', 'mine.txt', '/root/'));
  await succeeds(t, own('--copyout', '/root/mine.txt', 'taken'));
  await refused(t, own('--copyout', '/evil', 'taken'), /not found in the root: \/evil/);
  t.is(readFileSync(join(home, 'taken/mine.txt'), 'utf8'), 'text of mine');
  t.is(statSync(join(home, 'taken/mine.txt')).uid, USER.uid);
  t.deepEqual(readdirSync(join(home, 'taken')), ['mine.txt']);
  await refused(
    t,
    own('--copyin', join(t.context.beside, 'elsewhere'), '/root/'),
    /you cannot use/,
  );
  await refused(
    t,
    own('--copyout', '/kept', join(t.context.beside, 'elsewhere')),
    /you cannot use/,
  );
  // What is the host's.
  for (const [name, why] of [
    ['net', /the host's network for demo is not for users/],
    ['bind', /bind_mount is not for users/],
  ] as const) {
    const { mock: program } = t.context;
    await refused(t, as(USER, ['-r', name, '--shell', 'true'], { program, ...LONG }), why, name);
  }
  for (const options of [['--enable-network'], ['--no-clean'], ['--short-circuit', 'install']])
    await refused(t, own(...options, '--rebuild', t.context.srpm), /is not for users/, options[0]);
  // It is a part of the user's share.
  const { stdout } = await as(USER, ['df', '--json'], { cwd: '/' });
  const kept = JSON.parse(String(stdout)).find(({ type }: { type: string }) => type === 'roots');
  t.is(kept.count, 1);
  t.true(kept.bytes > 0);
  t.teardown(() => limit(t.context));
  limit(t.context, 'disk: 1G, storage: 1M');
  await refused(t, own('--shell', 'true'), /users\.limits\.storage/);
  limit(t.context, 'disk: 64M');
  const fill = (size: number) => `dd if=/dev/zero of=/of-${size} bs=1M count=${size}; sleep 2`;
  const tooMuch = /more than \d\d\.\dM on the disk/;
  await refused(t, own('--shell', fill(200)), tooMuch);
  t.deepEqual(roots(), []);
  // What the calls before have written counts.
  await succeeds(t, own('--shell', fill(40)));
  await refused(t, own('--shell', fill(41)), tooMuch);
  t.deepEqual(roots(), []);
  // A spec is a program, too.
  writeFileSync(
    join(home, 'large.spec'),
    `%(${fill(200).replace('/of-', '/var/tmp/of-')})\nName: x\n`,
  );
  chownSync(join(home, 'large.spec'), USER.uid, USER.gid);
  await refused(t, own('--installdeps', 'large.spec'), tooMuch);
  t.deepEqual(roots(), []);
  await succeeds(t, own('--init'));
  await succeeds(t, own('--clean'));
  t.deepEqual(roots(), []);
  const listed = async () => String((await kiln(['ps', '--json'])).stdout);
  t.true(await eventually(async () => !/kiln-mock/.test(await listed())));
  t.deepEqual(await leftOfJobs(t.context), []);
});
