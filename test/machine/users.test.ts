/** Machines of users who are not root: their rights, their share, and what root and the user say in kiln.yaml. */
import { chmodSync, chownSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { isLong } from '../support/long.ts';
import { processesNaming } from '../support/processes.ts';
import { SHARED, USER, type UserState, userState, writeConfig } from '../support/second-user.ts';

const test = (anyTest as TestFn<UserState>).serial;
const long: typeof test | (() => void) = isLong ? test : () => undefined;

const VM = ['run', '-r', 'busybox', '--isolation', 'vm'] as const;
const EMULATED = ['--allow-missing', 'kvm'] as const;

test.before(async (t) => {
  t.context = await userState();
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

function refuses(t: ExecutionContext, ran: { exitCode?: unknown; stderr?: unknown }, why: RegExp) {
  t.is(ran.exitCode, 125, String(ran.stderr));
  t.regex(String(ran.stderr), why);
}

test('root says whether users may have machines, and whether emulated ones', async (t) => {
  const { as, config } = t.context;
  const missing = /--allow-missing kvm is not for users.*\n.*users\.machines: emulated/;
  writeConfig(config, '');
  refuses(t, await as(USER, [...VM, ...EMULATED, '--', 'true']), missing);
  writeConfig(config, '  machines: none\n');
  const none = await as(USER, [...VM, '--', 'true']);
  refuses(t, none, /--isolation vm is not for users.*\n.*users\.machines/);
  const words = ['-r', 'debian-build', '--isolation=vm', 'x.src.rpm'];
  const mock = await as(USER, words, { program: t.context.mock });
  t.regex(String(mock.stderr), /isolation vm is not for users.*\n.*users\.machines/);
  writeConfig(config, '  machines: emulated\n');
  const other = await as(USER, [...VM, '--allow-missing', 'kvm,memory-limit', '--', 'true']);
  const layer = await as(USER, [...VM, '--allow-missing', 'memory-limit', '--', 'true']);
  for (const each of [other, layer]) t.is(each.exitCode, 125);
  refuses(t, layer, /--allow-missing memory-limit is not for users/);
});

test('a machine that would exceed its user’s share of memory is refused', async (t) => {
  const { as, config } = t.context;
  const share = (memory: string) => `  machines: emulated\n  limits: { memory: ${memory} }\n`;
  writeConfig(config, share('4G'));
  const small = await as(USER, [...VM, ...EMULATED, '--', 'true']);
  refuses(t, small, /a machine exceeds your share of memory: it takes 1888M of 1024M.*E_LIMIT/);
  writeConfig(config, share('10G'));
  const large = await as(USER, [...VM, ...EMULATED, '--memory', '1G', '--', 'true']);
  refuses(t, large, /with 1024M for its sandbox exceeds.* of 2560M for itself, 672M are left/);
});

test('a user’s own kiln.yaml chooses machines, and the option goes round it', async (t) => {
  const { as, config, home, paths } = t.context;
  writeConfig(config, '  machines: none\n');
  const folder = join(home, 'configuration');
  mkdirSync(folder);
  writeFileSync(join(folder, 'kiln.yaml'), 'defaults:\n  isolation: vm\n');
  const env = {
    ...{ PATH: process.env.PATH, KILN_STATE: paths.root },
    ...{ HOME: home, XDG_CONFIG_HOME: folder },
  };
  const usual = await as(USER, ['run', '-r', 'busybox', '--', 'true'], { env });
  refuses(t, usual, /kiln\.yaml:2: defaults\.isolation: --isolation vm is not for users/);
  const words = ['run', '-r', 'busybox', '--isolation', 'container', '--', 'true'];
  t.is((await as(USER, words, { env })).exitCode, 0);
});

long('a user’s machine has the user’s rights to files, and no others', async (t) => {
  t.timeout(400_000 * PATIENCE);
  const { as, config, home, paths } = t.context;
  writeConfig(config, '  machines: emulated\n');
  const own = join(home, 'xdg');
  mkdirSync(own);
  writeFileSync(join(own, 'kiln.yaml'), 'defaults:\n  isolation: vm\n');
  const file = (name: string, uid: number, gid: number, mode: number) => {
    const path = join(home, name);
    writeFileSync(path, `${name}\n`);
    chownSync(path, uid, gid);
    chmodSync(path, mode);
  };
  file('mine', USER.uid, USER.gid, 0o600);
  file('roots', 0, 0, 0o600);
  file('groups', 0, SHARED, 0o660);
  const script = `id -u; cat mine; cat roots; cat groups; chmod 666 roots; ln roots linked
echo new > new; mkdir folder; echo out > /tmp/out; chmod 4755 new; echo ready >&2; read line; echo "$line"`;
  const running = as(
    USER,
    [
      ...['run', '-r', 'busybox', ...EMULATED, '--user', 'root', '--memory', '256M'],
      ...['--bind', '.:/b', '--workdir', '/b', '--artifact', '/tmp/out', '--resultdir', 'results'],
      ...['--', 'sh', '-c', script],
    ],
    {
      env: { PATH: process.env.PATH, KILN_STATE: paths.root, XDG_CONFIG_HOME: own, HOME: home },
      stdin: 'pipe',
      timeout: 300_000 * PATIENCE,
    },
  );
  await new Promise<void>((resolve, reject) => {
    running.stderr?.on('data', (text) => String(text).includes('ready') && resolve());
    running.then(({ stderr }) => reject(new Error(String(stderr))));
  });
  const { machineUri } = embeddedFiles(paths);
  const virsh = await execa('virsh', ['-q', '-c', machineUri, 'list', '--name']);
  const [domain = ''] = virsh.stdout.split('\n').filter(Boolean);
  // qemu is neither root's nor the user's, and of another uid than the sandbox's root.
  const [qemu] = processesNaming(`guest=${domain}`);
  const status = readFileSync(`/proc/${qemu}/status`, 'utf8');
  const [, uid = '0'] = /^Uid:\t(\d+)\t\1\t\1\t\1$/m.exec(status) ?? [];
  t.true(Number(uid) > 100_000, status);
  const listed = JSON.parse(String((await as(USER, ['ps', '--json'])).stdout));
  t.deepEqual(
    listed.map(({ record }: { record: { owner: number; domain: string } }) => [
      record.owner,
      record.domain,
    ]),
    [[USER.uid, domain]],
  );
  running.stdin?.end('word\n');
  const { exitCode, stdout, stderr } = await running;
  t.is(exitCode, 0, String(stderr));
  t.is(String(stdout), '0\nmine\nword');
  for (const name of ['roots', 'groups'])
    t.regex(String(stderr), new RegExp(`cat: can't open '${name}': Permission denied`));
  t.regex(String(stderr), /chmod: roots: (Operation not permitted|Value too large)/);
  const owners = ['new', 'folder', 'results', 'results/out', 'results/result.json'];
  t.deepEqual(
    owners.map((name) => statSync(join(home, name)).uid),
    owners.map(() => USER.uid),
  );
  t.is(statSync(join(home, 'roots')).mode & 0o777, 0o600);
  t.is(statSync(join(home, 'new')).mode & 0o7000, 0);
  const result = JSON.parse(readFileSync(join(home, 'results/result.json'), 'utf8'));
  t.is(result.policy.isolation, 'vm');
  t.is(result.policy.limits.memory, 2 ** 28);
});
