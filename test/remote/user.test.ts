/** `kiln --host` with a login that is not root: a new account of this machine, in the group that uses kiln. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, KILN, PATIENCE } from '../support/busybox-state.ts';
import { daemonPid } from '../support/daemon.ts';
import { eventually, until } from '../support/eventually.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';
import { GROUP, kilnForUsers, type UserState, userState } from '../support/second-user.ts';
import { type SshServer, sshServer } from '../support/ssh-server.ts';

interface World {
  readonly far: UserState;
  readonly near: BusyboxState;
  readonly server: SshServer;
  readonly cwd: string;
  readonly account: string;
}

const test = anyTest as TestFn<World>;
const RUN = ['run', '-r', 'busybox'];
/** Beyond what hosts have, and another one for each test process. */
const UID = 63_000 + (process.pid % 1000);

test.before(async (t) => {
  const [far, near] = [await userState(), await busyboxState()];
  const account = `kiln-test-${process.pid}`;
  const home = join(far.beside, 'login');
  await execa('groupadd', ['--non-unique', '--gid', `${GROUP}`, account]);
  await execa('useradd', [
    ...['--uid', `${UID}`, '--gid', account, '--home-dir', home, '--create-home'],
    ...['--shell', '/bin/sh', '--password', '*', '--no-log-init', account],
  ]);
  const place = join(far.beside, 'kiln');
  kilnForUsers(place);
  const PATH = `${join(place, 'bin')}:/usr/bin:/bin`;
  const env = { KILN_STATE: far.paths.root, PATH };
  const server = await sshServer(join(far.beside, 'ssh'), env, account);
  const cwd = join(near.beside, 'work');
  mkdirSync(cwd);
  t.context = { far, near, server, cwd, account };
});
test.after.always(async ({ context: { far, near, server, account } }) => {
  await server[Symbol.asyncDispose]();
  await execa('userdel', ['--force', account], { reject: false });
  await execa('groupdel', [account], { reject: false });
  await far[Symbol.asyncDispose]();
  await near[Symbol.asyncDispose]();
});

/** Runs kiln there as the account. Never rejects. */
async function there({ server, near, cwd }: World, args: readonly string[], input?: string) {
  const PATH = `${server.bin}:${dirname(KILN)}:${process.env.PATH}`;
  const { exitCode, stdout, stderr } = await execa(KILN, ['--host', server.url, ...args], {
    env: { PATH, HOME: '/root', KILN_STATE: near.paths.root, KILN_NODE: process.execPath },
    ...{ cwd, extendEnv: false, reject: false, timeout: 120_000 * PATIENCE },
    killSignal: 'SIGKILL',
    ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
  });
  return { exitCode, stdout, stderr };
}

test.serial('files go there and results come back, with only the login’s rights', async (t) => {
  const world = t.context;
  writeFileSync(join(world.cwd, 'in'), 'in ');
  const script = 'id -u; cat; cat /tmp/in >/tmp/out; exit 7';
  const done = await there(
    world,
    [
      ...[...RUN, '--copy-in', 'in:/tmp/in', '--artifact', '/tmp/out', '--resultdir', 'out'],
      ...['--', 'sh', '-c', script],
    ],
    'typed',
  );
  t.deepEqual([done.exitCode, done.stdout], [7, '1000\ntyped'], done.stderr);
  t.is(readFileSync(join(world.cwd, 'out/out'), 'utf8'), 'in ');
  t.is(daemonPid(world.near.paths.root), undefined);
  const left = () =>
    readdirSync('/var/tmp').filter(
      (name) =>
        name.startsWith('kiln-remote-') &&
        lstatSync(join('/var/tmp', name), { throwIfNoEntry: false })?.uid === UID,
    );
  t.true(await until(() => left().length === 0));
  const recipe = { image: 'busybox', steps: [{ run: 'echo step' }], artifacts: [] };
  writeFileSync(join(world.cwd, 'it.yaml'), JSON.stringify(recipe));
  const built = await there(world, ['build', 'it.yaml', '--resultdir', 'built']);
  t.is(built.exitCode, 0, built.stderr);
  t.true(existsSync(join(world.cwd, 'built/result.json')));
});

test.serial('the far kiln refuses what its users may not do', async (t) => {
  const refused: readonly (readonly [readonly string[], RegExp])[] = [
    [['--network', 'default'], /--network default is not for users.*users\.networks/s],
    [['--cap-add', 'SYS_ADMIN'], /--cap-add.*users\.capabilities/s],
    [['--egress', 'example.org'], /--egress.*users\.egress/s],
    [['--allow-missing', 'memory-limit'], /--allow-missing/],
  ];
  for (const [options, why] of refused) {
    const { exitCode, stderr } = await there(t.context, [...RUN, ...options, '--', 'true']);
    t.is(exitCode, 125, options.join(' '));
    t.regex(stderr, why);
  }
  const removed = await there(t.context, ['image', 'rm', 'busybox']);
  t.regex(removed.stderr, /it is root’s/);
});

test.serial('root’s far sandboxes are hidden; a broken connection ends the user’s', async (t) => {
  const world = t.context;
  const [seconds, rootsSeconds] = [ownSeconds(), ownSeconds()];
  const argv = [...RUN, '--', 'sleep', seconds];
  const roots = world.far.kiln([...RUN, '--', 'sleep', rootsSeconds]);
  t.true(await until(() => processesCalled('sleep', rootsSeconds).length === 1));
  const running = there(world, argv);
  t.true(await until(() => processesCalled('sleep', seconds).length === 1));
  const listed = async () => {
    const all = JSON.parse((await there(world, ['ps', '--json'])).stdout) as {
      readonly record: { readonly command: readonly string[] };
    }[];
    return all.map(({ record }) => record.command.join(' ')).join();
  };
  // The daemon removes those of the runs before after it has told their callers.
  t.true(await eventually(async () => (await listed()) === `sleep ${seconds}`));
  world.server.killSessions();
  t.is((await running).exitCode, 125);
  t.true(await until(() => processesCalled('sleep', seconds).length === 0));
  t.is(processesCalled('sleep', rootsSeconds).length, 1);
  for (const pid of processesCalled('sleep', rootsSeconds)) process.kill(pid, 'SIGKILL');
  await roots;
});

test.serial(
  'a user’s detached job can be attached to, and its results can be fetched',
  async (t) => {
    const world = t.context;
    const script = 'read line; echo got $line; echo made >/tmp/o; exit 3';
    const begun = await there(world, [
      ...[...RUN, '--detach', '--tty', '--name', 'mine', '--artifact', '/tmp/o'],
      ...['--', 'sh', '-c', script],
    ]);
    t.is(begun.exitCode, 0, begun.stderr);
    const attached = await there(world, ['attach', 'mine'], 'typed\n');
    t.is(attached.exitCode, 3, attached.stderr);
    t.regex(attached.stdout, /got typed/);
    t.is((await there(world, ['wait', begun.stdout])).exitCode, 3);
    t.regex((await there(world, ['logs', 'mine'])).stdout, /got typed/);
    const fetched = await there(world, ['results', 'mine', 'fetched']);
    t.is(fetched.exitCode, 0, fetched.stderr);
    t.is(readFileSync(join(world.cwd, 'fetched/o'), 'utf8'), 'made\n');
  },
);
