/** A user builds: an image that comes with kiln, packages in it, and mock’s own story. */
import { cpSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { type SpecParts, sourcePackage } from '../build/core/build-state.ts';
import { leftOfJobs, OTHER, USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState & { readonly srpm: string }>;

/** Makes a source package that only the user reads. */
async function ownPackage(state: UserState, parts: SpecParts): Promise<string> {
  const folder = join(state.beside, 'packages');
  mkdirSync(folder, { recursive: true });
  const made = await sourcePackage(folder, parts);
  const path = join(state.home, basename(made));
  const { uid, gid } = USER;
  await execa('install', ['-m', '0600', '-o', String(uid), '-g', String(gid), made, path]);
  return path;
}

test.before(async (t) => {
  const state = await userState();
  const fixtures = process.env.KILN_FIXTURES ?? join(import.meta.dirname, '../../.cache/fixtures');
  symlinkSync(fixtures, join(state.paths.root, 'fixtures'));
  const install = 'id -u >%{buildroot}/usr/share/mine/uid';
  t.context = { ...state, srpm: await ownPackage(state, { name: 'mine', install }) };
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

/** A folder of results has a package, and all of it is the user's. */
function owned(t: ExecutionContext, folder: string): void {
  const names = readdirSync(folder);
  t.true(
    names.some((name) => /^mine-1-1\..*\.rpm$/.test(name) && !name.includes('.src.')),
    names.join(),
  );
  for (const name of names) t.is(statSync(join(folder, name)).uid, USER.uid, name);
}

test.serial(
  'an image that comes with kiln is made for a user, and is there for others',
  async (t) => {
    const { as } = t.context;
    const made = await as(USER, ['image', 'build', 'debian-build'], { timeout: 600_000 });
    t.is(made.exitCode, 0, String(made.stderr));
    const listed = await as(OTHER, ['image', 'ls']);
    t.regex(String(listed.stdout), /debian-build/);
    const run = await as(OTHER, ['run', '-r', 'debian-build', '--', 'gcc', '--version']);
    t.is(run.exitCode, 0, String(run.stderr));
  },
);

test.serial('a user builds a source package and owns what comes of it', async (t) => {
  const { as, home, srpm } = t.context;
  const argv = ['build', '-r', 'debian-build', srpm, '--resultdir', 'out'];
  const built = await as(USER, argv, { timeout: 600_000 });
  t.is(built.exitCode, 0, String(built.stderr));
  owned(t, join(home, 'out'));
  t.notRegex(readFileSync(join(home, 'out/result.json'), 'utf8'), /.*\/jobs\/.*/);
  t.notRegex(String(built.stderr), /\/jobs\//);
  t.is((await as(OTHER, argv, { cwd: '/' })).exitCode, 125);
});

test.serial('a build goes on without its user, who fetches the packages', async (t) => {
  const { as, home, srpm, kiln, beside } = t.context;
  const argv = ['build', '-r', 'debian-build', '--detach', '--name', 'apart', srpm];
  const begun = await as(USER, argv, { timeout: 600_000 });
  t.is(begun.exitCode, 0, String(begun.stderr));
  t.regex(String(begun.stdout), /^[0-9a-f]{10}$/);
  const waited = await as(USER, ['wait', 'apart'], { timeout: 600_000 });
  const { stdout: log } = await as(USER, ['logs', 'apart']);
  t.is(waited.exitCode, 0, String(log));
  t.regex(String(log), /%install/, 'the log of the build');
  t.is((await as(USER, ['results', 'apart', 'apart'])).exitCode, 0);
  owned(t, join(home, 'apart'));
  t.notRegex(readFileSync(join(home, 'apart/result.json'), 'utf8'), /.*\/jobs\/.*/);
  // And a package of root's, whose failure is its own as well.
  const bad = await sourcePackage(beside, { name: 'bad', install: 'exit 7' });
  const roots = await kiln(['build', '-r', 'debian-build', '--detach', bad]);
  t.is(roots.exitCode, 0, String(roots.stderr));
  t.is((await kiln(['wait', String(roots.stdout)])).exitCode, 1);
  const out = join(beside, 'bad');
  t.is((await kiln(['results', String(roots.stdout), out])).exitCode, 0);
  t.regex(readFileSync(join(out, 'build.log'), 'utf8'), /exit 7/);
  // What is wrong before it begins is told at once.
  const none = await kiln(['build', '-r', 'debian-build', '--detach', join(beside, 'no.src.rpm')]);
  t.not(none.exitCode, 0);
  t.is(none.stdout, '');
});

test.serial('a user builds a spec with its sources', async (t) => {
  const { as, home } = t.context;
  // A checkout may lie where users cannot go.
  const folder = join(home, 'noarch-rpm');
  cpSync(join(import.meta.dirname, '../../recipes/builds/noarch-rpm'), folder, { recursive: true });
  await execa('chown', ['-R', `${USER.uid}:${USER.gid}`, folder]);
  const argv = ['--spec', join(folder, 'greet.spec'), '--sources', folder, '--resultdir', 'spec'];
  const built = await as(USER, ['build', '-r', 'debian-build', ...argv], { timeout: 600_000 });
  t.is(built.exitCode, 0, String(built.stderr));
  t.true(readdirSync(join(home, 'spec')).some((name) => name.endsWith('.rpm')));
});

test.serial('mock’s own story: kiln-mock --rebuild, and the user owns the result', async (t) => {
  const { as, home, srpm } = t.context;
  const argv = ['-r', 'debian-build', '--rebuild', srpm];
  const built = await as(USER, argv, { program: t.context.mock, timeout: 600_000 });
  t.is(built.exitCode, 0, String(built.stderr));
  owned(t, join(home, 'result'));
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('a chain: each package is built with what came of the others', async (t) => {
  const { as, home, srpm } = t.context;
  const parts = {
    name: 'second',
    preamble: 'BuildRequires: mine',
    build: 'cat /usr/share/mine/uid',
  };
  const second = await ownPackage(t.context, parts);
  const argv = ['build', '--chain', '-r', 'debian-build', srpm, second, '--resultdir', 'chain'];
  const built = await as(USER, argv, { timeout: 600_000 });
  t.is(built.exitCode, 0, String(built.stderr));
  t.regex(String(built.stderr), /chain of 2 packages, 1 at a time/);
  const report = readFileSync(join(home, 'chain/chain.json'), 'utf8');
  t.notRegex(`${report}${built.stderr}`, /.*\/jobs\/.*/);
});

/** Packages that are the same whenever they are made. */
const ALWAYS_THE_SAME = {
  preamble: `%global source_date_epoch_from_changelog 1
%global use_source_date_epoch_as_buildtime 1
%global build_mtime_policy clamp_to_source_date_epoch
%global _buildhost any`,
  sections: '%changelog\n* Thu Jan 01 2026 Test <test@example.org> - 1-1\n- Made.',
};

test.serial(
  'an image for a user’s packages is the user’s: for others it is not there',
  async (t) => {
    const { as, kiln } = t.context;
    const install = 'echo text-of-kept >%{buildroot}/usr/share/kept/text';
    const kept = await ownPackage(t.context, { name: 'kept', install, ...ALWAYS_THE_SAME });
    const using = await ownPackage(t.context, { name: 'using', preamble: 'BuildRequires: kept' });
    const images = async (who: typeof USER | typeof OTHER) => {
      const { stdout } = await as(who, ['image', 'ls', '--json'], { cwd: '/' });
      const all: { id: string; name: string; created: string }[] = JSON.parse(String(stdout));
      return all.map(({ id, name, created }) => ({ id, name, created }));
    };
    const chain = async (image: string, out: string) => {
      const argv = ['build', '--chain', '-r', image, kept, using, '--resultdir', out];
      const built = await as(USER, argv, { timeout: 600_000 });
      t.is(built.exitCode, 0, String(built.stderr));
    };
    const long = { timeout: 600_000 };
    const exported = await as(USER, ['image', 'export', 'debian-build', '-o', 'own.tar'], long);
    t.is(exported.exitCode, 0, String(exported.stderr));
    const imported = await as(USER, ['image', 'import', 'own.tar', '--name', 'own'], long);
    t.is(imported.exitCode, 0, String(imported.stderr));
    for (const image of ['debian-build', 'own']) {
      const before = (await images(USER)).map(({ id }) => id);
      await chain(image, `${image}-1`);
      const made = (await images(USER)).filter(({ id }) => !before.includes(id));
      t.deepEqual(
        made.map(({ name }) => name),
        [`${image}+1`],
      );
      const id = made[0]?.id ?? '';
      t.false((await images(OTHER)).some((other) => other.id === id));
      const cat = ['--', 'cat', '/usr/share/kept/text'];
      for (const argv of [
        ['run', '-r', id, ...cat],
        ['run', '-r', `${image}+1`, ...cat],
        ['image', 'export', id, '-o', '-'],
        ['image', 'show', id],
      ]) {
        const refused = await as(OTHER, argv, { cwd: '/' });
        t.not(refused.exitCode, 0, argv.join(' '));
        t.regex(String(refused.stderr), /there is no image/);
        t.notRegex(`${refused.stdout}${refused.stderr}`, /text-of-kept/);
      }
      t.is(String((await as(USER, ['run', '-r', id, ...cat])).stdout), 'text-of-kept');
      const roots = String((await kiln(['image', 'ls'])).stdout);
      t.true(roots.includes(`user ${USER.uid}: ${image}+1`), roots);
      // The user's next build takes it as it is.
      await chain(image, `${image}-2`);
      t.deepEqual(
        (await images(USER)).filter(({ id }) => !before.includes(id)),
        made,
      );
    }
    t.deepEqual(await leftOfJobs(t.context), []);
  },
);

for (const [what, options] of [
  ['a configuration by its path', ['-r', './evil.cfg']],
  ['options of the configuration', ['--config-opts', 'root=x']],
  ['another folder of configurations', ['--configdir', '.']],
  ['a repository', ['--addrepo', 'http://127.0.0.1/']],
  ['the host’s network', ['--enable-network']],
  ['a plugin', ['--enable-plugin', 'sign']],
  ['a template of configurations', ['--target', "{{ config_opts['dnf.conf'] }}"]],
  ['a root of others', ['--no-clean']],
  ['a shell in a root', ['--shell']],
] as const) {
  test.serial(`kiln-mock refuses a user ${what}`, async (t) => {
    const { as, srpm } = t.context;
    const argv = ['-r', 'debian-build', srpm, ...options];
    const refused = await as(USER, argv, { program: t.context.mock });
    t.not(refused.exitCode, 0);
    t.regex(String(refused.stderr), /not for users/);
  });
}

for (const options of [
  ['--addrepo', 'http://127.0.0.1/'],
  ['--enable-network'],
  ['--lock', 'x.json'],
  ['--cache', 'ccache'],
  ['--chain', '--jobs', '2'],
  ['--resume', 'abcd'],
  ['--additional-package', '/etc/shadow'],
]) {
  test.serial(`kiln build refuses a user ${options.join(' ')}`, async (t) => {
    const { as, srpm } = t.context;
    const refused = await as(USER, ['build', '-r', 'debian-build', srpm, ...options]);
    t.not(refused.exitCode, 0);
    t.regex(String(refused.stderr), /not for users/);
  });
}
