/**
 * What a user who may use kiln tries in order to have more than that: docs/security.md lists them. Each must fail
 * to do harm, which is looked at from outside, as root.
 */
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createConnection } from 'node:net';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { attempt } from '../../src/host/calls/libc.ts';
import { ProcessCgroups } from '../../src/host/cgroup/cgroup-files.ts';
import { workGroup } from '../../src/host/cgroup/work-group.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { daemonPid, workersFor, workersOf } from '../support/daemon.ts';
import { eventually, until } from '../support/eventually.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';
import {
  GROUP,
  labelForBinds,
  leftOfJobs,
  OTHER,
  USER,
  type UserState,
  userState,
  writeConfig,
} from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;
const RUN = ['run', '-r', 'busybox'];
const ROOT = [...RUN, '--user', 'root'];
const MARK = 'nobody-but-root';
const LIMITS = '  limits: { sandboxes: 2, memory: 128M, pids: 100, disk: 64M }\n';

/** Files of root's and of another user's, which the user reaches and may not read. */
interface Loot {
  readonly folder: string;
  readonly file: string;
  readonly others: string;
}

function loot({ beside }: UserState): Loot {
  const folder = join(beside, 'loot');
  return { folder, file: join(folder, 'root'), others: join(folder, 'others') };
}

test.before(async (t) => {
  t.context = await userState(LIMITS);
  const { folder, file, others } = loot(t.context);
  mkdirSync(folder);
  labelForBinds(folder);
  writeFileSync(file, MARK, { mode: 0o600 });
  mkdirSync(others);
  writeFileSync(join(others, 'file'), MARK, { mode: 0o600 });
  chownSync(join(others, 'file'), OTHER.uid, OTHER.gid);
  chownSync(others, OTHER.uid, OTHER.gid);
  mkdirSync(join(folder, 'closed'), { mode: 0o700 });
  writeFileSync(join(folder, 'closed/readable'), MARK, { mode: 0o644 });
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

/** All that a call said. */
async function said(call: ReturnType<UserState['as']>): Promise<string> {
  const { stdout, stderr } = await call;
  return `${stdout}\n${stderr}`;
}

test.serial('root of a sandbox cannot read others’ files through a bind', async (t) => {
  const { folder } = loot(t.context);
  const script =
    'cat /b/root; cat /b/others/file; cat /b/closed/readable; chmod 666 /b/root; chown 0 /b/root';
  t.notRegex(
    await said(
      t.context.as(USER, [...ROOT, '--bind', `${folder}:/b:ro`, '--', 'sh', '-c', script]),
    ),
    /nobody-but-root/,
  );
  for (const path of ['root', 'others/file', 'closed/readable']) {
    const argv = [...ROOT, '--bind', `${join(folder, path)}:/b:ro`, '--', 'cat', '/b'];
    t.notRegex(await said(t.context.as(USER, argv)), /nobody-but-root/, path);
  }
});

test.serial('root of a sandbox cannot write others’ files through a bind', async (t) => {
  const { folder, file } = loot(t.context);
  const script =
    'echo x >>/b/root; rm -f /b/root; mv /b/others /b/x; touch /b/new; chmod 777 /b; chown 0 /b; mknod /b/n c 1 1';
  await t.context.as(USER, [...ROOT, '--bind', `${folder}:/b`, '--', 'sh', '-c', script]);
  t.is(readFileSync(file, 'utf8'), MARK);
  t.deepEqual(readdirSync(folder).sort(), ['closed', 'others', 'root']);
  t.is(statSync(folder).mode & 0o777, 0o755);
});

test.serial(
  'others’ files cannot be read by copy-in, secret, package, spec, sources or key',
  async (t) => {
    const { file, others, folder } = loot(t.context);
    const closed = join(folder, 'closed/readable');
    for (const path of [file, join(others, 'file'), closed]) {
      for (const options of [
        [...RUN, '--copy-in', `${path}:/tmp/x`, '--', 'cat', '/tmp/x'],
        [...RUN, '--secret', `x=${path}`, '--', 'cat', '/run/secrets/x'],
        [...RUN, '--seccomp', path, '--', 'true'],
        ['run', '-r', path, '--', 'true'],
        ['build', '-r', 'busybox', `${path}.src.rpm`],
        ['build', '-r', 'busybox', '--spec', path],
        ['build', '-r', 'busybox', '--spec', '/dev/null', '--sources', path],
        ['build', '-r', 'busybox', '--sign-key', path, 'x.src.rpm'],
        ['build', path],
        ['image', 'build', path],
        ['image', 'show', path],
      ]) {
        const result = await t.context.as(USER, options);
        t.not(result.exitCode, 0, options.join(' '));
        t.notRegex(`${result.stdout}${result.stderr}`, /nobody-but-root/, options.join(' '));
      }
    }
  },
);

test.serial('a link among copied-in files leads only to files of the sandbox', async (t) => {
  const { home, as } = t.context;
  const { file } = loot(t.context);
  const folder = join(home, 'links');
  mkdirSync(folder);
  symlinkSync(file, join(folder, 'file'));
  symlinkSync('/etc/shadow', join(folder, 'shadow'));
  chownSync(folder, USER.uid, USER.gid);
  const argv = ['--copy-in', 'links:/tmp/', '--', 'sh', '-c', 'cat /tmp/links/*'];
  t.notRegex(await said(as(USER, [...RUN, ...argv])), /nobody-but-root|root:/);
});

test.serial(
  'a path swapped between an own file and another’s gives the own file, or none',
  async (t) => {
    const { home, as } = t.context;
    const { file } = loot(t.context);
    const path = join(home, 'swapped');
    let over = false;
    const swapping = (async () => {
      for (let count = 0; !over; count++) {
        const fresh = `${path}.${count % 2}`;
        rmSync(fresh, { force: true });
        if (count % 2 === 0) symlinkSync(file, fresh);
        else {
          writeFileSync(fresh, 'mine');
          chownSync(fresh, USER.uid, USER.gid);
        }
        renameSync(fresh, path);
        await sleep(1);
      }
    })();
    for (let tries = 0; tries < 8; tries++) {
      const argv = [
        '--secret',
        'x=swapped',
        '--copy-in',
        'swapped:/tmp/x',
        '--',
        'cat',
        '/run/secrets/x',
        '/tmp/x',
      ];
      t.notRegex(await said(as(USER, [...RUN, ...argv])), /nobody-but-root/);
    }
    over = true;
    await swapping;
  },
);

test.serial(
  'links swapped in a kept sandbox during copy-in lead to no file of the host',
  async (t) => {
    const { as, kiln, home } = t.context;
    const { folder, file, others } = loot(t.context);
    const tree = join(home, 'tree');
    // Named as those that links lead to.
    for (const path of ['', 'others', 'closed']) mkdirSync(join(tree, path), { mode: 0o777 });
    for (const path of ['root', 'others/file', 'closed/readable']) {
      writeFileSync(join(tree, path), 'swapped', { mode: 0o666 });
    }
    await t.context.run({ uid: 0, gid: 0 }, ['chown', '-R', `${USER.uid}`, tree], { groups: [] });
    const bind = ['--bind', `${folder}:/loot`];
    const kept = await as(USER, [...ROOT, ...bind, '--keep', '--', 'true']);
    const [, id = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
    const places = [folder, '/loot', `/proc/1/root${folder}`, `../../../../../../..${folder}`];
    const swap = `while :; do for to in ${places.join(' ')}; do rm -rf /tmp/d; ln -s $to /tmp/d; done
      rm -f /tmp/d; mkdir /tmp/d; mkdir /tmp/d/others; done`;
    const begun = await as(USER, ['exec', id, 'sh', '-c', `(${swap}) >/dev/null 2>&1 &`]);
    t.is(begun.exitCode, 0, String(begun.stderr));
    for (let tries = 0; tries < 8; tries++) {
      const copies = ['--copy-in', 'tree/.:/tmp/d', '--copy-in', 'tree/root:/tmp/d/others/file'];
      await as(USER, ['exec', ...copies, id, 'true']);
    }
    t.regex(await said(as(USER, ['exec', id, 'ps'])), /while :/, 'it goes on');
    await kiln(['kill', id]);
    t.deepEqual(readdirSync(folder).sort(), ['closed', 'others', 'root']);
    t.deepEqual(readdirSync(others), ['file']);
    for (const path of [file, join(others, 'file'), join(folder, 'closed/readable')]) {
      t.is(readFileSync(path, 'utf8'), MARK);
    }
    const modes = [folder, others, join(folder, 'closed'), file, join(others, 'file')];
    t.deepEqual(
      modes.map((path) => statSync(path).mode & 0o777),
      [0o755, 0o755, 0o700, 0o600, 0o600],
    );
  },
);

test.serial('another user’s link in a kept sandbox cannot redirect a copy', async (t) => {
  const { as, home } = t.context;
  writeFileSync(join(home, 'copied'), 'copied', { mode: 0o644 });
  const make = 'mkdir -p /srv; ln -s /srv /tmp/roots';
  const kept = await as(USER, [...ROOT, '--keep', '--', 'sh', '-c', make]);
  const [, id = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
  const exec = (user: string, ...words: readonly string[]) =>
    as(USER, ['exec', '--user', user, ...words]);
  const script = 'ln -s /etc /tmp/d; mkdir /tmp/e; ln -s /etc/passwd /tmp/e/copied';
  t.is((await exec('1000', id, '--', 'sh', '-c', script)).exitCode, 0);
  for (const target of ['/tmp/d/', '/tmp/d/new/', '/tmp/d', '/tmp/e/copied']) {
    const copied = await exec('root', '--copy-in', `copied:${target}`, id, '--', 'true');
    t.is(copied.exitCode, 125, target);
    t.regex(String(copied.stderr), /a symbolic link of another user/, target);
  }
  const copies = ['/tmp/roots/', '/tmp/roots/x/'].flatMap((to) => ['--copy-in', `copied:${to}`]);
  const byRoot = await exec('root', ...copies, id, '--', 'cat', '/srv/copied', '/srv/x/copied');
  t.is(String(byRoot.stdout), 'copiedcopied', String(byRoot.stderr));
  t.not((await exec('root', id, '--', 'ls', '/etc/copied')).exitCode, 0);
  const own = await as(USER, [...RUN, '--keep', '--', 'ln', '-s', '/tmp', '/tmp/own']);
  const [, second = ''] = /kept as (\w+)/.exec(String(own.stderr)) ?? [];
  const argv = ['exec', '--copy-in', 'copied:/tmp/own/', second, '--', 'cat', '/tmp/copied'];
  const byOwner = await as(USER, argv);
  t.is(String(byOwner.stdout), 'copied', String(byOwner.stderr));
  t.is((await as(USER, ['kill', '--all'])).exitCode, 0);
});

test.serial('results can only be written where the user could write', async (t) => {
  const { home, as } = t.context;
  const { folder, others } = loot(t.context);
  const write = (where: string) =>
    as(USER, [
      ...RUN,
      '--workdir',
      '/tmp',
      '--artifact',
      'd',
      '--resultdir',
      where,
      '--',
      'sh',
      '-c',
      'mkdir d; echo x >d/x',
    ]);
  for (const where of [
    folder,
    others,
    join(folder, 'closed'),
    join(folder, 'new'),
    '/etc/kiln-test',
    '/',
  ]) {
    const result = await write(where);
    t.is(result.exitCode, 125, where);
  }
  t.deepEqual(readdirSync(folder).sort(), ['closed', 'others', 'root']);
  t.deepEqual(readdirSync(others), ['file']);
  t.false(existsSync('/result.json'));
  // Folders of the results that are links, there already.
  const out = join(home, 'out');
  mkdirSync(out);
  symlinkSync(others, join(out, 'd'));
  symlinkSync(join(others, 'file'), join(out, 'result.json'));
  chownSync(out, USER.uid, USER.gid);
  await write('out');
  t.deepEqual(readdirSync(others), ['file']);
  t.is(readFileSync(join(others, 'file'), 'utf8'), MARK);
  // The folder itself.
  symlinkSync(others, join(home, 'away'));
  t.is((await write('away')).exitCode, 125);
  t.deepEqual(readdirSync(others), ['file']);
});

test.serial('image export writes where the user may, and replaces no link’s target', async (t) => {
  const { as, home } = t.context;
  const { folder, file } = loot(t.context);
  t.not((await as(USER, ['image', 'export', 'busybox', '-o', join(folder, 'x.tar')])).exitCode, 0);
  for (const place of ['..', '.', '/'])
    t.is((await as(USER, ['image', 'export', 'busybox', '-o', place])).exitCode, 125, place);
  symlinkSync(file, join(home, 'image.tar'));
  const done = await as(USER, ['image', 'export', 'busybox', '-o', 'image.tar']);
  t.is(done.exitCode, 0, String(done.stderr));
  t.is(statSync(join(home, 'image.tar')).uid, USER.uid);
  t.is(readFileSync(file, 'utf8'), MARK);
});

test.serial('no set-id file can be made, by a bind or as an artifact', async (t) => {
  const { home, as } = t.context;
  const script = 'cp /bin/busybox /b/s; chmod 6755 /b/s; cp /bin/busybox /tmp/s; chmod 6755 /tmp/s';
  const argv = [
    '--bind',
    '.:/b',
    '--workdir',
    '/tmp',
    '--artifact',
    's',
    '--resultdir',
    'ids',
    '--',
    'sh',
    '-c',
    script,
  ];
  await as(USER, [...ROOT, ...argv]);
  for (const path of ['s', 'ids/s']) {
    const { mode } = statSync(join(home, path), { throwIfNoEntry: false }) ?? { mode: 0 };
    t.is(mode & 0o6000, 0, path);
  }
});

test.serial(
  'devices, /proc and descriptors of the daemon can be neither bound nor copied',
  async (t) => {
    const { as, paths } = t.context;
    const pid = daemonPid(paths.root);
    for (const path of [
      '/dev/null',
      '/dev',
      '/proc',
      '/proc/1',
      `/proc/${pid}/fd`,
      `/proc/${pid}/root`,
      '/sys/kernel',
    ]) {
      const bound = await as(USER, [...ROOT, '--bind', `${path}:/b:ro`, '--', 'ls', '/b']);
      t.not(bound.exitCode, 0, path);
    }
    for (const path of [
      `/proc/${pid}/fd/3`,
      `/proc/${pid}/environ`,
      `/proc/${pid}/maps`,
      '/proc/self/status',
      '/dev/zero',
    ]) {
      const copied = await as(USER, [
        ...RUN,
        '--secret',
        `x=${path}`,
        '--',
        'cat',
        '/run/secrets/x',
      ]);
      t.is(copied.exitCode, 125, path);
    }
  },
);

test.serial('the state folder, its jobs and its sockets are closed', async (t) => {
  const { as, run, paths } = t.context;
  const argv = [
    ...ROOT,
    '--bind',
    `${paths.root}:/b:ro`,
    '--',
    'sh',
    '-c',
    'ls -R /b/jobs /b/services; cat /b/kilnd.log; cat /b/*/*.json',
  ];
  t.notRegex(await said(as(USER, argv)), /[0-9a-f]{8}-[0-9a-f]{4}|^\{/m);
  const listed = await run(USER, [
    'sh',
    '-c',
    `ls ${paths.root}/jobs ${paths.sandboxes}/* ${paths.libvirt}`,
  ]);
  t.not(listed.exitCode, 0);
});

test.serial('a sandbox cannot reach kilnd’s socket', async (t) => {
  const { as, paths } = t.context;
  const argv = [
    ...ROOT,
    '--bind',
    `${paths.root}:/b:ro`,
    '--',
    'sh',
    '-c',
    'test -S /b/io.kiln && nc -U /b/io.kiln </dev/null',
  ];
  t.not((await as(USER, argv)).exitCode, 0);
});

test.serial('a user cannot set variables that steer kiln, Node or the loader', async (t) => {
  const { as, paths, home, config } = t.context;
  const env = {
    PATH: process.env.PATH,
    KILN_STATE: paths.root,
    KILN_CONFIG: join(home, 'own.yaml'),
    KILN_TRACE: '/etc/kiln-test-trace',
    KILN_URI: 'lxc:///system',
    KILN_ALLOW_MISSING: 'landlock,seccomp,memory-limit',
    KILN_FIXTURES: home,
    NODE_OPTIONS: `--require ${join(home, 'evil.cjs')}`,
    LD_PRELOAD: join(home, 'evil.so'),
    SUDO_UID: '0',
    SUDO_GID: '0',
    TMPDIR: home,
    HOME: home,
  };
  writeFileSync(join(home, 'own.yaml'), `users: { group: ${GROUP}, egress: ['*.org'] }\n`);
  writeFileSync(join(home, 'evil.cjs'), `require('fs').writeFileSync('/etc/kiln-test-evil', '')`);
  const done = await as(USER, [...RUN, '--', 'id', '-u'], { env });
  t.is(String(done.stdout), '1000', String(done.stderr));
  const refused = await as(USER, [...RUN, '--egress', 'example.org', '--', 'true'], { env });
  t.is(refused.exitCode, 125);
  // The daemon removes a sandbox after it has told the caller.
  const listed = async () => String((await as(USER, ['ps', '--json'], { env })).stdout).trim();
  t.true(await eventually(async () => (await listed()) === '[]'));
  const in_worker = await as(USER, [...RUN, '--copy-in', `${config}:/tmp/x`, '--', 'true'], {
    env,
  });
  t.is(in_worker.exitCode, 0, String(in_worker.stderr));
  for (const path of ['/etc/kiln-test-trace', '/etc/kiln-test-evil'])
    t.false(existsSync(path), path);
});

test.serial('a sandbox gets no more than its share of memory and processes', async (t) => {
  const { as } = t.context;
  const hog = await as(USER, [
    ...RUN,
    '--',
    'sh',
    '-c',
    'dd if=/dev/zero of=/tmp/x bs=1M count=100',
  ]);
  t.not(hog.exitCode, 0);
  const forks = await as(USER, [
    ...RUN,
    '--',
    'sh',
    '-c',
    'i=0; while [ $i -lt 70 ]; do sleep 60 & i=$((i+1)); done; wait',
  ]);
  t.regex(`${forks.stderr}`, /fork|processes/);
  const asked = await as(USER, [...RUN, '--memory', '100M', '--', 'true']);
  t.regex(String(asked.stderr), /users\.limits\.memory/);
});

test.serial('no file system of a sandbox holds more than its share of the disk', async (t) => {
  const { as, home } = t.context;
  for (const [options, why] of [
    [['--disk', '0'], /'--disk <size>'/],
    [['--disk', '0M'], /'--disk <size>'/],
    [['--disk', '65M'], /users\.limits\.disk/],
    [['--tmpfs', '/x:0'], /'--tmpfs /],
    [['--tmpfs', '/x:65M'], /--tmpfs \/x:65M is not.*\n.*users\.limits\.disk/],
  ] as const) {
    const refused = await as(USER, [...RUN, ...options, '--', 'df', '/tmp']);
    t.is(refused.exitCode, 125, options.join(' '));
    t.regex(String(refused.stderr), why, options.join(' '));
  }
  const sizes = ['sh', '-c', 'df -Pk / /tmp /dev/shm /x | awk "NR > 1 { print \\$2 }"'];
  const held = await as(USER, [...RUN, '--tmpfs', '/x', '--', ...sizes]);
  t.is(
    String(held.stdout),
    Array(4)
      .fill(64 << 10)
      .join('\n'),
    String(held.stderr),
  );
  // What a recipe asks for is not refused, but cut.
  const recipe = {
    image: 'busybox',
    sandbox: { disk: '1G', tmpfs: [{ target: '/x', size: '1G' }] },
    steps: [{ run: 'df -Pk /tmp /x' }],
  };
  writeFileSync(join(home, 'large.yaml'), JSON.stringify(recipe));
  const built = await as(USER, ['build', 'large.yaml', '--resultdir', 'large-results']);
  t.is(built.exitCode, 0, String(built.stderr));
  t.is([...`${built.stdout}${built.stderr}`.matchAll(/\b65536 +0 +65536 /g)].length, 2);
});

test.serial('copying in more than the limit is refused and leaves no file', async (t) => {
  const { as, home } = t.context;
  const big = join(home, 'big');
  writeFileSync(big, Buffer.alloc(65 << 20, 1));
  chownSync(big, USER.uid, USER.gid);
  const refused = await as(USER, [...RUN, '--copy-in', 'big:/tmp/x', '--', 'true']);
  t.is(refused.exitCode, 125);
  t.regex(String(refused.stderr), /more than 64\.0M would be copied/);
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('all copies of a call count together', async (t) => {
  const { as, home } = t.context;
  const half = join(home, 'half');
  writeFileSync(half, Buffer.alloc(40 << 20, 1));
  chownSync(half, USER.uid, USER.gid);
  const twice = ['--copy-in', 'half:/tmp/a', '--copy-in', 'half:/tmp/b'];
  const refused = await as(USER, [...RUN, ...twice, '--', 'true']);
  t.is(refused.exitCode, 125);
  t.regex(String(refused.stderr), /more than 64\.0M would be copied/);
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('artifacts from binds count against the limit', async (t) => {
  const { as, home } = t.context;
  const much = join(home, 'much');
  mkdirSync(much);
  for (const name of ['a', 'b']) writeFileSync(join(much, name), Buffer.alloc(40 << 20, 1));
  const argv = ['--bind', 'much:/b:ro', '--artifact', '/b/*', '--resultdir', 'too-much'];
  const refused = await as(USER, [...RUN, ...argv, '--', 'true']);
  t.not(refused.exitCode, 0);
  t.regex(String(refused.stderr), /than 64\.0M would be copied/);
  // Found while they were collected, not when they were there.
  t.regex(readFileSync(join(home, 'too-much/result.json'), 'utf8'), /E_ARTIFACT_LIMIT/);
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('no more sandboxes are kept than allowed, however many wait their turn', async (t) => {
  const { as } = t.context;
  const keep = [...RUN, '--keep=1h', '--', 'sleep', '1'];
  await Promise.all(Array.from({ length: 6 }, () => as(USER, keep)));
  // The daemon removes the others after it has told their callers.
  const listed = async () => JSON.parse(String((await as(USER, ['ps', '--json'])).stdout));
  t.true(await eventually(async () => (await listed()).length <= 2));
  t.is((await listed()).length, 2);
  t.is((await as(USER, ['kill', '--all'])).exitCode, 0);
  const chain = ['build', '--chain', '--continue', '--keep', '-r', 'busybox', 'a.src.rpm'];
  t.regex(String((await as(USER, chain)).stderr), /users\.limits\.keep/);
});

test.serial('a user cannot change labels of the host’s files', async (t) => {
  for (const how of ['z', 'ro,Z']) {
    const argv = [...RUN, '--bind', `/usr/share:/b:${how}`, '--', 'true'];
    const refused = await t.context.as(USER, argv);
    t.is(refused.exitCode, 125);
    t.regex(String(refused.stderr), /is not for users/);
  }
});

test.serial(
  'a command beyond the limit waits, says so, and can be interrupted; others do not wait',
  async (t) => {
    const { as, kiln } = t.context;
    const first = [0, 1].map(() => as(USER, [...RUN, '--', 'sh', '-c', 'echo up; sleep 600']));
    await Promise.all(first.map((one) => once(one.stdout!, 'data')));
    const third = as(USER, [...RUN, '--', 'true']);
    const fourth = as(USER, [...RUN, '--', 'true']);
    await Promise.all([third, fourth].map((one) => once(one.stderr!, 'data')));
    const other = await as(OTHER, [...RUN, '--', 'true']);
    t.is(other.exitCode, 0, String(other.stderr));
    t.is((await kiln([...RUN, '--', 'true'])).exitCode, 0);
    fourth.kill('SIGINT');
    t.not((await fourth).exitCode, 0);
    first[0]?.kill('SIGINT');
    const result = await third;
    t.is(result.exitCode, 0);
    t.regex(String(result.stderr), /waiting until one of your 2 sandboxes ends/);
    first[1]?.kill('SIGINT');
    for (const one of first) t.is((await one).exitCode, 130);
  },
);

const build = readFileSync(join(import.meta.dirname, '../../dist/build-id'), 'utf8').trim();

/** What commands of the hostile client sleep. */
const SECONDS = ownSeconds();

function hostile({ run, paths }: UserState, what: string, input?: 'pipe') {
  // As text: a checkout may lie where users cannot go.
  const script = readFileSync(join(import.meta.dirname, 'hostile-client.py'), 'utf8');
  const socket = join(paths.root, 'io.kiln');
  return run(
    USER,
    ['/usr/bin/python3', '-c', script, socket, build, what, SECONDS],
    input === undefined ? {} : { stdin: input },
  );
}

/** The same daemon still serves, with as many descriptors as before. */
async function unharmed(t: ExecutionContext<UserState>, act: () => Promise<unknown>) {
  const { paths, kiln } = t.context;
  const pid = daemonPid(paths.root);
  // Each worker is one of them, and kilnd has as many as were needed at once.
  const descriptors = () =>
    readdirSync(`/proc/${pid}/fd`).length - workersOf(t.context.paths.root).length;
  // A parked sandbox has some, too: it is there before, and another one in its place afterwards.
  const hasParked = () =>
    readdirSync(`/proc/${pid}/fd`).some(
      (fd) =>
        attempt(() => readlinkSync(`/proc/${pid}/fd/${fd}`))?.endsWith('/owner.lock') === true,
    );
  t.true(await until(hasParked));
  const before = descriptors();
  await act();
  t.is((await kiln(['ps'])).exitCode, 0);
  t.is(daemonPid(paths.root), pid);
  const are = () => `${descriptors()} descriptors, ${before} before`;
  t.true(await until(() => descriptors() <= before + 2), are());
}

test.serial('the daemon does not keep descriptors that it did not ask for', async (t) => {
  await unharmed(t, async () => {
    const done = await hostile(t.context, 'descriptors');
    t.notRegex(String(done.stdout), /ID +STATE/);
    await hostile(t.context, 'unasked');
  });
});

/** What becomes of root's call while a client holds on to what it has sent. */
async function whileHeld(
  t: ExecutionContext<UserState>,
  what: string,
  act: () => Promise<unknown>,
): Promise<void> {
  await unharmed(t, async () => {
    const holding = hostile(t.context, what, 'pipe');
    const said = await new Promise<string>((resolve) => {
      holding.stdout?.once('data', (data: Buffer) => resolve(String(data)));
      holding.then(({ stderr }) => resolve(String(stderr)));
    });
    t.regex(said, /^sent/);
    await act();
    holding.stdin?.end();
    await holding;
  });
}

test.serial('sockets that block whoever closes them last do not hold up the daemon', async (t) => {
  await whileHeld(t, 'lingering', async () => {
    const began = performance.now();
    t.is((await t.context.kiln([...RUN, '--', 'true'])).exitCode, 0);
    const took = performance.now() - began;
    t.true(took < 20_000 * PATIENCE, `${took} ms`);
  });
});

test.serial('an endless command line does not hold up the daemon', async (t) => {
  await whileHeld(t, 'words', async () => {
    const began = performance.now();
    t.is((await t.context.kiln(['ps'])).exitCode, 0);
    const took = performance.now() - began;
    t.true(took < 8000 * PATIENCE, `${took} ms`);
  });
});

test.serial('a user’s job cannot take the name of a sandbox that root wants to end', async (t) => {
  const { as, kiln } = t.context;
  const kept = await as(USER, [...RUN, '--keep=5m', '--', 'true']);
  t.is(kept.exitCode, 0, String(kept.stderr));
  const [, id = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
  t.not(id, '');
  const called = (name: string) => [...RUN, '--detach', '--name', name, '--', 'sleep', '1000'];
  const taken = await as(USER, called(id));
  t.regex(String(taken.stderr), /looks like an id/);
  const job = await as(USER, called('nightly'));
  t.is(job.exitCode, 0, String(job.stderr));
  t.is((await kiln(['kill', 'nightly'])).exitCode, 125);
  const jobs = JSON.parse(String((await as(USER, ['ps', '--jobs', '--json'])).stdout));
  t.is(jobs.find((one: { name?: string }) => one.name === 'nightly')?.state, 'running');
  t.is((await as(USER, ['kill', '--all'])).exitCode, 0);
});

test.serial('copies that would fill root’s disk are refused', async (t) => {
  const { as, home, paths } = t.context;
  const jobs = join(paths.root, 'jobs');
  mkdirSync(jobs, { recursive: true, mode: 0o700 });
  await execa('mount', ['-t', 'tmpfs', '-o', 'size=40M,mode=700', 'kiln-test', jobs]);
  t.teardown(async () => void (await execa('umount', ['--lazy', jobs])));
  writeFileSync(join(home, 'most'), Buffer.alloc(39 << 20));
  t.teardown(() => rmSync(join(home, 'most')));
  const copied = await as(USER, [...RUN, '--copy-in', 'most:/tmp/most', '--', 'true']);
  t.regex(String(copied.stderr), /nearly full/);
  const artifact = [
    '--bind',
    '.:/b:ro',
    '--workdir',
    '/b',
    '--artifact',
    'most',
    '--resultdir',
    'out',
  ];
  const collected = await as(USER, [...RUN, ...artifact, '--', 'true']);
  t.regex(String(collected.stderr), /nearly full/);
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('kept job results count against the quota even if all files are empty', async (t) => {
  const { as, config } = t.context;
  writeConfig(config, '  limits: { sandboxes: 2, memory: 128M, pids: 100, disk: 4M }\n');
  t.teardown(async () => {
    writeConfig(config, LIMITS);
    await as(USER, ['gc']);
  });
  const script = 'mkdir /tmp/o && cd /tmp/o && seq 300 | while read n; do : >$n; done';
  const job = [
    ...RUN,
    '--detach',
    '--workdir',
    '/tmp',
    '--artifact',
    'o',
    '--',
    'sh',
    '-c',
    script,
  ];
  const first = await as(USER, job);
  t.is(first.exitCode, 0, String(first.stderr));
  t.is((await as(USER, ['wait', String(first.stdout).trim()])).exitCode, 0);
  t.regex(String((await as(USER, job)).stderr), /as large as your share/);
});

test.serial('a call with too many words, variables or values is not read', async (t) => {
  await unharmed(t, async () => {
    const said = String((await hostile(t.context, 'variables')).stdout);
    t.is(said.match(/250\d{3} arguments or variables are more than/g)?.length, 2, said);
    t.regex(String((await hostile(t.context, 'values')).stdout), /InvalidParameter/);
  });
});

test.serial('a message that arrives byte by byte is not copied for each byte', async (t) => {
  // proc_pid_stat(5): ticks, of 10 ms, that the daemon has worked.
  const worked = () => {
    const stat = readFileSync(`/proc/${daemonPid(t.context.paths.root)}/stat`, 'utf8');
    const [user, system] = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .slice(11, 13);
    return Number(user) + Number(system);
  };
  const costs = async (what: string) => {
    const before = worked();
    const done = await hostile(t.context, what);
    t.is(done.exitCode, 0, String(done.stderr));
    return worked() - before;
  };
  const pid = daemonPid(t.context.paths.root);
  const [short, long] = [await costs('drips'), await costs('long drips')];
  t.is(daemonPid(t.context.paths.root), pid);
  // If each byte copied them: 20 GB, some twenty times as long. On an emulated host it was four to six times.
  t.true(long < 50 + 10 * short, `${long} ticks, and ${short} for short ones`);
  t.log(`${long} ticks, and ${short} for short ones`);
});

test.serial('kilnd looks up a list of sandboxes to kill once', async (t) => {
  const { as, paths } = t.context;
  for (const _ of [1, 2]) {
    const kept = await as(USER, [...RUN, '--keep=5m', '--', 'true']);
    t.is(kept.exitCode, 0, String(kept.stderr));
  }
  // proc_pid_io(5): how often the daemon has read.
  const reads = () => {
    const io = readFileSync(`/proc/${daemonPid(paths.root)}/io`, 'utf8');
    return Number(/syscr: (\d+)/.exec(io)?.[1]);
  };
  const readsFor = async (names: number) => {
    const before = reads();
    const list = Array.from({ length: names }, (_, index) => `x${index}`);
    const done = await as(USER, ['kill', ...list]);
    t.regex(String(done.stderr), /no sandbox x0/);
    return reads() - before;
  };
  // A slow machine's daemon reads meanwhile, for whatever it waits for: the records of two sandboxes, 900 times, are more.
  const [one, many] = [await readsFor(1), await readsFor(900)];
  t.true(many - one < 1800, `${one} reads for one name, ${many} for 900`);
  t.is((await as(USER, ['kill', '--all'])).exitCode, 0);
});

/** Groups that kiln has made, where those with limits of memory are. */
function kilnGroups(): string[] {
  const v1 = '/sys/fs/cgroup/memory';
  const top = join(existsSync(`${v1}/cgroup.procs`) ? v1 : '/sys/fs/cgroup', 'kiln');
  return existsSync(top) ? readdirSync(top) : [];
}

test.serial('commands whose output is not read do not use up the workers', async (t) => {
  await whileHeld(t, 'unread', async () => {
    // Two of the user's, and one that waits.
    t.true(workersOf(t.context.paths.root).length <= 3, String(workersOf(t.context.paths.root)));
    t.is((await t.context.kiln(['image', 'ls'])).exitCode, 0);
    const own = await t.context.as(USER, ['ps']);
    t.is(own.exitCode, 0, String(own.stderr));
  });
});

test.serial('kilnd’s work for a user is limited by the user’s own memory', async (t) => {
  const { as, kiln, paths, home } = t.context;
  const daemon = daemonPid(paths.root);
  const group = workGroup(paths, USER.uid);
  const isGone = () => !kilnGroups().includes(group);
  // The worker that waits for this user would do its job with what is left of its memory.
  t.is((await as(OTHER, ['image', 'ls'])).exitCode, 0);
  t.true(await until(isGone));
  const script = 'echo up; read x; mkdir o; cd o; seq 3000 | while read n; do echo $n >$n; done';
  const results = ['--workdir', '/tmp', '--artifact', 'o', '--resultdir', 'killed'];
  const job = as(USER, [...RUN, ...results, '--', 'sh', '-c', script], { stdin: 'pipe' });
  await once(job.stdout!, 'data');
  const [worker = 0] = workersFor(paths, USER.uid);
  t.true(worker > 0, 'it is in a group of the user’s');
  const groups = ProcessCgroups.of(worker);
  const { memory } = groups.limits('');
  t.is(memory, Math.min(2 ** 31, 4096 * Math.floor(totalmem() / 8192)));
  // All that it has: what it needs for the results is too much. The kernel takes no limit below what is in use, and
  // that may grow between the look and the limit.
  const takes = () => {
    groups.limit(worker, '', { memory: groups.memoryBytes() ?? 0 });
    return true;
  };
  t.true(await until(() => attempt(takes) ?? false));
  job.stdin?.end('\n');
  const ended = await job;
  t.is(ended.exitCode, 125);
  t.regex(String(ended.stderr), /memory limit of what kiln does for you was reached/);
  t.is(daemonPid(paths.root), daemon);
  t.is((await kiln([...RUN, '--', 'true'])).exitCode, 0);
  t.false(existsSync(join(home, 'killed/result.json')));
  t.deepEqual(await leftOfJobs(t.context), []);
  t.true(await until(isGone));
  const again = await as(USER, [...RUN, ...results, '--', 'mkdir', 'o']);
  t.is(again.exitCode, 0, String(again.stderr));
});

/** What the daemon's thread works, ms, until it has answered many short calls of root's, each in a turn of its own. */
async function worksForRoot({ paths }: UserState): Promise<number> {
  const pid = daemonPid(paths.root);
  // proc_pid_schedstat(5): the first number is nanoseconds on a processor.
  const worked = () =>
    Number(readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
  let left = 200;
  const connection = createConnection(join(paths.root, 'io.kiln'));
  await once(connection, 'connect');
  const before = worked();
  connection.write('{"method":"io.kiln.GetVersion"}\0'.repeat(left));
  for await (const piece of connection) {
    left -= String(piece).split('\0').length - 1;
    if (left === 0) break;
  }
  return worked() - before;
}

for (const what of ['calls', 'lines', 'signals', 'output']) {
  test.serial(`${what} at full speed get only a share of the daemon’s thread`, async (t) => {
    const least = async () => {
      const works = [];
      for (let tries = 0; tries < 5; tries++) works.push(await worksForRoot(t.context));
      return Math.min(...works);
    };
    // By what it works without them, since machines differ: about 10 ms, and two seconds with them unbounded.
    const alone = await least();
    await whileHeld(t, what, async () => {
      const works = await least();
      t.log(works, alone);
      t.true(works < 8 * alone, `${works} ms, alone ${alone}`);
    });
  });
}

test.serial('a client that ends before it was read takes its sandbox with it', async (t) => {
  const daemon = Number(daemonPid(t.context.paths.root));
  await whileHeld(t, 'deaf', async () => {
    t.true(await until(() => processesCalled('sleep', SECONDS).length > 0));
    // So that all of it has come when kilnd reads again.
    process.kill(daemon, 'SIGSTOP');
    setTimeout(() => process.kill(daemon, 'SIGCONT'), 1000);
  });
  t.true(await until(() => processesCalled('sleep', SECONDS).length === 0));
});

test.serial('endless questions whose answers nobody reads take no memory', async (t) => {
  const memory = () => {
    const status = readFileSync(`/proc/${daemonPid(t.context.paths.root)}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) * 1024;
  };
  const before = memory();
  await whileHeld(t, 'asks', async () => {
    const more = memory() - before;
    t.true(more < 128 << 20, `${more} bytes`);
  });
});

test.serial('a signal for a command whose sandbox is just ending is harmless', async (t) => {
  const { paths, kiln } = t.context;
  const daemon = daemonPid(paths.root) ?? 0;
  const client = hostile(t.context, 'late-signal', 'pipe');
  const next = async () =>
    await new Promise<string>((resolve) => {
      client.stdout?.once('data', (data: Buffer) => resolve(String(data)));
    });
  t.is(await next(), 'started\n');
  t.true(await until(() => processesCalled('sleep', SECONDS).length > 0));
  const [command = 0] = processesCalled('sleep', SECONDS);
  const [, init] = /^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${command}/status`, 'utf8')) ?? [];
  t.true(Number(init) > 1);
  // The daemon reads of the signal first, and when it passes that on, nobody is there.
  process.kill(daemon, 'SIGSTOP');
  try {
    client.stdin?.write('now\n');
    t.is(await next(), 'sent\n');
    process.kill(Number(init), 'SIGKILL');
    t.true(await until(() => processesCalled('sleep', SECONDS).length === 0));
  } finally {
    process.kill(daemon, 'SIGCONT');
  }
  client.stdin?.end();
  await client;
  t.is((await kiln(['ps'])).exitCode, 0);
  t.is(daemonPid(paths.root), daemon);
});

test.serial('a client cannot answer with another file than it was asked for', async (t) => {
  await unharmed(t, async () => {
    const done = await hostile(t.context, 'wrong-file');
    t.is(done.exitCode, 0, String(done.stderr));
    t.is(
      String(done.stdout).match(/not a regular file|cannot use/g)?.length,
      5,
      String(done.stdout),
    );
  });
});

test.serial('hundreds of connections, endless messages and other builds do no harm', async (t) => {
  await unharmed(t, async () => {
    const many = hostile(t.context, 'connections', 'pipe');
    const [line] = await new Promise<string[]>((resolve) => {
      many.stdout?.once('data', (data: Buffer) => resolve(String(data).split('\n')));
    });
    t.true(Number(line) <= 64, line);
    t.is((await t.context.kiln([...RUN, '--', 'true'])).exitCode, 0);
    const other = await t.context.as(OTHER, [...RUN, '--', 'true']);
    t.is(other.exitCode, 0, String(other.stderr));
    many.stdin?.end();
    await many;
    await hostile(t.context, 'long');
    t.regex(String((await hostile(t.context, 'other-build')).stdout), /OtherBuild/);
  });
});

test.serial(
  'a file freed from its folder’s protection by a descriptor is still bound as the user',
  async (t) => {
    const { as, home } = t.context;
    const closed = join(home, 'later-closed');
    mkdirSync(closed);
    writeFileSync(join(closed, 'x'), MARK);
    chmodSync(join(closed, 'x'), 0o600);
    chmodSync(closed, 0o755);
    t.notRegex(
      await said(as(USER, [...ROOT, '--bind', 'later-closed/x:/b:ro', '--', 'cat', '/b'])),
      /nobody-but-root/,
    );
  },
);

test.serial('names tell nothing of others’ sandboxes, and lead to none', async (t) => {
  const { as, kiln } = t.context;
  const roots = await kiln([...RUN, '--name', 'roots', '--keep', '--', 'true']);
  const [, id = ''] = /kept as (\w+)/.exec(String(roots.stderr)) ?? [];
  t.not(id, '', String(roots.stderr));
  const taken = await as(USER, [...RUN, '--name', 'roots', '--', 'true']);
  t.is(taken.exitCode, 125);
  t.regex(String(taken.stderr), /the name roots is taken by somebody \[E_JOB_NAME\]/);
  t.false(String(taken.stderr).includes(id));
  t.notRegex(String(taken.stderr), /root\b(?!s)/);
  for (const words of [
    ['exec', 'roots', '--', 'true'],
    ['kill', 'roots'],
    ['inspect', 'roots'],
  ]) {
    const { exitCode, stderr } = await as(USER, words);
    t.is(exitCode, 125, words.join(' '));
    t.false(String(stderr).includes(id), words.join(' '));
  }
  // A name that an id begins with would be taken for that sandbox, by root as well.
  for (const name of [id, id.slice(0, 4), 'deadbeef', 'a']) {
    const { exitCode, stderr } = await as(USER, [...RUN, '--name', name, '--', 'true']);
    t.is(exitCode, 125, name);
    t.regex(String(stderr), /looks like an id/);
  }
  const users = await as(USER, [...RUN, '--name', 'users', '--keep', '--', 'true']);
  t.is(users.exitCode, 0, String(users.stderr));
  t.is((await as(USER, ['exec', 'users', '--', 'echo', 'own'])).stdout, 'own');
  const asked = await kiln([...RUN, '--name', 'users', '--', 'true']);
  t.regex(String(asked.stderr), new RegExp(`user ${USER.uid} already has a sandbox named users`));
  // Root's own command is not led into a user's sandbox.
  t.is((await kiln(['exec', 'users', '--', 'true'])).exitCode, 125);
  t.is((await as(USER, ['kill', 'users'])).exitCode, 0);
  t.is((await kiln(['kill', 'roots'])).exitCode, 0);
});

test.serial('kiln cp has a user’s own rights here, and reaches own sandboxes only', async (t) => {
  const { as, kiln, home } = t.context;
  const { file, folder, others } = loot(t.context);
  const roots = await kiln([...RUN, '--name', 'roots', '--keep', '--', 'true']);
  t.is(roots.exitCode, 0, String(roots.stderr));
  const own = await as(USER, [
    ...RUN,
    '--name',
    'mine',
    '--keep',
    '--',
    'sh',
    '-c',
    'echo x >/tmp/x',
  ]);
  t.is(own.exitCode, 0, String(own.stderr));
  for (const path of [file, join(others, 'file'), join(folder, 'closed/readable')]) {
    t.notRegex(await said(as(USER, ['cp', path, 'mine:/tmp/taken'])), /nobody-but-root/);
    t.not((await as(USER, ['exec', 'mine', '--', 'cat', '/tmp/taken'])).exitCode, 0, path);
    t.not((await as(USER, ['cp', 'mine:/tmp/x', path])).exitCode, 0, path);
  }
  t.is(readFileSync(file, 'utf8'), MARK);
  t.not((await as(USER, ['cp', 'mine:/tmp/x', `${folder}/new`])).exitCode, 0);
  t.false(existsSync(join(folder, 'new')));
  for (const words of [
    ['roots:/etc/passwd', 'passwd'],
    ['/etc/passwd', 'roots:/tmp/'],
  ]) {
    t.regex(await said(as(USER, ['cp', ...words])), /there is no sandbox roots/);
  }
  t.is((await as(USER, ['cp', 'mine:/tmp/x', 'x'])).exitCode, 0);
  t.is(statSync(join(home, 'x')).uid, USER.uid);
  t.is(readFileSync(join(home, 'x'), 'utf8'), 'x\n');
  // A link of the command's that comes out, and the next copy through it.
  symlinkSync(file, join(home, 'led'));
  t.is((await as(USER, ['exec', 'mine', '--', 'sh', '-c', 'echo led >/tmp/led'])).exitCode, 0);
  await as(USER, ['cp', 'mine:/tmp/led', 'led']);
  t.is(readFileSync(file, 'utf8'), MARK);
  t.is((await as(USER, ['kill', '--all'])).exitCode, 0);
  t.is((await kiln(['kill', 'roots'])).exitCode, 0);
});
