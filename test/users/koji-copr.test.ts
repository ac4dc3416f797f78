/** Koji's and Copr's command lines as a user gives them who is not root, with configurations that root has. */
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { debianRepository } from '../image/image-state.ts';
import { checkout, coprConfig, kojiConfig } from '../mock/builder-configs.ts';
import { long } from '../support/long.ts';
import {
  leftOfJobs,
  USER,
  type UserState,
  userState,
  writeConfig,
} from '../support/second-user.ts';
import { giveUnpackedPackages, NOARCH_ROOT } from '../support/unpacked-packages.ts';

const KOJI = 'koji/f44-build-12-345';

type Context = UserState & { readonly configs: string; readonly folder: string };
const test = anyTest as TestFn<Context>;

test.before(async (t) => {
  const state = await userState();
  await giveUnpackedPackages(state.paths);
  const configs = join(state.beside, 'mock-configs');
  writeConfig(state.config, `  mockConfigs: ${configs}\n`);
  const { directory, key } = await debianRepository();
  const write = (name: string, text: string) => {
    const path = join(configs, `${name}.cfg`);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return path;
  };
  write(
    KOJI,
    kojiConfig({ name: 'f44-build-12-345', basedir: join(state.beside, 'mock'), directory }),
  );
  const demo = write(
    'demo',
    `config_opts['root'] = 'demo'
config_opts['target_arch'] = 'x86_64'
config_opts['chroot_setup_cmd'] = 'install ${NOARCH_ROOT.join(' ')}'
config_opts['macros']['%_buildshell'] = '/bin/bash'
config_opts['dnf.conf'] = '''
[debian]
baseurl=${pathToFileURL(directory)}
gpgcheck=1
gpgkey=${pathToFileURL(key ?? '')}
'''
`,
  );
  write('copr/child', coprConfig(demo, directory));
  const folder = await checkout(state.home);
  // What the builder itself would write, beside its results.
  writeFileSync(join(state.home, 'child.cfg'), coprConfig(demo, directory));
  await execa('chown', ['-R', `${USER.uid}:${USER.gid}`, state.home]);
  t.context = { ...state, configs, folder };
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

async function mock(t: ExecutionContext<UserState>, ...args: readonly string[]) {
  const { as, mock: program } = t.context;
  const { exitCode, stderr } = await as(USER, args, { program, timeout: 600_000 });
  return { exitCode, stderr: String(stderr) };
}

/** Names in a folder of results, all of which are the user's. */
function owned(t: ExecutionContext, folder: string): string[] {
  const names = readdirSync(folder);
  for (const name of names) t.is(statSync(join(folder, name)).uid, USER.uid, name);
  return names;
}

long<Context>('a user can use Koji’s builds and roots, but no builds in kept roots', async (t) => {
  const { home, folder } = t.context;
  const koji = (...args: string[]) => mock(t, '-r', KOJI, ...args);
  const spec = join(folder, 'task.spec');
  const made = await koji('--buildsrpm', '--spec', spec, '--sources', folder, '--target', 'noarch');
  t.is(made.exitCode, 0, made.stderr);
  // Results in BASEDIR would be root's.
  const srpm = join(home, 'result/task-1-1.src.rpm');
  const built = await koji('--target', 'noarch', '--rebuild', srpm);
  t.is(built.exitCode, 0, built.stderr);
  const names = owned(t, join(home, 'result'));
  for (const name of ['task-1-1.noarch.rpm', 'build.log', 'root.log', 'state.log', 'hw_info.log']) {
    t.true(names.includes(name), name);
  }
  const { stdout } = await execa('rpm', [
    '-qp',
    '--qf',
    '%{vendor}',
    join(home, 'result/task-1-1.noarch.rpm'),
  ]);
  t.is(stdout, 'Koji');
  for (const args of [
    ['--init'],
    ['--copyin', spec, '/tmp'],
    ['--chroot', '--', 'test', '-f', '/tmp/task.spec'],
    ['--clean'],
  ]) {
    const done = await koji(...args);
    t.is(done.exitCode, 0, done.stderr);
  }
  for (const [args, words] of [
    [
      ['--no-clean', '--rebuild', srpm],
      /--no-clean is not for users: a root that stays could grow/,
    ],
    [['--print-root-path'], /hint: a root is mounted in a sandbox only/],
  ] as const) {
    const refused = await koji(...args);
    t.not(refused.exitCode, 0);
    t.regex(refused.stderr, words);
  }
});

test.serial('Copr’s command lines work for a user, with a configuration of root’s', async (t) => {
  const { home, folder } = t.context;
  const copr = (...args: string[]) => mock(t, ...args, '-r', 'copr/child');
  const results = join(home, 'copr');
  const more = [
    '--resultdir',
    results,
    '--uniqueext',
    '1732724460.5',
    '--with',
    'x',
    '--without',
    'y',
  ];
  const sources = ['--spec', join(folder, 'task.spec'), '--sources', folder];
  const made = await copr('--buildsrpm', ...sources, ...more);
  t.is(made.exitCode, 0, made.stderr);
  const built = await copr('--rebuild', join(results, 'task-1-1.copr42.src.rpm'), ...more);
  t.is(built.exitCode, 0, built.stderr);
  t.true(owned(t, results).includes('task-1-1.copr42.noarch.rpm'));
  t.regex(readFileSync(join(results, 'build.log'), 'utf8'), /^Child return code was: 0$/m);
  const scrubs = ['--scrub', 'bootstrap', '--scrub', 'chroot', '--scrub', 'root-cache', '--quiet'];
  const scrubbed = await copr(...scrubs);
  t.is(scrubbed.exitCode, 0, scrubbed.stderr);
  // One of the user's own could name repositories and files for root to read.
  const own = await mock(t, '--rebuild', 'x.src.rpm', '-r', join(home, 'child.cfg'));
  t.not(own.exitCode, 0);
  t.regex(
    own.stderr,
    /child\.cfg is not for users: users can use configurations of root’s only\n.*name one that root has in/,
  );
  for (const name of ['../demo', 'copr/../demo', '/etc/passwd', 'copr//child', './demo']) {
    const outside = await mock(
      t,
      '--rebuild',
      join(results, 'task-1-1.copr42.src.rpm'),
      '-r',
      name,
    );
    t.not(outside.exitCode, 0, name);
    t.regex(outside.stderr, /is not for users/);
  }
  t.deepEqual(await leftOfJobs(t.context), []);
});
