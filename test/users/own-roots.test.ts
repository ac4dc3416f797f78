/** Users build and work in roots of their own: of their own recipes, and those of kiln-mock. */
import {
  chmodSync,
  chownSync,
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import {
  leftOfJobs,
  OTHER,
  USER,
  type UserState,
  userState,
  writeConfig,
} from '../support/second-user.ts';
import { giveUnpackedPackages, NOARCH_RECIPE } from '../support/unpacked-packages.ts';
import { ownPackage, ownRepository } from './own-package.ts';

const test = anyTest as TestFn<UserState & { readonly cwd: string; readonly srpm: string }>;
const LONG = { timeout: 600_000 };
const DISK = '  limits: { disk: 1G }\n';

/** A recipe of a user's own: an image of debian-minimal, and a repository with the package `tool`. */
function recipe(repository = '{ id: own, directory: repo }'): string {
  return `${NOARCH_RECIPE}repositories: [${repository}]\n`;
}

test.before(async (t) => {
  const state = await userState(DISK);
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

test.serial('a user’s recipe is the root of builds that need more packages', async (t) => {
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
  t.is(String((await as(USER, ['run', '-r', 'root+1', ...cat])).stdout), 'text-of-tool');
  // Nothing of it is where calls of others look.
  const found = await execa('grep', ['-rlF', 'tool-1-1', join(paths.root, 'cache')], {
    reject: false,
  });
  t.is(found.stdout, '');
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('a chain in a recipe of the user’s own reads it once', async (t) => {
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
  'what such a build may not have: others’ files, servers, more than the share',
  async (t) => {
    const { as, beside, cwd, srpm, config } = t.context;
    const build = (name: string) =>
      as(USER, ['build', '-r', name, srpm, '--resultdir', 'evil'], { cwd, ...LONG });
    const others = join(beside, 'others');
    await ownRepository(join(others, 'repo'), { name: 'theirs' }, OTHER);
    writeFileSync(join(others, 'root.yaml'), recipe(), { mode: 0o600 });
    chmodSync(others, 0o700);
    symlinkSync(join(others, 'root.yaml'), join(cwd, 'link.yaml'));
    await refused(t, build(join(others, 'root.yaml')), /you cannot use/);
    await refused(t, build('link.yaml'), /you cannot use/);
    for (const repository of [
      `{ id: own, directory: ${join(others, 'repo')} }`,
      `{ id: own, baseurl: 'file://${join(others, 'repo')}' }`,
    ]) {
      write(join(cwd, 'evil.yaml'), recipe(repository));
      await refused(t, build('evil.yaml'), /you cannot use/, repository);
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
    writeConfig(config, '  limits: { disk: 1G, storage: 1M }\n');
    t.teardown(() => writeConfig(config, DISK));
    write(join(cwd, 'more.yaml'), `${recipe()}environment: { MORE: x }\n`);
    await refused(t, build('more.yaml'), /users\.limits\.storage/);
    t.deepEqual(await leftOfJobs(t.context), []);
  },
);
