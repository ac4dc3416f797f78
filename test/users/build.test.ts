/** A user builds: an image that comes with kiln, packages in it, and mock’s own story. */
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { sourcePackage } from '../build/core/build-state.ts';
import { commandBlocks } from '../docs/blocks.ts';
import { isLong, long } from '../support/long.ts';
import {
  GROUP,
  kilnForUsers,
  leftOfJobs,
  OTHER,
  USER,
  type UserState,
  userState,
  writeConfig,
} from '../support/second-user.ts';
import { giveUnpackedPackages, NOARCH_RECIPE } from '../support/unpacked-packages.ts';
import { ownPackage } from './own-package.ts';

const test = anyTest as TestFn<UserState & { readonly srpm: string }>;

test.before(async (t) => {
  const state = await userState();
  const fixtures = process.env.KILN_FIXTURES ?? join(import.meta.dirname, '../../.cache/fixtures');
  symlinkSync(fixtures, join(state.paths.root, 'fixtures'));
  await giveUnpackedPackages(state.paths);
  const install = 'id -u >%{buildroot}/usr/share/mine/uid';
  t.context = { ...state, srpm: await ownPackage(state, { name: 'mine', install }) };
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

/** A folder of results has a package, and all of it is the user's. */
function owned(t: ExecutionContext, folder: string, of = 'mine'): void {
  const names = readdirSync(folder);
  t.true(
    names.some((name) => name.startsWith(`${of}-1-1.`) && /(?<!\.src)\.rpm$/.test(name)),
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

test.serial('a user can build a source package, and owns the results', async (t) => {
  const { as, home, srpm } = t.context;
  const argv = ['build', '-r', 'debian-build', srpm, '--resultdir', 'out'];
  const twice = ['--verify', '--vary', 'path'];
  const built = await as(USER, [...argv, ...twice], { timeout: 600_000 });
  t.is(built.exitCode, 0, String(built.stderr));
  owned(t, join(home, 'out'));
  const result = readFileSync(join(home, 'out/result.json'), 'utf8');
  t.notRegex(result, /.*\/jobs\/.*/);
  t.deepEqual(JSON.parse(result).build.differences, []);
  t.notRegex(String(built.stderr), /\/jobs\//);
  // As root's are told: whoever reads a log of CI is in no folder.
  const { stderr } = await as(USER, argv, { timeout: 600_000 });
  const made = readdirSync(join(home, 'out')).filter((name) => name.endsWith('.rpm'));
  t.true(made.length > 0);
  for (const name of made) t.regex(String(stderr), RegExp(`^kiln: ${home}/out/${name}$`, 'm'));
  t.is((await as(OTHER, argv, { cwd: '/' })).exitCode, 125);
});

long<UserState & { readonly srpm: string }>(
  'the second build of --verify writes to the disk, within the share',
  async (t) => {
    const { as, config } = t.context;
    writeConfig(config, '  limits: { disk: 64M }\n');
    t.teardown(() => writeConfig(config, ''));
    // Only that one has this host name. What writes less than the machine has would go on.
    const build =
      'case $(uname -n) in another*) dd if=/dev/zero of=big bs=1M count=300; sleep 600;; esac';
    const install = 'touch %{buildroot}/usr/share/large/file';
    const srpm = await ownPackage(t.context, { name: 'large', build, install });
    const argv = ['build', '-r', 'debian-build', srpm, '--verify', '--resultdir', 'large'];
    const built = await as(USER, argv);
    t.not(built.exitCode, 0);
    t.regex(String(built.stderr), /the second build put more than 64\.0M on the disk/);
  },
);

test.serial('a build goes on without its user, who fetches the packages later', async (t) => {
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

test.serial('a user can build a spec with its sources', async (t) => {
  const { as, home } = t.context;
  // A checkout may lie where users cannot go.
  const folder = join(home, 'noarch-rpm');
  cpSync(join(import.meta.dirname, '../../recipes/builds/noarch-rpm'), folder, { recursive: true });
  symlinkSync('/etc/hostname', join(folder, 'away'));
  await execa('chown', ['-hR', `${USER.uid}:${USER.gid}`, folder]);
  const argv = ['--spec', join(folder, 'greet.spec'), '--sources', folder, '--resultdir', 'spec'];
  // The user is a runner of GitHub's.
  const summary = join(home, 'summary.md');
  writeFileSync(summary, 'what an earlier command said\n');
  chownSync(summary, USER.uid, USER.gid);
  const built = await as(USER, ['build', '-r', 'debian-build', ...argv], {
    timeout: 600_000,
    env: {
      ...{ PATH: process.env.PATH, KILN_STATE: t.context.paths.root },
      ...{ GITHUB_ACTIONS: 'true', GITHUB_STEP_SUMMARY: summary },
    },
  });
  t.is(built.exitCode, 0, String(built.stderr));
  t.regex(String(built.stdout), /^::group::check$/m);
  t.regex(
    readFileSync(summary, 'utf8'),
    /^what an earlier command said\n### ` greet-1.0-1 ` succeeded\n/,
  );
  t.is(statSync(summary).uid, USER.uid);
  for (const name of ['junit.xml', 'gl-code-quality-report.json'])
    t.is(statSync(join(home, 'spec', name)).uid, USER.uid);
  t.regex(
    String(built.stderr),
    /^kiln: warning: ".*\/noarch-rpm\/away" is a symbolic link to "\/etc\/hostname", which is absolute: skipped/m,
  );
  t.true(readdirSync(join(home, 'spec')).some((name) => name.endsWith('.rpm')));
});

test.serial(
  'a link out of a folder that others write to shows nothing of its target',
  async (t) => {
    const { as, kiln, home, beside, paths } = t.context;
    const checkout = join(home, 'checkout');
    const kept = join(beside, 'kept');
    for (const folder of [checkout, kept]) mkdirSync(folder);
    chownSync(checkout, USER.uid, USER.gid);
    const files = {
      'hello.spec': 'MARKSPEC: 1\n',
      'hello.yaml': 'MARKYAML: 1\n',
      'hello.json': '{ MARKJSON',
      macros: '%MARKMACRO%%%x 1\n',
    };
    for (const [name, text] of Object.entries(files)) {
      writeFileSync(join(kept, name), text);
      symlinkSync(join(kept, name), join(checkout, name));
    }
    const commands = [
      ['build', '-r', 'debian-build', 'hello.spec'],
      ['build', '-r', 'debian-build', '--spec', 'hello.spec'],
      ['build', 'hello.yaml'],
      ['config', 'check', 'hello.yaml'],
    ];
    const roots = [
      ['build', '--lock', 'hello.json', '--spec', '../kept/hello.spec'],
      ['run', '-r', 'debian-build', '--seccomp', './hello.json', '--', 'true'],
      ['mock', '-r', 'debian-build', '--macro-file', 'macros', '--rebuild', t.context.srpm],
      ['mock', '-r', 'debian-build', '--spec', 'hello.spec', '--buildsrpm'],
      ['service', 'create', '--file', './hello.yaml', 'x'],
    ];
    const own = join(import.meta.dirname, '../../bin/kiln-node');
    const ways = [
      (words: readonly string[]) => as(USER, words, { cwd: checkout }),
      (words: readonly string[]) => kiln(words, { cwd: checkout }),
      (words: readonly string[]) =>
        execa(own, words, { cwd: checkout, env: { KILN_STATE: paths.root }, reject: false }),
    ];
    for (const [index, way] of ways.entries())
      for (const words of index === 0 ? commands : [...commands, ...roots]) {
        const { exitCode, all, stdout, stderr } = await way(words);
        const said = `${index} ${words.join(' ')}: ${all ?? `${stdout}${stderr}`}`;
        t.not(exitCode, 0, said);
        t.regex(said, /hello|macros/);
        t.regex(said, /leads out of its folder.*readlink -f/s, said);
      }
    const { stdout } = await execa('grep', ['-r', 'MARK', checkout], { reject: false });
    t.is(stdout, '');
    // One that stays in its folder is followed.
    writeFileSync(join(checkout, 'mine.yaml'), 'MARKOWN: 1\n');
    symlinkSync('mine.yaml', join(checkout, 'link.yaml'));
    for (const way of ways)
      t.regex(String((await way(['config', 'check', 'link.yaml'])).stderr), /MARKOWN/);
    t.deepEqual(await leftOfJobs(t.context), []);
  },
);

test.serial('kiln-mock --rebuild works for a user, who owns the result', async (t) => {
  const { as, home, srpm } = t.context;
  const argv = ['-r', 'debian-build', '--rebuild', srpm];
  const built = await as(USER, argv, { program: t.context.mock, timeout: 600_000 });
  t.is(built.exitCode, 0, String(built.stderr));
  owned(t, join(home, 'result'));
  t.deepEqual(await leftOfJobs(t.context), []);
});

interface Listed {
  readonly id: string;
  readonly name: string;
  readonly created: string;
}

/** The images that a user sees. */
async function imagesOf({ as }: UserState, who: typeof USER | typeof OTHER): Promise<Listed[]> {
  const { stdout } = await as(who, ['image', 'ls', '--json'], { cwd: '/' });
  const all: Listed[] = JSON.parse(String(stdout));
  return all.map(({ id, name, created }) => ({ id, name, created }));
}

/** What is new in `images` since `before`: one image of this name, which another user does not see. */
async function ownImage(
  t: ExecutionContext<UserState>,
  before: readonly Listed[],
  wanted: string,
): Promise<Listed> {
  const made = (await imagesOf(t.context, USER)).filter(
    ({ id }) => !before.some((old) => old.id === id),
  );
  t.deepEqual(
    made.map(({ name }) => name),
    [wanted],
  );
  const [image] = made as [Listed];
  t.false((await imagesOf(t.context, OTHER)).some(({ id }) => id === image.id));
  const refused = await t.context.as(OTHER, ['run', '-r', image.id, '--', 'true'], { cwd: '/' });
  t.not(refused.exitCode, 0);
  t.regex(String(refused.stderr), /there is no image/);
  return image;
}

test.serial('a chain builds each package with the results of the others', async (t) => {
  const { as, home, srpm } = t.context;
  const before = await imagesOf(t.context, USER);
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
  const page = readFileSync(join(home, 'chain/report.html'), 'utf8');
  t.notRegex(`${report}${built.stderr}${page}`, /.*\/jobs\/.*/);
  t.regex(page, /<a href="second-1-1\/report\.html">/);
  t.true(existsSync(join(home, 'chain/second-1-1/report.html')));
  await ownImage(t, before, 'debian-build+1');
});

long<UserState & { readonly srpm: string }>(
  'all logs of a chain together keep within the limit for one build',
  async (t) => {
    const { as, home, config } = t.context;
    writeConfig(config, '  limits: { disk: 64M }\n');
    t.teardown(() => writeConfig(config, ''));
    const packages = [];
    for (const name of ['loud1', 'loud2', 'loud3', 'loud4']) {
      packages.push(await ownPackage(t.context, { name, build: 'seq 2000000; exit 1' }));
    }
    const argv = ['build', '--chain', '--continue', '-r', 'debian-build', '--resultdir', 'loud'];
    const built = await as(USER, [...argv, ...packages], { timeout: 600_000 });
    t.not(built.exitCode, 0);
    const logs = packages.map((path) =>
      join(home, 'loud', basename(path).replace(/\.src\.rpm$/, ''), 'build.log'),
    );
    const sizes = logs.map((log) => statSync(log).size);
    // An eighth for all, and a last piece of output for each.
    for (const size of sizes) t.true(size >= 2 ** 21 && size < 2 ** 21 + 2 ** 18, sizes.join(' '));
    for (const log of logs) t.true(statSync(`${log}.rest.gz`).size < 2 ** 21 + 2 ** 18);
  },
);

/** Notes in a cache when a package is being built, and by whom something was noted before. */
const NOTES = 'touch ~/.cache/meet/log; echo "$RPM_PACKAGE_NAME begins" >>~/.cache/meet/log';
const notes = (log: string) => log.split('\n').filter((line) => /^\w+ (?:begins|ends)$/.test(line));

long<UserState & { readonly srpm: string }>(
  'a chain builds as many packages at once as there is room for sandboxes',
  async (t) => {
    const { as, home, config } = t.context;
    // Each waits for the other, which only works if both run at the same time.
    const meet = (other: string) => `${NOTES}
for i in $(seq 600); do grep -q '${other} begins' ~/.cache/meet/log && exit 0; sleep 0.1; done
exit 1`;
    const packages = [
      await ownPackage(t.context, { name: 'left', build: meet('right') }),
      await ownPackage(t.context, { name: 'right', build: meet('left') }),
    ];
    const chain = ['build', '--chain', '-r', 'debian-build', '--cache', 'meet:1M', '--jobs', '2'];
    const both = await as(USER, [...chain, ...packages, '--resultdir', 'both'], {
      timeout: 600_000,
    });
    t.is(both.exitCode, 0, String(both.stderr));
    t.regex(String(both.stderr), /chain of 2 packages, 2 at a time/);
    // A sandbox that is kept leaves room for one.
    writeConfig(config, '  limits: { sandboxes: 2 }\n');
    t.teardown(() => writeConfig(config, ''));
    const kept = await as(USER, ['run', '-r', 'debian-build', '--keep=1h', '--', 'true']);
    t.is(kept.exitCode, 0, String(kept.stderr));
    const one = `${NOTES}; sleep 3; echo "$RPM_PACKAGE_NAME ends" >>~/.cache/meet/log`;
    const alone = [
      await ownPackage(t.context, { name: 'early', build: one }),
      await ownPackage(t.context, { name: 'late', build: `${one}; cat ~/.cache/meet/log` }),
    ];
    const turns = await as(USER, [...chain, ...alone, '--resultdir', 'turns'], {
      timeout: 600_000,
    });
    t.is(turns.exitCode, 0, String(turns.stderr));
    const log = readFileSync(join(home, 'turns/late-1-1/build.log'), 'utf8');
    t.deepEqual(notes(log).slice(-4), ['early begins', 'early ends', 'late begins', 'late ends']);
    const many = await as(USER, [...chain.slice(0, -1), '3', ...alone]);
    t.regex(String(many.stderr), /--jobs .*not for users[\s\S]*users\.limits\.sandboxes/);
    t.is((await as(USER, ['kill', '--all'])).exitCode, 0);
  },
);

test.serial('a cache is found again by the same user only', async (t) => {
  const { as, home, kiln, beside, config } = t.context;
  const build = `echo "[$(cat ~/.cache/mine/text)]"; echo kept-by-$RPM_PACKAGE_NAME >~/.cache/mine/text`;
  const path = await ownPackage(t.context, { name: 'cached', build });
  const argv = (out: string) => [
    'build',
    '-r',
    'debian-build',
    '--cache',
    'mine:1M',
    path,
    '--resultdir',
    out,
  ];
  const found = (out: string) =>
    /^\[(.*)\]$/m.exec(readFileSync(join(out, 'build.log'), 'utf8'))?.[1];
  const as1 = async (out: string) => {
    const built = await as(USER, argv(out), { timeout: 600_000 });
    t.is(built.exitCode, 0, String(built.stderr));
    return found(join(home, out));
  };
  t.is(await as1('cache-1'), '');
  t.is(await as1('cache-2'), 'kept-by-cached');
  // Not root either, who calls for the user by sudo(1).
  const out = join(beside, 'cache-root');
  const { uid, gid } = USER;
  const sudo = { ...t.context.env, SUDO_UID: String(uid), SUDO_GID: String(gid) };
  const roots = await kiln(argv(out), { env: sudo, timeout: 600_000 });
  t.is(roots.exitCode, 0, String(roots.stderr));
  t.is(found(out), '');
  chmodSync(home, 0o755);
  t.teardown(() => chmodSync(home, 0o700));
  chmodSync(path, 0o644);
  const others = join(beside, 'others');
  mkdirSync(others);
  chownSync(others, OTHER.uid, OTHER.gid);
  const theirs = await as(OTHER, argv('cache'), { cwd: others, timeout: 600_000 });
  t.is(theirs.exitCode, 0, String(theirs.stderr));
  t.is(found(join(others, 'cache')), '');
  writeConfig(config, '  limits: { storage: 1M }\n');
  t.teardown(() => writeConfig(config, ''));
  const full = await as(USER, ['build', '-r', 'debian-build', '--cache', 'mine:1G', path]);
  t.regex(String(full.stderr), /users\.limits\.storage/);
  for (const options of [
    ['--cache', 'mine:1T'],
    ['--cache', 'mine', '--keep'],
  ]) {
    const refused = await as(USER, ['build', '-r', 'debian-build', path, ...options]);
    t.regex(
      String(refused.stderr),
      /--cache .*not for users[\s\S]*users\.limits\.disk, and no --keep/,
    );
  }
});

test.serial('a user can resume only their own builds', async (t) => {
  const { as, home, kiln } = t.context;
  const path = await ownPackage(t.context, { name: 'later', build: 'test -e mended' });
  const argv = ['build', '-r', 'debian-build', '--keep=5m', path, '--resultdir', 'broken'];
  const failed = await as(USER, argv, { timeout: 600_000 });
  t.is(failed.exitCode, 1, String(failed.stderr));
  const [, id = ''] = /kept as (\w+)/.exec(String(failed.stderr)) ?? [];
  const resume = ['build', '--resume', id];
  const elsewhere = [...resume, '--resultdir', '/tmp'];
  t.regex(String((await as(OTHER, elsewhere)).stderr), /no sandbox/);
  // Root follows no name of a folder that the user gave.
  t.regex(String((await kiln(resume)).stderr), /--resultdir/);
  const entered = await as(USER, ['shell', id], { stdin: 'pipe', input: 'touch mended' });
  t.is(entered.exitCode, 0, String(entered.stderr));
  const resumed = await as(USER, [...resume, '--resultdir', 'mended'], { timeout: 600_000 });
  t.is(resumed.exitCode, 0, String(resumed.stderr));
  owned(t, join(home, 'mended'), 'later');
  t.notRegex(readFileSync(join(home, 'mended/result.json'), 'utf8'), /.*\/jobs\/.*/);
  t.deepEqual(await leftOfJobs(t.context), []);
});

/** Packages that are the same whenever they are made. */
const ALWAYS_THE_SAME = {
  preamble: `%global source_date_epoch_from_changelog 1
%global use_source_date_epoch_as_buildtime 1
%global build_mtime_policy clamp_to_source_date_epoch
%global _buildhost any`,
  sections: '%changelog\n* Thu Jan 01 2026 Test <test@example.org> - 1-1\n- Made.',
};

test.serial('an image with a user’s packages does not exist for others', async (t) => {
  const { as, kiln, beside } = t.context;
  // One of root's, which is smaller than debian-build.
  const recipe = join(beside, 'noarch.yaml');
  writeFileSync(recipe, NOARCH_RECIPE);
  const base = await kiln(['image', 'build', recipe]);
  t.is(base.exitCode, 0, String(base.stderr));
  const install = 'echo text-of-kept >%{buildroot}/usr/share/kept/text';
  const kept = await ownPackage(t.context, { name: 'kept', install, ...ALWAYS_THE_SAME });
  const using = await ownPackage(t.context, { name: 'using', preamble: 'BuildRequires: kept' });
  const chain = async (image: string, out: string) => {
    const argv = ['build', '--chain', '-r', image, kept, using, '--resultdir', out];
    const built = await as(USER, argv, { timeout: 600_000 });
    t.is(built.exitCode, 0, String(built.stderr));
  };
  const long = { timeout: 600_000 };
  const exported = await as(USER, ['image', 'export', 'noarch', '-o', 'own.tar'], long);
  t.is(exported.exitCode, 0, String(exported.stderr));
  const imported = await as(USER, ['image', 'import', 'own.tar', '--name', 'own'], long);
  t.is(imported.exitCode, 0, String(imported.stderr));
  for (const image of ['own', ...(isLong ? ['debian-build'] : [])]) {
    const before = await imagesOf(t.context, USER);
    await chain(image, `${image}-1`);
    const made = await ownImage(t, before, `${image}+1`);
    const { id } = made;
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
    t.deepEqual(await ownImage(t, before, `${image}+1`), made);
  }
  t.deepEqual(await leftOfJobs(t.context), []);
});

long<UserState & { readonly srpm: string }>(
  'an image for a user’s build counts as the user’s, though its packages are root’s',
  async (t) => {
    const { as, config, kiln } = t.context;
    const build = async (name: string, wanted: string) => {
      const preamble = `%global _buildshell /bin/bash\nBuildRequires: file, patch, ${wanted}`;
      const path = await ownPackage(t.context, { name, preamble });
      const argv = ['build', '-r', 'debian-minimal', path, '--resultdir', name];
      const built = await as(USER, argv, { timeout: 600_000 });
      t.is(built.exitCode, 0, String(built.stderr));
    };
    const layers = async (who: typeof USER | typeof OTHER) =>
      (await imagesOf(t.context, who)).filter(({ name }) => name.startsWith('debian-minimal+'));
    const kept = async (): Promise<{ type: string; bytes: number }[]> =>
      JSON.parse(String((await as(USER, ['df', '--json'])).stdout));
    const images = async () => (await kept()).find(({ type }) => type === 'images')?.bytes ?? 0;
    // Those of other tests here would make room first.
    for (const { id, name } of await imagesOf(t.context, USER))
      if (name.includes('+')) await as(USER, ['image', 'rm', id]);
    const before = await images();
    await build('first', 'lzip');
    const [first, ...others] = await layers(USER);
    t.deepEqual(others, []);
    t.deepEqual(await layers(OTHER), []);
    const roots = String((await kiln(['image', 'ls'])).stdout);
    t.true(roots.includes(`user ${USER.uid}: ${first?.name}`), roots);
    const size = (await images()) - before;
    t.true(size > 1_000_000, `${size}`);
    const all = (await kept()).reduce((sum, { bytes }) => sum + bytes, 0);
    writeConfig(config, `  limits: { storage: ${Math.floor(all + size / 2)} }\n`);
    t.teardown(() => writeConfig(config, ''));
    await build('next', 'unzip');
    const [next, ...rest] = await layers(USER);
    t.deepEqual(rest, []);
    t.not(next?.id, first?.id);
  },
);

/** An account as useradd makes it, in the group that uses kiln; its home is `home`. Gone with the test. */
async function newAccount(t: ExecutionContext, home: string): Promise<string> {
  const name = `kiln-tour-${process.pid}`;
  t.teardown(async () => {
    await execa('userdel', ['--force', name], { reject: false });
    await execa('groupdel', [name], { reject: false });
  });
  await execa('groupadd', ['--non-unique', '--gid', `${GROUP}`, name]);
  await execa('useradd', [
    ...['--uid', `${64_000 + (process.pid % 1000)}`, '--gid', name, '--password', '*'],
    ...['--home-dir', home, '--create-home', '--shell', '/bin/bash', '--no-log-init', name],
  ]);
  return name;
}

test.serial('a new account can follow the tour of the README', async (t) => {
  const { beside, paths } = t.context;
  const home = join(beside, 'tour');
  const account = await newAccount(t, home);
  kilnForUsers(join(home, 'kiln'));
  const checkout = join(home, 'kiln');
  await execa('chown', ['-R', account, home]);
  const examples = commandBlocks('README.md').filter(({ notRun, long }) => !notRun && !long);
  t.true(examples.length >= 4);
  const su = (script: string) =>
    execa('su', ['-', account, '-w', 'KILN_STATE', '-c', `set -e; cd kiln\n${script}`], {
      ...{ env: { KILN_STATE: paths.root }, reject: false, timeout: 600_000, stdin: 'ignore' },
    });
  for (const { text, line } of examples) {
    const done = await su(text.replaceAll('/run/kiln/io.kiln', join(paths.root, 'io.kiln')));
    t.is(done.exitCode, 0, `README.md:${line}: ${done.stderr}`);
  }
  const owner = (await execa('id', ['-u', account])).stdout;
  t.regex((await execa(join(checkout, 'out/hello'))).stdout, /^Hello from/);
  // A report is made anew by a process of the user's own.
  const reported = await su('rm out/report.html; bin/kiln report out');
  t.is(reported.exitCode, 0, String(reported.stderr));
  t.is(`${statSync(join(checkout, 'out/report.html')).uid}`, owner);
  const roots = join(beside, 'roots-results');
  await execa('cp', ['-r', join(checkout, 'out'), roots]);
  await execa('rm', [join(roots, 'report.html')]);
  t.regex(String((await su(`bin/kiln report ${roots}`)).stderr), /E_RESULTDIR|cannot/);
  t.false(existsSync(join(roots, 'report.html')));
  for (const folder of ['packages', 'again']) {
    const made = readdirSync(join(checkout, folder)).filter((name) => name.endsWith('.rpm'));
    t.deepEqual(made.sort(), ['greet-1.0-1.noarch.rpm', 'greet-1.0-1.src.rpm'], folder);
    for (const name of made) t.is(`${statSync(join(checkout, folder, name)).uid}`, owner, name);
  }
});

for (const [what, options] of [
  ['a configuration by its path', ['-r', './evil.cfg']],
  ['options of the configuration', ['--config-opts', 'root=x']],
  ['another folder of configurations', ['--configdir', '.']],
  ['a repository', ['--addrepo', 'http://127.0.0.1/']],
  ['the host’s network', ['--enable-network']],
  ['a plugin', ['--enable-plugin', 'sign']],
  ['a template of configurations', ['--target', "{{ config_opts['dnf.conf'] }}"]],
  ['a build in a root that stays', ['--no-clean']],
  ['files of the host’s as packages', ['--install', '/etc/x.rpm']],
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
  ['--additional-package', '/etc/shadow'],
]) {
  test.serial(`kiln build refuses a user ${options.join(' ')}`, async (t) => {
    const { as, srpm } = t.context;
    const refused = await as(USER, ['build', '-r', 'debian-build', srpm, ...options]);
    t.not(refused.exitCode, 0);
    t.regex(String(refused.stderr), /not for users/);
  });
}
