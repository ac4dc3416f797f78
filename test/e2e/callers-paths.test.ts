/**
 * A path is looked up by its caller's own process. kilnd and its workers give the kernel none that a caller has written:
 * strace lists all that they give it.
 */
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { sourcePackage } from '../build/core/build-state.ts';
import { fixture } from '../rpm/fixtures.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { daemonPid, workersOf } from '../support/daemon.ts';
import { until } from '../support/eventually.ts';
import { long } from '../support/long.ts';
import { ownRepository } from '../users/own-package.ts';

const test = anyTest as TestFn<BusyboxState>;

/** Part of every name of the caller's. */
const MARK = 'callers-own';

/** Calls that have a path of the kernel's in their answer. */
const TELLING = /^\d+ +(?:<\.\.\. )?(?:readlink|readlinkat|getcwd)\b/;

/** Names below what is open, and those that kiln itself gives to what is open. */
const BELOW =
  /(?<=\w\(\d+, )"(?!\/|\.\.)[^"]*"|\/proc\/\d+\/fd\/\d+\/[^"]*|\/jobs\/[\w-]+\/\d+\/[^"]*/g;

/** Folders of configuration, where a name is looked for that a caller has given. */
const CONFIGURATION = [
  '/etc/kiln/recipes/',
  join(import.meta.dirname, '../../recipes/images/'),
  '/etc/mock/',
  join(homedir(), '.config/mock/'),
];

/**
 * What is looked up by its name all the same, and why: by the file that shows it. Each is looked up before anything
 * foreign runs for the call, or is root's configuration, which is meant by its name.
 */
const BY_NAME: readonly (readonly [
  file: string,
  argv: (path: string) => readonly string[],
  why: string,
])[] = [
  [
    'mount',
    (path) => ['service', 'create', '-r', IMAGE, '--mount', `${path}:/m`, 'mounts', '--', 'true'],
    'a mount of a service is looked up at each of its starts, as what fstab(5) names is',
  ],
  [
    'layout',
    (path) => ['image', 'pull', '--name', 'pulled', `oci:${path}:latest`],
    'skopeo resolves names by itself, of what is open as well',
  ],
];

test.before(async (t) => {
  t.context = await busyboxState();
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

/** Of what the daemon and its workers tell the kernel while `act` runs, the lines with a name of the caller's. */
async function seen(
  t: ExecutionContext<BusyboxState>,
  name: string,
  act: () => Promise<void>,
): Promise<string[]> {
  const state = t.context;
  const log = join(state.beside, `${name}.log`);
  const all = [daemonPid(state.paths.root), ...workersOf(state.paths.root)];
  const options = ['-f', '-qq', '-s', '4096', '-e', 'trace=%file', '-o', log];
  const strace = execa('strace', [...options, ...all.flatMap((pid) => ['-p', `${pid}`])], {
    reject: false,
  });
  const isTraced = (pid: number | undefined) =>
    readFileSync(`/proc/${pid}/status`, 'utf8').includes(`TracerPid:\t${strace.pid}`);
  t.true(await until(() => all.every(isTraced)));
  await act();
  strace.kill();
  await strace;
  return readFileSync(log, 'utf8')
    .split('\n')
    .map((line) => line.replace(BELOW, ''))
    .filter((line) => line.includes(MARK) && !TELLING.test(line))
    .filter((line) => !line.includes(`/${IMAGE.slice(0, 12)}`))
    .filter(
      (line) => ![...CONFIGURATION, `${state.paths.root}/`].some((at) => line.includes(`"${at}`)),
    );
}

/** Calls kiln, or kiln-mock where the words begin with its `-r`. */
function kilnIn(cwd: string, env: NodeJS.ProcessEnv) {
  return (argv: readonly string[]) =>
    execa(argv[0] === '-r' ? `${KILN}-mock` : KILN, argv, {
      ...{ cwd, reject: false, stdin: 'ignore', timeout: 120_000 * PATIENCE },
      env: { ...env, KILN_FROM_SOURCE: '', KILN_PARKED: '0', KILN_IDLE: '10m' },
    });
}

/** A repository with a package that has a shell, and an rpm that is content with everything. */
async function repository(folder: string, name: string): Promise<void> {
  const files = `%{buildroot}/${name}`;
  const install = `mkdir -p ${files}; cp /bin/busybox ${files}/sh; printf '#!/bin/sh\\nexit 0\\n' > ${files}/rpm; chmod +x ${files}/rpm`;
  const parts = { name, preamble: 'AutoReqProv: no', install, files: `/${name}` };
  await ownRepository(folder, parts, { uid: 0, gid: 0 });
}

long<BusyboxState>(
  'kilnd and its workers look up no path of an image recipe that root names',
  async (t) => {
    const { beside, env } = t.context;
    const [work, around] = [join(beside, MARK, 'recipes'), join(beside, MARK, 'around')];
    for (const folder of [work, around]) mkdirSync(folder, { recursive: true });
    const file = (name: string) => `${MARK}-${name}`;
    await repository(join(work, file('repository')), 'bin');
    await repository(join(around, file('repository')), 'more');
    await repository(join(work, file('added')), 'added');
    for (const folder of [work, around])
      writeFileSync(join(folder, file('source')), folder === work ? 'beside' : 'around');
    const recipe = (folder: string, name: string) => `extends: ${folder}/${file('base.yaml')}
repositories: [{ id: ${name}, directory: ${folder}/${file('repository')} }]
files: [{ path: /etc/source, source: ${folder}/${file('source')} }]
packages: [${name}]
`;
    const base = (more: string) => `${more}scriptlets: { mode: none }\nworkdir: /\n`;
    for (const folder of [work, around]) writeFileSync(join(folder, file('base.yaml')), base(''));
    writeFileSync(join(work, file('image.yaml')), recipe('.', 'bin'));
    writeFileSync(join(work, file('trusted.yaml')), recipe(around, 'more'));
    writeFileSync(
      join(work, file('build.yaml')),
      `image: ./${file('image.yaml')}\nsteps: [{ run: /bin/sh -c true }]\nartifacts: []\n`,
    );
    const made = await sourcePackage(work, { name: 'sample' });
    const kiln = kilnIn(work, env);
    await kiln(['run', '-r', IMAGE.slice(0, 12), '--', 'true']);
    const shell = ['--', '/bin/sh', '-c', 'read it < /etc/source; echo "$it"'];
    const to = ['--resultdir', file('out')];
    // By another path, it would look for a configuration there.
    const mock = ['-r', `./${file('image.yaml')}`];
    const lines = await seen(t, 'images', async () => {
      for (const at of ['./', `${work}/`]) {
        const of = (name: string) => `${at}${file(name)}`;
        const [image, trusted] = [
          ['-r', of('image.yaml')],
          ['-r', of('trusted.yaml')],
        ];
        for (const [argv, wanted] of [
          [['image', 'build', '--update', of('image.yaml')], /^[0-9a-f]{12}/],
          [['image', 'build', of('image.yaml')], /^[0-9a-f]{12}/],
          [['run', ...image, ...shell], /^beside$/],
          [['run', ...image, ...to, ...shell], /^beside$/],
          [['image', 'show', of('image.yaml')], /"id"/],
          [['image', 'lock', '-o', of('image.lock.json'), of('image.yaml')], /lock\.json/],
          [['image', 'build', of('image.yaml')], /^[0-9a-f]{12}/],
          [['image', 'build', '--allow-host', of('image.lock.json')], /^[0-9a-f]{12}/],
          [['image', 'build', of('trusted.yaml')], /E_HOST_NOT_ALLOWED/],
          [['image', 'build', '--allow-host', of('trusted.yaml')], /^[0-9a-f]{12}/],
          [['build', '--allow-host', of('build.yaml'), ...to], /./],
          [['build', ...image, made, ...to, '--addrepo', of('added')], /./],
          [['build', '--allow-host', ...trusted, made, ...to, '--addrepo', of('added')], /./],
          [['build', ...image, made, ...to, '--addrepo', of('nothing')], /no such directory/],
          [['run', '-r', of('nothing.yaml'), '--', 'true'], /there is no file/],
          [[...mock, '--addrepo', of('added'), '--install', 'added'], /Finish: install/],
          [[...mock, '--clean'], /./],
          [['image', 'rm', of('image.yaml')], /./],
        ] as const) {
          const { stdout, stderr } = await kiln(argv);
          const said = `${stdout}${stderr}`;
          t.regex(said, wanted, argv.join(' '));
          t.notRegex(said, /internal error|\/proc\/\d+\/fd|\/jobs\//, argv.join(' '));
        }
      }
    });
    t.deepEqual(lines, []);
  },
);

test.serial('kilnd and its workers look up no path that root names', async (t) => {
  const { beside, env } = t.context;
  const work = join(beside, MARK);
  const file = (name: string) => `${MARK}-${name}`;
  const [out, tree] = [file('out'), file('tree')];
  for (const name of [tree, file('mount')]) {
    mkdirSync(join(work, name), { recursive: true });
    writeFileSync(join(work, name, 'inner'), 'x');
  }
  for (const [name, text] of Object.entries({
    plain: 'plain',
    'config.yaml': '',
    'recipe.yaml': `image: ${IMAGE}\nsteps: [true]\nartifacts: []\n`,
    'recipe.ts': 'export const image = "x"; export const steps = [];',
    'spec.spec': 'Name: x\n',
    'mock.cfg': `include('${join(work, file('part.cfg'))}')\nconfig_opts['root'] = 'x'\n`,
    'part.cfg': "config_opts['description'] = 'of two files'\n",
  }))
    writeFileSync(join(work, file(name)), text);
  for (const name of ['sample.src.rpm', 'query.rpm'])
    copyFileSync(fixture('RPMS-v4-rpm-basic'), join(work, file(name)));
  copyFileSync('src/sandbox/seccomp/default.json', join(work, file('profile.json')));
  symlinkSync(file('plain'), join(work, file('link')));
  const kiln = kilnIn(work, env);
  // libvirtd, and with it sandboxes, are started before: what they do is not looked at.
  const image = ['-r', IMAGE.slice(0, 12)];
  const kept = await kiln(['run', ...image, '--keep', '--', 'true']);
  const [, id = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
  t.not(id, '', String(kept.stderr));
  const lines = await seen(t, 'held', async () => {
    for (const at of ['./', `${work}/`]) {
      const of = (name: string) => `${at}${file(name)}`;
      const to = ['--resultdir', `${at}${out}`];
      for (const argv of [
        ['run', ...image, '--bind', `${of('tree')}:/b`, ...to, '--', 'true'],
        ['run', ...image, '--copy-in', `${of('tree')}:/tmp/`, '--', 'true'],
        ['run', ...image, '--copy-in', `${of('link')}:/tmp/y`, '--', 'true'],
        ['run', ...image, '--secret', `s=${of('plain')}`, '--', 'cat', '/run/secrets/s'],
        ['run', ...image, '--seccomp', of('profile.json'), '--', 'true'],
        ['run', ...image, '--artifact', 'm', '--workdir', '/tmp', ...to, '--', 'touch', 'm'],
        ['exec', '--copy-in', `${of('tree')}/.:/tmp/x`, id, '--', 'true'],
        ['build', of('recipe.yaml'), ...to],
        ['build', of('recipe.ts'), '--sources', of('tree'), ...to],
        ['build', ...image, of('sample.src.rpm'), ...to, '--sign-key', of('plain')],
        ['build', ...image, '--spec', of('spec.spec'), '--sources', of('tree'), ...to],
        ['build', '--chain', ...image, of('sample.src.rpm'), ...to],
        ['build', '--lock', of('plain'), of('sample.src.rpm'), ...to],
        ['image', 'export', '-o', of('image.tar'), IMAGE],
        ['image', 'export', '-o', of('layout'), IMAGE],
        ['image', 'import', '--name', 'imported', of('plain')],
        ['report', `${at}${out}`],
        ['config', 'check', of('config.yaml')],
        ['-r', of('mock.cfg'), '--debug-config'],
        ['-r', of('nothing.cfg'), '--debug-config'],
        ['-r', file('mock'), '--configdir', at, '--debug-config'],
        ['-r', file('mock'), '--configdir', at, '--list-chroots'],
        ['rpm', 'query', of('query.rpm'), of('nothing.rpm')],
        ['rpm', 'query', '--files', `${of('tree')}/../${file('query.rpm')}`],
        ['rpm', 'verify', of('query.rpm')],
        ['rpm', 'unpack', '-C', of('unpacked'), of('query.rpm')],
        ['service', 'install', '--directory', of('units')],
        ['service', 'create', '--file', of('plain'), 'x'],
        ['service', 'restore', of('plain'), 'x'],
      ]) {
        const { stdout, stderr } = await kiln(argv);
        const said = `${stdout}${stderr}`;
        t.notRegex(said, /internal error/, argv.join(' '));
        // Nor are its own names for them told.
        t.notRegex(said, /\/proc\/\d+\/fd|\/jobs\//, argv.join(' '));
        if (argv.at(-1) === '--debug-config' && !argv.includes(of('nothing.cfg')))
          t.regex(said, /of two files/, argv.join(' '));
      }
    }
  });
  t.deepEqual(lines, []);
  const others = await seen(t, 'named', async () => {
    for (const [name, argv] of BY_NAME) await kiln(argv(`./${file(name)}`));
  });
  for (const [name, , why] of BY_NAME)
    t.true(
      others.some((line) => line.includes(file(name))),
      why,
    );
});

test.serial('a configuration of mock’s that is a link out of its folder is not read', async (t) => {
  const { beside, env } = t.context;
  const work = join(beside, 'linked');
  mkdirSync(work);
  writeFileSync(join(beside, 'roots-own'), 'SECRETLINE = {\n');
  symlinkSync(join(beside, 'roots-own'), join(work, 'evil.cfg'));
  writeFileSync(join(work, 'true.cfg'), "config_opts['root'] = 'found-it'\n");
  symlinkSync('true.cfg', join(work, 'near.cfg'));
  const kiln = kilnIn(work, env);
  const evil = await kiln(['-r', './evil.cfg', '--debug-config']);
  t.not(evil.exitCode, 0);
  t.notRegex(`${evil.stdout}${evil.stderr}`, /SECRETLINE/);
  t.regex(String(evil.stderr), /evil\.cfg/);
  t.regex(String((await kiln(['-r', './near.cfg', '--debug-config'])).stdout), /found-it/);
});
