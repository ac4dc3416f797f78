import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const run = (...args: readonly string[]) => state.kiln(['run', '-r', IMAGE, ...args]);
const resultOf = (stderr: unknown) => JSON.parse(String(stderr).split('\n').at(-1) ?? '');

test.serial('a secret can be read by the command’s user, and is nowhere else', async (t) => {
  const value = 'hush-4711-hush';
  const file = join(state.paths.root, 'the-token');
  writeFileSync(file, value);
  const script =
    'stat -c "%a %u" /run/secrets /run/secrets/token; cat /run/secrets/token; ' +
    'echo x 2>/dev/null >/run/secrets/token || echo " closed"; sleep 1';
  const results = join(state.paths.root, 'results');
  const secret = `--secret=token=${file}`;
  const going = run(secret, '--json', '--resultdir', results, '--', 'sh', '-c', script);
  // While it runs: nobody finds it in a command line or an environment.
  const seen: string[] = [];
  const watch = setInterval(() => {
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      for (const name of ['cmdline', 'environ']) {
        try {
          if (readFileSync(`/proc/${pid}/${name}`).includes(value)) seen.push(`${pid} ${name}`);
        } catch {
          // It has ended.
        }
      }
    }
  }, 250);
  const result = await going;
  clearInterval(watch);
  t.is(result.stdout, `500 1000\n400 1000\n${value} closed`);
  t.deepEqual(seen, []);
  const { request } = resultOf(result.stderr);
  t.deepEqual(request.secrets, ['token']);
  t.false(String(result.stderr).includes(file));
  // grep: nowhere below the state directory but in the file itself.
  const found = await execa('grep', ['-rl', value, state.paths.root, state.paths.run], {
    reject: false,
  });
  t.is(found.stdout, file);
  const other = await run(
    secret,
    '--user',
    '1234:1234',
    '--',
    'sh',
    '-c',
    'id -u; cat /run/secrets/token',
  );
  t.is(other.stdout, `1234\n${value}`);
  const big = await run('--secret', 'x=/dev/zero', '--', 'true');
  t.is(big.exitCode, 125);
  t.regex(String(big.stderr), /larger than 65536 bytes/);
});

test.serial('--explain prints the plan, and runs nothing', async (t) => {
  const usual = await run('--explain', '--json', '--', 'no-such-command');
  t.is(usual.exitCode, 0, String(usual.stderr));
  const planned = new Map<string, { state: string; detail: string }>(
    JSON.parse(String(usual.stdout)).planned.map((it: { layer: string }) => [it.layer, it]),
  );
  for (const layer of ['seccomp', 'landlock', 'capabilities', 'pids-limit', 'net-namespace']) {
    t.is(planned.get(layer)?.state, 'on', layer);
  }
  const less = await run(
    ...['--network', 'host', '--allow-host-network', '--cap-add', 'SYS_ADMIN', '--explain'],
    ...['--', 'true'],
  );
  t.regex(String(less.stdout), /^net-namespace +off/m);
  t.regex(String(less.stdout), /^landlock +off/m);
  t.regex(String(less.stdout), /^capabilities +on +SYS_ADMIN$/m);
});

test.serial(
  '--read-only leaves private file systems, tmpfs and binds writable, and nothing else',
  async (t) => {
    const all = '/ /bin /etc /home/build /var /tmp /var/tmp /run /dev/shm /own /bound';
    const script = `for d in ${all}; do touch $d/made 2>/dev/null && echo $d; done;`;
    const options = ['--tmpfs', '/own', '--bind', `${state.beside}:/bound`, '--user', 'root'];
    const written = '/tmp /var/tmp /run /dev/shm /own /bound';
    const { stdout, stderr } = await run(
      ...['--read-only', ...options, '--keep', '--json', '--', 'sh', '-c'],
      `${script} grep -E ' / / ro,' /proc/self/mountinfo`,
    );
    const [mount = '', ...folders] = String(stdout).split('\n').reverse();
    t.is(folders.reverse().join(' '), written);
    t.regex(mount, / overlay /);
    const { policy, id } = resultOf(stderr);
    t.true(policy.readOnlyPaths.includes('/'));
    // A kept one stays so, for root as well, who cannot mount it anew.
    const undone = 'mount -o remount,rw,bind / 2>/dev/null';
    const kept = await state.kiln([
      'exec',
      '--user',
      'root',
      id,
      'sh',
      '-c',
      `${undone}; ${script} :`,
    ]);
    t.is(String(kept.stdout).replaceAll('\n', ' '), written, String(kept.stderr));
    await state.kiln(['kill', id]);
    const nested = await run(
      ...[
        '--read-only',
        '--profile',
        'nested',
        '--',
        'unshare',
        '--user',
        '--map-root-user',
        '--mount',
      ],
      ...['sh', '-c', `${undone}; touch /home/build/made`],
    );
    t.regex(String(nested.stderr), /touch: \/home\/build\/made: Read-only file system/);
    const usual = await run('--user', 'root', '--', 'sh', '-c', script);
    t.regex(String(usual.stdout), /^\/\n\/bin\n\/etc\n/);
  },
);

test.serial(
  '--read-only names itself where a copy has no room, and where a mount could undo it',
  async (t) => {
    const source = join(state.beside, 'source');
    writeFileSync(source, '');
    const copied = await run('--read-only', '--copy-in', `${source}:/etc/x`, '--', 'true');
    t.regex(
      String(copied.stderr),
      /"\/etc\/x" is where the sandbox cannot be written to: --read-only/,
    );
    const mounting = await run('--read-only', '--cap-add', 'SYS_ADMIN', '--', 'true');
    t.is(mounting.exitCode, 125);
    t.regex(String(mounting.stderr), /--read-only does not hold against SYS_ADMIN/);
  },
);

test.serial('kiln’s own seccomp profiles cannot be chosen', async (t) => {
  for (const name of ['nested', 'boot', 'default-offline', 'nested-offline']) {
    for (const explain of [[], ['--explain']]) {
      const { exitCode, stderr } = await run('--seccomp', name, ...explain, '--', 'true');
      t.is(exitCode, 125, name);
      t.true(
        String(stderr).includes(
          `the seccomp profile ${name} is kiln’s own [E_SECCOMP_PROFILE]\n  hint: `,
        ),
        name,
      );
    }
  }
  const file = await run('--seccomp', '/nonexistent.json', '--', 'true');
  t.regex(String(file.stderr), /one of: default, build, strict, aio$/m);
});

test.serial('the result has the measured layers and the refused system calls', async (t) => {
  const { stderr, exitCode } = await run('--json', '--pids', '77', '--', 'unshare', '-U', 'true');
  t.is(exitCode, 1);
  const { policy, refusedCalls } = resultOf(stderr);
  t.deepEqual(refusedCalls, [{ syscall: 'unshare', action: 'EPERM', count: 1 }]);
  t.regex(String(stderr), /refused system calls.*unshare \(EPERM\)/);
  t.is(policy.limits.pids, 77);
  t.true(policy.namespaces.includes('time'));
  t.is(policy.namespaceLimit, 0);
  t.deepEqual(policy.landlock.walls, ['files']);
  t.deepEqual(policy.devices.sort(), ['full', 'null', 'random', 'tty', 'urandom', 'zero']);
  t.deepEqual(policy.gidMap, policy.uidMap);
});

test.serial('only layers that a host may lack can be allowed to be missing', async (t) => {
  const wrong = await run('--allow-missing', 'seccomp', '--', 'true');
  t.is(wrong.exitCode, 125);
  t.regex(String(wrong.stderr), /landlock, time-namespace/);
  // What is there is used all the same.
  const right = await run('--allow-missing', 'landlock', '--json', '--', 'true');
  t.deepEqual(resultOf(right.stderr).policy.landlock.walls, ['files']);
});

test.serial(
  'binds beyond the most that a sandbox takes are refused, and the first one is named',
  async (t) => {
    const binds = (count: number) =>
      Array.from({ length: count }, (_, n) => `--bind=/tmp:/d/${String(n).padStart(3, '0')}:ro`);
    const most = await run(...binds(63), '--', 'sh', '-c', 'ls /d | wc -l');
    t.is(most.stdout, '63', String(most.stderr));
    const refused = await run(...binds(64), '--json', '--', 'true');
    t.is(refused.exitCode, 125);
    t.regex(String(refused.stderr), /"code": *"E_BIND"/);
    t.regex(String(refused.stderr), /cannot bind \/tmp: a sandbox takes 64 mounts at most/);
  },
);
