/**
 * The container hooks, driven as GitHub's runner does it: a program that gets JSON on stdin and writes a response file.
 * The requests are those of the documentation, with paths that exist here.
 */

import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { eventually } from '../support/eventually.ts';
import { USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

test.before(async (t) => {
  t.context = await userState();
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

interface Answer {
  readonly status: unknown;
  readonly out: string;
  readonly err: string;
}

interface Runner {
  readonly work: string;
  readonly mounts: readonly object[];
  hook(request: object, ...options: readonly string[]): Promise<Answer>;
  prepare(
    container: object | null,
    more?: object,
  ): Promise<Answer & { response: () => Record<string, unknown> }>;
}

/** A runner's folder with what it mounts into every container. */
function runner(t: ExecutionContext<UserState>, user = false): Runner {
  const { as, kiln, home, beside } = t.context;
  const root = mkdtempSync(join(user ? home : beside, 'runner-'));
  const work = join(root, '_work');
  const folders = [
    '',
    '_work',
    '_work/_temp',
    '_work/_temp/_github_home',
    '_work/repo',
    'externals',
  ];
  for (const name of folders) {
    const folder = join(root, name);
    if (name !== '') mkdirSync(folder);
    chmodSync(folder, 0o755);
    if (user) chownSync(folder, USER.uid, USER.gid);
  }
  const mount = (source: string, targetVolumePath: string, readOnly: boolean) => ({
    sourceVolumePath: source,
    ...{ targetVolumePath, readOnly },
  });
  const mounts = [
    mount('/var/run/docker.sock', '/var/run/docker.sock', false),
    mount(work, '/__w', false),
    mount(join(root, 'externals'), '/__e', true),
    mount(join(work, '_temp'), '/__w/_temp', false),
    mount(join(work, '_temp/_github_home'), '/github/home', false),
  ];
  const hook: Runner['hook'] = async (request, ...options) => {
    const argv = ['ci', 'github-hook', '--allow-image', 'busybox', ...options];
    const input = { stdin: 'pipe', input: `${JSON.stringify(request)}\n` } as const;
    const done = user ? await as(USER, argv, input) : await kiln(argv, input);
    return { status: done.exitCode, out: String(done.stdout), err: String(done.stderr) };
  };
  return {
    work,
    mounts,
    hook,
    prepare: async (container, more = {}) => {
      const responseFile = join(work, '_temp', 'response.json');
      const args = { container, services: [], ...more };
      // The runner makes an empty one.
      writeFileSync(responseFile, '');
      if (user) chownSync(responseFile, USER.uid, USER.gid);
      const answer = await hook({ command: 'prepare_job', responseFile, state: {}, args });
      return { ...answer, response: () => JSON.parse(readFileSync(responseFile, 'utf8')) };
    },
  };
}

const containerOf = ({ mounts }: Runner, more: object = {}) => ({
  image: 'busybox',
  workingDirectory: '/__w/repo',
  createOptions: null,
  environmentVariables: { NODE_ENV: 'development' },
  userMountVolumes: [],
  systemMountVolumes: mounts,
  registry: null,
  portMappings: [],
  ...more,
});

/** Waits until there are so many: the daemon removes some after it has told the caller. */
async function sandboxesAre(t: ExecutionContext<UserState>, count: number): Promise<void> {
  const listed = async () => JSON.parse(String((await t.context.kiln(['ps', '--json'])).stdout));
  t.true(await eventually(async () => (await listed()).length === count));
}

for (const user of [false, true]) {
  test.serial(
    `a job of ${user ? 'a user’s' : 'root’s'} runner passes from prepare to cleanup`,
    async (t) => {
      const it = runner(t, user);
      const prepared = await it.prepare(containerOf(it));
      t.is(prepared.status, 0, prepared.err);
      const { state, context, isAlpine } = prepared.response() as {
        state: object;
        context: { container: { id: string } };
        isAlpine: boolean;
      };
      t.false(isAlpine);
      t.regex(context.container.id, /./);
      await sandboxesAre(t, 1);
      const step = (args: object) =>
        it.hook({ command: 'run_script_step', responseFile: null, state, args });
      // The runner writes the script of a step into a folder that it has mounted.
      const script = join(it.work, '_temp', 'step.sh');
      writeFileSync(
        script,
        'pwd; id -u; echo "$NODE_ENV $MINE $HOME $(echo $PATH | head -c 8)"; echo made > made; cat; ls /var/run/docker.sock; exit 7\n',
      );
      if (user) chownSync(script, USER.uid, USER.gid);
      const done = await step({
        entryPoint: 'sh',
        entryPointArgs: ['-e', '/__w/_temp/step.sh'],
        environmentVariables: { MINE: 'a b' },
        prependPath: ['/foo/bar', '/baz'],
        workingDirectory: '/__w/repo',
      });
      // `ls` fails: no socket of a container engine is in the sandbox. The script ends there.
      t.is(done.status, 1, done.err);
      t.is(done.out, '/__w/repo\n1000\ndevelopment a b /github/home /foo/bar', done.err);
      t.is(readFileSync(join(it.work, 'repo/made'), 'utf8'), 'made\n');
      const args = ['-c', 'echo kept > /tmp/state; exit 7'];
      const plain = { environmentVariables: {}, workingDirectory: '/__w', entryPoint: 'sh' };
      t.is((await step({ ...plain, entryPointArgs: args })).status, 7);
      const path = await step({
        ...plain,
        prependPath: '/a:/b',
        entryPointArgs: ['-c', 'echo $PATH'],
      });
      t.is(path.out, '/a:/b:/bin');
      t.is((await step({ ...plain, entryPointArgs: ['-c', 'cat /tmp/state'] })).out, 'kept');
      const action = await it.hook({
        command: 'run_container_step',
        responseFile: null,
        state,
        args: {
          ...containerOf(it),
          dockerfile: null,
          entryPoint: 'sh',
          entryPointArgs: ['-c', 'cat made; ls /tmp; exit 4'],
        },
      });
      // A container action has a sandbox of its own, with the runner's folders.
      t.is(action.status, 4, action.err);
      t.is(action.out, 'made');
      const cleanup = { command: 'cleanup_job', responseFile: null, state, args: {} };
      t.is((await it.hook(cleanup)).status, 0);
      await sandboxesAre(t, 0);
      t.is((await it.hook(cleanup)).status, 0);
      t.is((await step({ ...plain, entryPointArgs: ['-c', 'true'] })).status, 125);
    },
  );
}

test.serial('a link that a job put in place of the runner’s file is not followed', async (t) => {
  const it = runner(t);
  const elsewhere = join(it.work, '../elsewhere');
  mkdirSync(elsewhere);
  writeFileSync(join(elsewhere, 'response.json'), 'precious');
  const temp = join(it.work, '_temp');
  renameSync(temp, `${temp}.moved`);
  symlinkSync(elsewhere, temp);
  const request = { command: 'prepare_job', responseFile: join(temp, 'response.json') };
  const args = { container: containerOf({ ...it, mounts: [] }), services: [] };
  const { status, err } = await it.hook({ ...request, state: {}, args });
  t.is(status, 125, err);
  t.regex(err, /_temp\/response\.json is behind a symbolic link/);
  t.is(readFileSync(join(elsewhere, 'response.json'), 'utf8'), 'precious');
  await sandboxesAre(t, 0);
});

test.serial('settings that a workflow must not choose are refused by name', async (t) => {
  const it = runner(t);
  const volume = { sourceVolumePath: '/etc', targetVolumePath: '/host', readOnly: true };
  const cases: readonly (readonly [object | null, object, RegExp])[] = [
    [
      containerOf(it, { image: 'node:14.16' }),
      {},
      /image node:14\.16, which this runner does not list/,
    ],
    [containerOf(it, { image: '/tmp/evil.ts' }), {}, /which this runner does not list/],
    [containerOf(it, { userMountVolumes: [volume] }), {}, /the volume \/etc/],
    [containerOf(it, { createOptions: '--privileged' }), {}, /options: --privileged/],
    [containerOf(it, { portMappings: ['80:8080'] }), {}, /ports: a sandbox has none/],
    [containerOf(it), { services: [{ image: 'redis' }] }, /services: kiln runs no service/],
    // Without a container the runner would execute the steps on the host.
    [null, {}, /names no container/],
  ];
  for (const [container, more, said] of cases) {
    const { status, err } = await it.prepare(container, more);
    t.is(status, 125, err);
    t.regex(err, said);
  }
  const args = { ...containerOf(it), image: null, dockerfile: '/__w/_actions/foo/Dockerfile' };
  const built = await it.hook({ command: 'run_container_step', state: {}, args });
  t.regex(built.err, /the Dockerfile \/__w\/_actions\/foo\/Dockerfile: kiln builds no/);
  const unknown = await it.hook({ command: 'something_else' });
  t.is(unknown.status, 125);
  t.regex(unknown.err, /stdin is not a request of a GitHub runner/);
  await sandboxesAre(t, 0);
});

for (const user of [false, true]) {
  test.serial(
    `a link left by a job of ${user ? 'a user’s' : 'root’s'} runner is not bound for the next one`,
    async (t) => {
      const it = runner(t, user);
      const first = await it.prepare(containerOf(it));
      t.is(first.status, 0, first.err);
      const { state } = first.response();
      const script =
        'rm -rf /__w/_temp/_github_home; ln -s ../../externals /__w/_temp/_github_home';
      const args = { entryPoint: 'sh', entryPointArgs: ['-c', script], workingDirectory: '/' };
      const left = await it.hook({ command: 'run_script_step', state, args });
      t.is(left.status, 0, left.err);
      await it.hook({ command: 'cleanup_job', state });
      t.true(lstatSync(join(it.work, '_temp/_github_home')).isSymbolicLink());
      const next = await it.prepare(containerOf(it));
      t.not(next.status, 0);
      t.regex(next.err, /a part of that path is a symbolic link/);
      await sandboxesAre(t, 0);
    },
  );
}
