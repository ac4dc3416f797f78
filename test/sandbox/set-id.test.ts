import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { ownPath } from '../../src/host/files/held.ts';
import { library } from '../../src/host/process/seccomp.ts';
import { seccompFilter } from '../../src/sandbox/seccomp/profile.ts';
import { ABIS } from '../../src/sandbox/seccomp/program.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';
import { asRoot, PlainSandbox } from '../support/plain-sandbox.ts';
import { sandboxSpecification } from '../support/specification.ts';

let state: BusyboxState;
/** A profile that refuses nothing. */
let open: string;

test.before(async () => {
  state = await busyboxState();
  const tree = join(state.paths.images, IMAGE, 'tree');
  const source = join(import.meta.dirname, 'set-id-probe.c');
  const flags = ['-std=gnu17', '-O1', '-Wall', '-Werror', '-static', '-no-pie'];
  await execa('cc', [...flags, '-o', join(tree, 'bin/set-id-probe'), source]);
  await mkdir(join(tree, 'low'));
  await cp('/bin/busybox', join(tree, 'low/program'));
  await chmod(join(tree, 'low/program'), 0o6755);
  open = join(state.beside, 'open.json');
  const profile = { defaultAction: 'SCMP_ACT_ALLOW', architectures: ['SCMP_ARCH_X86_64'] };
  const others = ['SCMP_ARCH_X86', 'SCMP_ARCH_X32', 'SCMP_ARCH_ARM'];
  const architectures = process.arch === 'x64' ? [...profile.architectures, ...others] : others;
  await writeFile(open, JSON.stringify({ ...profile, architectures, syscalls: [] }));
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** A new folder of the host that anybody may write to. */
async function hostFolder(): Promise<string> {
  const folder = await mkdtemp(join(state.beside, 'bind-'));
  await chmod(folder, 0o777);
  return folder;
}

/** What find(1) and getcap(8) see of a folder of the host. */
async function privileged(folder: string): Promise<string> {
  const found = await execa('find', [folder, '-perm', '/6000']);
  const capable = await execa('getcap', ['-r', folder]);
  return `${found.stdout}${capable.stdout}`;
}

/** NAME → what came of it. */
function outcomes(stdout: unknown): Map<string, string> {
  const lines = String(stdout).trim().split('\n');
  return new Map(lines.map((line) => line.split('\t') as [string, string]));
}

const run = (args: readonly string[]) => state.kiln(['run', '-r', IMAGE, ...args]);

const confirmed = ['--allow-host-write', '--user', 'root'];

/** Options with the profile `open`, which is made later. */
const profiles: readonly (readonly [name: string, options: () => readonly string[]])[] = [
  ['default', () => []],
  ['default, as root', () => ['--user', 'root']],
  ['build, as root', () => ['--user', 'root', '--seccomp', 'build']],
  ['strict, as root', () => ['--user', 'root', '--seccomp', 'strict']],
  ['a file that allows all, as root', () => ['--user', 'root', '--seccomp', open]],
  ['nested, as root', () => ['--profile', 'nested', ...confirmed]],
  [
    'nested and a file that allows all',
    () => ['--profile', 'nested', '--seccomp', open, ...confirmed],
  ],
  ['SYS_ADMIN, as root', () => ['--cap-add', 'SYS_ADMIN', ...confirmed]],
];

for (const [name, options] of profiles) {
  test(`nothing on the host gets a set-id bit or capabilities through a bind: ${name}`, async (t) => {
    const folder = await hostFolder();
    const result = await run([
      ...['--json', '--bind', `${folder}:/b:rw,Z`, ...options(), '--'],
      ...['sh', '-c', 'echo x >/tmp/f; exec set-id-probe /b /tmp/f'],
    ]);
    t.is(result.exitCode, 0, String(result.stderr));
    t.is(await privileged(folder), '');
    const found = outcomes(result.stdout);
    t.true(found.size >= 40, `${found.size} attempts`);
    for (const [attempt, outcome] of found) {
      // mkdir(2) takes no set-id bits; privileged() sees that the folder has none.
      if (attempt === 'mkdir') t.is(outcome, '0');
      else t.not(outcome, '0', attempt);
    }
    for (const call of ['chmod', 'fchmod', 'fchmodat', 'openat', 'tmpfile']) {
      t.is(found.get(`${call}-setuid`), 'EPERM', call);
      t.is(found.get(`${call}-setgid`), 'EPERM', call);
    }
    const { policy, refusedCalls } = JSON.parse(String(result.stderr).split('\n').at(-1) ?? '');
    t.true(policy.setIdRefused);
    const namespaces = options().includes('nested');
    t.is(policy.capabilities.bounding.includes('SETFCAP'), namespaces);
    const chmods = refusedCalls.find((call: { syscall: string }) => call.syscall === 'fchmod');
    // fchmod and high-bits, three modes each: what only measures is not counted.
    t.is(chmods?.count, 6);
  });
}

test('in a user namespace of its own, a command cannot give capabilities either', async (t) => {
  const folder = await hostFolder();
  const enter = ['unshare', '-Ur', 'set-id-probe', '/b'];
  const nested = ['--bind', `${folder}:/b:rw,Z`, '--profile', 'nested', '--allow-host-write', '--'];
  const result = await run([...nested, ...enter]);
  t.is(result.exitCode, 0, String(result.stderr));
  t.is(await privileged(folder), '');
  t.is(outcomes(result.stdout).get('setxattr-v2'), 'EOPNOTSUPP');
  // The attempt is one: with nothing of the host in the sandbox it succeeds.
  const alone = await run(['--profile', 'nested', '--', 'unshare', '-Ur', 'set-id-probe', '/tmp']);
  t.is(outcomes(alone.stdout).get('setxattr-v2'), '0', String(alone.stdout));
});

test('a command may set any mode if it cannot write to the host', async (t) => {
  const folder = await hostFolder();
  for (const bind of [[], ['--bind', `${folder}:/b:ro`]]) {
    const result = await run(['--json', '--user', 'root', ...bind, '--', 'set-id-probe', '/tmp']);
    const found = outcomes(result.stdout);
    for (const name of ['chmod-setuid', 'fchmodat-both', 'openat-setgid', 'setxattr-v2']) {
      t.is(found.get(name), '0', name);
    }
    t.false(JSON.parse(String(result.stderr).split('\n').at(-1) ?? '').policy.setIdRefused);
  }
});

test('other modes, owners and attributes can be set in a bind as ever', async (t) => {
  const folder = await hostFolder();
  const script = 'cd /b; cp /bin/busybox it; chmod 1755 it; chmod 640 it; mkdir -m 1777 d; touch x';
  const result = await run(['--bind', `${folder}:/b:rw,Z`, '--', 'sh', '-ec', script]);
  t.is(result.exitCode, 0, String(result.stderr));
  t.is((await execa('stat', ['-c', '%a', 'it', 'd'], { cwd: folder })).stdout, '640\n1777');
});

test('an overlay does not copy a set-id file of the image up into a bind', async (t) => {
  const script = `mkdir -p /b/u /b/w /tmp/m
    mount -t overlay -o lowerdir=/low,upperdir=/b/u,workdir=/b/w,userxattr x /tmp/m && touch /tmp/m/program`;
  for (const options of [
    ['--cap-add', 'SYS_ADMIN'],
    ['--profile', 'nested'],
  ]) {
    const folder = await hostFolder();
    const args = (mode: string) => [
      ...['--user', 'root', '--bind', `${folder}:/b:${mode}`, ...options, '--', 'sh', '-c'],
      options.includes('nested') ? `unshare -Urm sh -c '${script}'` : script,
    ];
    const refused = await run(args('rw,Z'));
    t.is(refused.exitCode, 125);
    t.regex(
      String(refused.stderr),
      /a command that may mount file systems cannot have a writable bind/,
    );
    t.is(await privileged(folder), '');
    const readonly = await run(args('ro,Z'));
    if (options.includes('nested')) t.not(readonly.exitCode, 125);
    else
      t.regex(String(readonly.stderr), /a command with SYS_ADMIN cannot have files of this host/);
    // It would get through.
    const let_ = await run(['--allow-host-write', ...args('rw,Z')]);
    t.is(let_.exitCode, 0, String(let_.stderr));
    t.not(await privileged(folder), '');
    await rm(folder, { recursive: true });
  }
});

test('only who may write to the host gets SYS_ADMIN with a read-only bind, which it can remount', async (t) => {
  const folder = await hostFolder();
  const script = 'mount -o remount,bind,rw /b; touch /b/made; chmod 4755 /b/made';
  const words = (...options: readonly string[]) => [
    ...['--user', 'root', '--bind', `${folder}:/b:ro,Z`, ...options, '--', 'sh', '-c', script],
  ];
  await run(words('--profile', 'nested'));
  t.is((await run(words('--cap-add', 'SYS_ADMIN'))).exitCode, 125);
  const made = join(folder, 'made');
  t.false(existsSync(made));
  await run(words('--cap-add', 'SYS_ADMIN', '--allow-host-write'));
  t.true(existsSync(made), 'it cannot be remounted');
  t.is(await privileged(folder), '');
});

test('SETFCAP is not added to a command with a writable bind', async (t) => {
  const folder = await hostFolder();
  const args = ['--bind', `${folder}:/b`, '--user', 'root', '--cap-add', 'SETFCAP', '--', 'true'];
  const refused = await run(args);
  t.is(refused.exitCode, 125);
  t.regex(String(refused.stderr), /SETFCAP cannot be combined with a writable bind/);
});

test('the init starts no command without the filter that it must have', async (t) => {
  await using kiln = openKiln({ env: state.env });
  const folder = await hostFolder();
  const binds = [{ source: folder, place: ownPath(folder), target: '/b', readonly: false }];
  const root = join(state.paths.images, IMAGE, 'tree');
  const specification = sandboxSpecification({ root, binds });
  await using sandbox = await PlainSandbox.open(kiln.engine, specification);
  const { policy } = await asRoot(kiln.paths, sandbox);
  const seccomp = await seccompFilter(kiln.paths, 'default', []);
  await t.throwsAsync(sandbox.spawn(['true'], { policy: { ...policy, seccomp } }), {
    code: 'E_LAYER_MISSING',
    message: /set-id/,
  });
  await t.notThrowsAsync(sandbox.spawn(['true'], { policy }));
});

test('the numbers of system calls are those that libseccomp knows', (t) => {
  const resolve = library().resolveNumber;
  let known = 0;
  for (const abis of Object.values(ABIS)) {
    for (const [name, { architecture, calls }] of Object.entries(abis)) {
      for (const [call, number] of Object.entries(calls)) {
        const found = resolve(architecture, number);
        // An older libseccomp does not know the newest.
        if (found === null && number > 450) continue;
        t.is(found, call, `${number} of ${name}`);
        known++;
      }
    }
  }
  t.true(known > 40);
});

test('every call in this machine’s headers that sets a mode is in the table', (t) => {
  const header = execFileSync('cc', ['-E', '-dM', '-'], { input: '#include <sys/syscall.h>\n' });
  const calls = [...header.toString().matchAll(/#define __NR_(\w+) /g)].map(([, name]) => name);
  const setting = calls.filter((name) =>
    /chmod|^creat$|^open(at2?)?$|^mknod|setxattr/.test(name ?? ''),
  );
  const table = Object.values(ABIS[process.arch] ?? {})[0]?.calls ?? {};
  t.true(setting.length >= 5);
  t.deepEqual(
    setting.filter((name) => table[name ?? ''] === undefined),
    [],
  );
});
