/** Users who are not root: `run`, `ps`, `kill`, and their files. */

import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { PATIENCE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import {
  leftOfJobs,
  OTHER,
  SHARED,
  USER,
  type UserState,
  userState,
} from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;
const IMAGE = ['-r', 'busybox'];

test.before(async (t) => {
  t.context = await userState();
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

function file(
  path: string,
  content: string,
  { uid, gid }: { uid: number; gid: number },
  mode = 0o600,
) {
  writeFileSync(path, content);
  chownSync(path, uid, gid);
  chmodSync(path, mode);
  return path;
}

/** A result that is what it should be, or all that was said. */
function succeeds(t: ExecutionContext, result: { exitCode?: unknown; stderr?: unknown }): void {
  t.is(result.exitCode, 0, String(result.stderr));
}

test.serial('a user of the group can run a command in a sandbox, and others cannot', async (t) => {
  const state = t.context;
  const done = await state.as(USER, ['run', ...IMAGE, '--', 'id', '-u']);
  succeeds(t, done);
  t.is(String(done.stdout), '1000');
  const stranger = await state.as(OTHER, ['run', ...IMAGE, '--', 'true'], { groups: [] });
  t.is(stranger.exitCode, 125);
  // Not served, the client goes on by itself: where there is all of kiln, that says why not.
  t.regex(
    String(stranger.stderr),
    /only root can do this, and kiln runs as user 61002|bin\/kiln-node/,
  );
});

test.serial('standard input, both outputs and the status pass', async (t) => {
  const argv = ['sh', '-c', 'cat; echo err >&2; exit 7'];
  const done = await t.context.as(USER, ['run', ...IMAGE, '--', ...argv], {
    input: 'in',
    stdin: 'pipe',
  });
  t.deepEqual([done.exitCode, done.stdout, done.stderr], [7, 'in', 'err']);
});

test.serial('a bind shows the user’s own files, and new files in it are the user’s', async (t) => {
  const { home, as } = t.context;
  file(join(home, 'mine'), 'mine', USER);
  const script = 'cat mine; echo new >new; mkdir folder; id -u';
  const bind = ['--bind', '.:/b', '--workdir', '/b'];
  const done = await as(USER, ['run', ...IMAGE, ...bind, '--', 'sh', '-c', script]);
  succeeds(t, done);
  t.is(String(done.stdout), 'mine1000');
  for (const name of ['new', 'folder']) t.is(statSync(join(home, name)).uid, USER.uid);
});

test.serial('a folder of one of the user’s groups can take new files', async (t) => {
  const { home, as } = t.context;
  const shared = join(home, 'shared');
  mkdirSync(shared);
  chownSync(shared, USER.uid, SHARED);
  chmodSync(shared, 0o770);
  const done = await as(USER, ['run', ...IMAGE, '--bind', 'shared:/b', '--', 'touch', '/b/new']);
  succeeds(t, done);
  t.is(statSync(join(shared, 'new')).uid, USER.uid);
});

test.serial('files are copied in and out with the user’s rights', async (t) => {
  const { home, as } = t.context;
  mkdirSync(join(home, 'in'));
  chownSync(join(home, 'in'), USER.uid, USER.gid);
  file(join(home, 'in/a'), 'a', USER);
  symlinkSync('a', join(home, 'in/link'));
  file(join(home, 'secret'), 'hidden', USER);
  const script = 'cat in/link /run/secrets/s >out; ln -s out way; mkdir d; echo e >d/e';
  const options = ['--copy-in', 'in:/tmp/', '--secret', 's=secret', '--workdir', '/tmp'];
  const results = [
    '--artifact',
    'out',
    '--artifact',
    'way',
    '--artifact',
    'd',
    '--resultdir',
    'some/results',
  ];
  const done = await as(USER, ['run', ...IMAGE, ...options, ...results, '--', 'sh', '-c', script]);
  succeeds(t, done);
  const out = join(home, 'some/results');
  t.is(readFileSync(join(out, 'way'), 'utf8'), 'ahidden');
  t.is(readFileSync(join(out, 'd/e'), 'utf8'), 'e\n');
  const owners = ['.', 'out', 'd', 'd/e', 'result.json'].map(
    (name) => statSync(join(out, name)).uid,
  );
  t.deepEqual(
    owners,
    owners.map(() => USER.uid),
  );
  t.notRegex(readFileSync(join(out, 'result.json'), 'utf8'), /.*\/jobs\/.*/);
  // Again: what is there gives way.
  succeeds(t, await as(USER, ['run', ...IMAGE, ...options, ...results, '--', 'sh', '-c', script]));
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('a user can see and end only their own sandboxes', async (t) => {
  const { as, kiln, paths } = t.context;
  const mine = as(USER, ['run', ...IMAGE, '--', 'sleep', '100']);
  const roots = kiln(['run', ...IMAGE, '--', 'sleep', '100']);
  const list = async () =>
    JSON.parse(String((await kiln(['ps', '--json'])).stdout)) as {
      id: string;
      state: string;
      record: { owner?: number; command?: string[] };
    }[];
  let running: Awaited<ReturnType<typeof list>> = [];
  for (let tries = 0; running.length < 2 && tries < 200 * PATIENCE; tries++) {
    running = (await list()).filter(({ record }) => record.command?.[0] === 'sleep');
    await sleep(100);
  }
  const own = running.find(({ record }) => record.owner === USER.uid)?.id ?? '';
  const other = running.find(({ record }) => record.owner === undefined)?.id ?? '';
  t.true(own !== '' && other !== '', paths.root);
  // The daemon removes those of the runs before after it has told their callers.
  const seenBy = async (user: typeof USER | typeof OTHER) => {
    const { stdout } = await as(user, ['ps', '--json']);
    return (JSON.parse(String(stdout)) as { id: string }[]).map(({ id }) => id).join();
  };
  t.true(await eventually(async () => (await seenBy(USER)) === own));
  t.true(await eventually(async () => (await seenBy(OTHER)) === ''));
  for (const [who, id] of [
    [OTHER, own],
    [OTHER, other],
    [USER, other],
  ] as const) {
    const refused = await as(who, ['kill', id]);
    t.regex(String(refused.stderr), /there is no sandbox/);
  }
  t.is(String((await as(OTHER, ['kill', '--all'])).stdout), '');
  succeeds(t, await as(USER, ['kill', '--all']));
  t.is((await mine).exitCode, 125);
  succeeds(t, await kiln(['kill', other]));
  t.is((await roots).exitCode, 125);
});

test.serial('a kept sandbox can be entered by its owner only', async (t) => {
  const { as } = t.context;
  const kept = await as(USER, ['run', ...IMAGE, '--keep', '--', 'touch', '/tmp/mark']);
  const id = /kiln shell (\w+)/.exec(String(kept.stderr))?.[1] ?? '';
  const enter = (user: typeof USER | typeof OTHER) =>
    as(user, ['shell', id], { input: 'ls /tmp\n', stdin: 'pipe' });
  t.regex(String((await enter(OTHER)).stderr), /there is no sandbox/);
  t.is(String((await enter(USER)).stdout), 'mark');
  const mine = file(join(t.context.home, 'mine'), 'of the user', USER);
  const exec = (user: typeof USER | typeof OTHER) =>
    as(user, ['exec', '--copy-in', `${mine}:/tmp/mine`, id, '--', 'cat', '/tmp/mine']);
  t.regex(String((await exec(OTHER)).stderr), /there is no sandbox|mine/);
  t.is(String((await exec(USER)).stdout), 'of the user');
  succeeds(t, await as(USER, ['kill', id]));
});

test.serial('a user’s gc removes what the user keeps, and nothing of others', async (t) => {
  const { as, kiln } = t.context;
  const keep = ['run', ...IMAGE, '--keep', '--', 'true'];
  for (const kept of [as(USER, keep), as(OTHER, keep), kiln(keep)]) succeeds(t, await kept);
  t.regex(String((await as(USER, ['gc'])).stdout), /^removed nothing$/);
  t.regex(String((await as(USER, ['gc', '--max-age', '0s'])).stdout), /^removed 1 sandbox$/);
  t.is(JSON.parse(String((await as(USER, ['ps', '--json'])).stdout)).length, 0);
  t.is(JSON.parse(String((await as(OTHER, ['ps', '--json'])).stdout)).length, 1);
  t.regex(String((await kiln(['ps'])).stdout), new RegExp(`\\bkept +user ${OTHER.uid}\\b`));
  succeeds(t, await kiln(['kill', '--all']));
});

const REFUSED: readonly (readonly [string, readonly string[], RegExp])[] = [
  [
    'the host’s network',
    ['--network', 'host', '--allow-host-network'],
    /--network host is not for users/,
  ],
  ['that network by itself', ['--network', 'host'], /--network host is not for users/],
  ['a libvirt network', ['--network', 'default'], /users\.networks/],
  ['the disk without a bound', ['--on-disk'], /--on-disk is not for users/],
  [
    'a port of root’s',
    ['--publish', '80:80'],
    /--publish 80:80 is not .*from 1024 on.*users\.publish/s,
  ],
  [
    'an address of this host',
    ['-p', '0.0.0.0:8080:80'],
    /--publish 0\.0\.0\.0:8080:80 is not for users/,
  ],
  [
    'many ports',
    Array.from({ length: 17 }, (_, nth) => ['-p', `${20000 + nth}:80`]).flat(),
    /16 ports at most/,
  ],
  ['a capability', ['--cap-add', 'NET_ADMIN'], /--cap-add .*NET_ADMIN.*users\.capabilities/s],
  [
    'a profile of one’s own',
    ['--seccomp', './x.json'],
    /--seccomp.*hint: users have the profiles default/s,
  ],
  ['nested sandboxes', ['--profile', 'nested'], /--profile/],
  ['a label', ['--label', 'none'], /--label/],
  ['a missing layer', ['--allow-missing', 'landlock'], /--allow-missing/],
  ['a writable bind of the host', ['--allow-host-write'], /--allow-host-write/],
  [
    'a writable bind, which no user confirms',
    ['--bind', '/etc:/b'],
    /not bound writable(?!.*--allow-host-write)/s,
  ],
  ['a bind of the kernel’s', ['--bind', '/proc:/p:ro'], /cannot bind \/proc: it lies in \/proc or/],
  ['a host to reach', ['--egress', 'example.org'], /--egress example\.org is .*users\.egress/s],
  [
    'more memory than there is for users',
    ['--memory', '100000G'],
    /--memory 100000G is .*users\.limits\.memory/s,
  ],
  ['a sandbox kept for ever', ['--keep=9999h'], /--keep 9999h is .*users\.limits\.keep/s],
  ['a lock', ['-r', './x.json'], /the image \.\/x\.json is not for users/],
  ['a recipe without its ending', ['-r', 'recipes/x'], /the image recipes\/x is not for users/],
];

for (const [what, options, expected] of REFUSED) {
  test.serial(`refused by name: ${what}`, async (t) => {
    const refused = await t.context.as(USER, ['run', ...IMAGE, ...options, '--', 'true']);
    t.is(refused.exitCode, 125);
    t.regex(String(refused.stderr), expected);
  });
}

test.serial('an error names a file as its user does', async (t) => {
  const { as, home } = t.context;
  symlinkSync('/etc/shadow', join(home, 'link'));
  const copied = await as(USER, ['run', ...IMAGE, '--copy-in', 'link:/x', '--', 'true']);
  t.is(copied.exitCode, 125);
  t.regex(String(copied.stderr), /you cannot use \S+\/link: EACCES: permission denied, open it \[/);
  t.notRegex(String(copied.stderr), /\/proc\//);
  const built = await as(USER, ['build', '']);
  t.regex(String(built.stderr), /^kiln: a path is empty \[/);
});

for (const argv of [
  ['service', 'list'],
  ['park'],
  ['gc', '--max-size', '1'],
  ['image', 'rm', 'busybox'],
]) {
  test.serial(`only root can use: kiln ${argv.join(' ')}`, async (t) => {
    const refused = await t.context.as(USER, argv);
    t.is(refused.exitCode, 125);
    t.regex(String(refused.stderr), /not for users/);
    t.true(existsSync(t.context.paths.images));
  });
}
