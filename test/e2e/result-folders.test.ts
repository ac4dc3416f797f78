/** Where results go is decided before the command starts, by whoever the caller's own process opens it for. */
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { fixture } from '../rpm/fixtures.ts';
import { type BusyboxState, busyboxState, IMAGE, KILN } from '../support/busybox-state.ts';

interface Context {
  readonly state: BusyboxState;
}

const test = anyTest as TestFn<Context>;
const NODE = join(KILN, '../kiln-node');

/** Root’s two ways: by the daemon, and as a process that serves itself. */
const CALLERS = { daemon: KILN, process: NODE };
type Way = keyof typeof CALLERS;

test.before(async (t) => {
  t.context = { state: await busyboxState() };
});
test.after.always(async ({ context }) => {
  await context.state[Symbol.asyncDispose]();
});

let count = 0;

/** A folder of a caller's, as a checkout, beside one of root's that nobody else enters. */
function checkout({ beside }: BusyboxState) {
  const work = join(beside, `work-${count++}`);
  mkdirSync(work);
  chmodSync(work, 0o777);
  const secret = join(beside, `secret-${count}`);
  mkdirSync(secret, { mode: 0o700 });
  return { work, secret, inSecret: () => readdirSync(secret) };
}

async function kiln(state: BusyboxState, way: Way, cwd: string, argv: readonly string[], env = {}) {
  const { execa } = await import('execa');
  return await execa(CALLERS[way], argv, {
    ...{ cwd, reject: false, stdin: 'ignore', timeout: 60_000, killSignal: 'SIGKILL' },
    env: { ...state.env, KILN_FROM_SOURCE: '', ...env },
  });
}

const RUN = ['run', '-r', IMAGE.slice(0, 12)];
const BOUND = ['--bind', '.:/w', '--workdir', '/w', '--artifact', 'made', '--resultdir', 'out'];

for (const way of Object.keys(CALLERS) as Way[]) {
  test.serial(`${way}: results follow a moved folder, not the link in its place`, async (t) => {
    const { state } = t.context;
    const { work, secret, inSecret } = checkout(state);
    const script = `echo mine >made; mv out old; ln -s ${secret} out`;
    const ended = await kiln(state, way, work, [...RUN, ...BOUND, '--', 'sh', '-c', script]);
    t.deepEqual(inSecret(), [], String(ended.stderr));
    t.is(ended.exitCode, 0, String(ended.stderr));
    t.is(readFileSync(join(work, 'old/made'), 'utf8'), 'mine\n');
    t.true(readdirSync(join(work, 'old')).includes('result.json'));
    const told = `kiln: warning: ${work}/out was moved to ${work}/old after kiln had opened it: what was written is there [results-moved]`;
    t.true(String(ended.stderr).includes(told), String(ended.stderr));
  });

  test.serial(`${way}: a link that replaces the result folder is an error`, async (t) => {
    const { state } = t.context;
    const { work, secret, inSecret } = checkout(state);
    const script = `echo mine >made; rmdir out; ln -s ${secret} out`;
    const ended = await kiln(state, way, work, [...RUN, ...BOUND, '--', 'sh', '-c', script]);
    t.deepEqual(inSecret(), [], String(ended.stderr));
    t.is(ended.exitCode, 125);
    t.regex(
      String(ended.stderr),
      /the result folder \S+\/out cannot be used: it was removed after kiln had opened it \[E_RESULTDIR\]/,
    );
    t.is(String(ended.stderr).match(/E_RESULTDIR/g)?.length, 1);
  });

  test.serial(`${way}: a link that replaces a folder above is not followed`, async (t) => {
    const { state } = t.context;
    const { work, secret, inSecret } = checkout(state);
    mkdirSync(join(work, 'a'));
    chmodSync(join(work, 'a'), 0o777);
    const script = `echo mine >made; mv a old; ln -s ${secret} a`;
    const argv = [...RUN, ...BOUND, '--resultdir', 'a/out', '--', 'sh', '-c', script];
    const ended = await kiln(state, way, work, argv);
    t.deepEqual(inSecret(), [], String(ended.stderr));
    t.is(readFileSync(join(work, 'old/out/made'), 'utf8'), 'mine\n');
  });

  test.serial(`${way}: a result folder that is a link of the checkout is refused`, async (t) => {
    const { state } = t.context;
    const { work, secret, inSecret } = checkout(state);
    symlinkSync(secret, join(work, 'out'));
    writeFileSync(join(work, 'recipe.yaml'), `image: ${IMAGE}\nsteps: [true]\n`);
    for (const argv of [
      [...RUN, '--resultdir', 'out', '--', 'true'],
      [...RUN, '--resultdir', 'out/', '--', 'true'],
      [...RUN, '--resultdir', './out/.', '--', 'true'],
      ['shell', '-r', IMAGE.slice(0, 12), '--resultdir', 'out'],
      ['build', './recipe.yaml', '--resultdir', 'out'],
    ]) {
      const ended = await kiln(state, way, work, argv);
      t.is(ended.exitCode, 125, argv.join(' '));
      t.regex(
        String(ended.stderr),
        /out cannot be used: it is a symbolic link, .* \[E_RESULTDIR\]\n {2}hint: name the folder that it leads to: `readlink -f \S+` prints it/,
        argv.join(' '),
      );
      t.deepEqual(inSecret(), [], argv.join(' '));
    }
    rmSync(join(work, 'out'));
    symlinkSync(join(secret, 'new'), join(work, 'out'));
    const dangling = await kiln(state, way, work, [...RUN, '--resultdir', 'out', '--', 'true']);
    t.is(dangling.exitCode, 125);
    t.deepEqual(inSecret(), [], 'a link that leads nowhere');
  });

  test.serial(`${way}: a recipe’s default result folder is refused if it is a link`, async (t) => {
    const { state } = t.context;
    const { work, secret, inSecret } = checkout(state);
    symlinkSync(secret, join(work, 'result'));
    writeFileSync(join(work, 'recipe.yaml'), `image: ${IMAGE}\nsteps: [echo x]\n`);
    const ended = await kiln(state, way, work, ['build', './recipe.yaml']);
    t.is(ended.exitCode, 125);
    t.regex(String(ended.stderr), /\/result cannot be used: it is a symbolic link/);
    t.deepEqual(inSecret(), []);
  });

  test.serial(`${way}: links above the result folder are followed, as by a shell`, async (t) => {
    const { state } = t.context;
    const { work } = checkout(state);
    mkdirSync(join(work, 'there'));
    symlinkSync('there', join(work, 'link'));
    const argv = [...RUN, '--resultdir', 'link/new/out', '--', 'true'];
    t.is((await kiln(state, way, work, argv)).exitCode, 0);
    t.true(readdirSync(join(work, 'there/new/out')).includes('result.json'));
  });

  test.serial(
    `${way}: new folders belong to the caller, which under sudo is the user`,
    async (t) => {
      const { state } = t.context;
      const { work } = checkout(state);
      const argv = [...RUN, '--resultdir', 'x/y/out', '--', 'true'];
      const env = { SUDO_UID: '61001', SUDO_GID: '61002' };
      t.is((await kiln(state, way, work, argv, env)).exitCode, 0);
      for (const path of ['x', 'x/y', 'x/y/out', 'x/y/out/result.json']) {
        const { uid, gid, mode } = statSync(join(work, path));
        t.deepEqual([uid, gid], [61_001, 61_002], path);
        t.is(mode & 0o022, 0, path);
      }
    },
  );
}

for (const way of Object.keys(CALLERS) as Way[]) {
  test.serial(`${way}: output files and folders are not written through links`, async (t) => {
    const { state } = t.context;
    const { work, secret, inSecret } = checkout(state);
    symlinkSync(secret, join(work, 'folder'));
    symlinkSync(join(secret, 'file.tar'), join(work, 'file.tar'));
    const rpm = fixture('RPMS-v4-rpm-basic');
    const image = IMAGE.slice(0, 12);
    for (const argv of [
      ['image', 'export', '-o', 'folder', image],
      ['rpm', 'unpack', '-C', 'folder', rpm],
      ['service', 'install', '--directory', 'folder'],
    ]) {
      const refused = await kiln(state, way, work, argv);
      t.is(refused.exitCode, 125, argv.join(' '));
      t.regex(
        String(refused.stderr),
        /folder cannot be used: it is a symbolic link/,
        argv.join(' '),
      );
      t.deepEqual(inSecret(), [], argv.join(' '));
    }
    const tar = await kiln(state, way, work, ['image', 'export', '-o', 'file.tar', image]);
    t.is(tar.exitCode, 0, String(tar.stderr));
    t.true(lstatSync(join(work, 'file.tar')).isFile());
    symlinkSync(join(secret, 'cron'), join(work, 'cron'));
    const cron = await kiln(state, way, work, ['service', 'install', '--cron', 'cron']);
    t.not(cron.exitCode, 0);
    t.deepEqual(inSecret(), []);
    const nowhere = await kiln(state, way, work, ['image', 'export', '-o', 'no/file.tar', image]);
    t.is(nowhere.exitCode, 125);
    t.regex(String(nowhere.stderr), /you cannot use no\/file\.tar: .*ENOENT/);
  });
}

test.serial('a detached job does not write its results through a link', async (t) => {
  const { state } = t.context;
  const { work, secret, inSecret } = checkout(state);
  symlinkSync(secret, join(work, 'out'));
  const script = 'echo mine >/tmp/made';
  const options = ['--detach', '--workdir', '/tmp', '--artifact', 'made'];
  const begun = await kiln(state, 'daemon', work, [
    ...RUN,
    ...options,
    '--resultdir=o',
    '--',
    'true',
  ]);
  t.is(begun.exitCode, 0, String(begun.stderr));
  const words = [
    'run',
    '-r',
    IMAGE.slice(0, 12),
    '-d',
    '--workdir',
    '/tmp',
    '--',
    'sh',
    '-c',
    script,
  ];
  const { stdout: id } = await kiln(state, 'daemon', work, words);
  t.is((await kiln(state, 'daemon', work, ['wait', String(id)])).exitCode, 0);
  const refused = await kiln(state, 'daemon', work, ['results', String(id), 'out']);
  t.is(refused.exitCode, 125);
  t.regex(String(refused.stderr), /it is a symbolic link/);
  t.deepEqual(inSecret(), []);
  const given = await kiln(state, 'daemon', work, ['results', String(id), 'new/folder']);
  t.is(given.exitCode, 0, String(given.stderr));
  t.true(readdirSync(join(work, 'new/folder')).includes('result.json'));
});
