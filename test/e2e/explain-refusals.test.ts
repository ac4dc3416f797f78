/** `kiln run --explain-refusals`: each option that it names is given, and allows what was refused. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { PathTrace } from '../../src/jobs/run/refused-paths.ts';
import { type BusyboxState, busyboxState, MAIN } from '../support/busybox-state.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});
test.after.always(() => state[Symbol.asyncDispose]());

async function run(options: readonly string[], command: string) {
  const words = ['run', '-r', 'busybox', ...options, '--', 'sh', '-c', command];
  const { exitCode, stderr } = await state.kiln(words);
  return { exitCode, stderr: String(stderr) };
}

test.serial('a refused call is told with the option that allows it', async (t) => {
  const command = 'unshare -n true';
  const refused = await run(['--explain-refusals'], command);
  t.not(refused.exitCode, 0);
  t.regex(refused.stderr, /kiln: {3}unshare \(EPERM, once\): .*--profile nested/, refused.stderr);
  t.regex(refused.stderr, /kiln: hosts that the proxy refused: none/);
  t.regex(refused.stderr, /kiln: paths that were refused: none/);
  const nested = await run(['--explain-refusals', '--profile', 'nested', '-u', 'root'], command);
  t.notRegex(nested.stderr, /unshare \(/);
});

test.serial('--explain-refusals says “never” of a call that no option allows', async (t) => {
  // On the host's own files, chmod with set-id bits is refused by kiln's guard, whatever the profile is.
  const folder = mkdtempSync(join(tmpdir(), 'kiln-refusals-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const options = ['--explain-refusals', '--bind', `${folder}:/b`];
  const { stderr } = await run(options, 'echo >/b/f; chmod u+s /b/f');
  t.regex(stderr, /kiln: {3}f?chmod\w* \(EPERM, once\): never: set-id files/, stderr);
});

test.serial(
  '--explain-refusals names the capability that lets a command open packet sockets',
  async (t) => {
    const command = 'arping -c 1 -w 1 -I lo 127.0.0.1';
    const refused = await run(['--explain-refusals', '-u', 'root'], command);
    t.regex(refused.stderr, /kiln: {3}socket \(E\w+, once\): --cap-add NET_RAW for raw and packet/);
    // Said once.
    t.notRegex(refused.stderr, /which may be why/);
    const given = ['--cap-add', 'NET_RAW', '-u', 'root'];
    const allowed = await run(['--explain-refusals', ...given], command);
    t.regex(allowed.stderr, /system calls that the filter refused: none/, allowed.stderr);
  },
);

test.serial('--explain-refusals says that nothing was refused', async (t) => {
  const plain = await run(['--explain', '--explain-refusals'], 'true');
  t.is(plain.exitCode, 0);
  const { stderr, exitCode } = await run(['--explain-refusals'], 'true');
  t.is(exitCode, 0);
  t.regex(stderr, /kiln: system calls that the filter refused: none/);
});

function attemptList(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** What --explain-refusals says of paths: without its first words, line by line. */
function pathsOf(stderr: string): string[] {
  const [, told = ''] = stderr.split(/kiln: paths that were refused: ?\n?/);
  return told
    .split('\n')
    .filter((line) => line.startsWith('kiln:   "'))
    .map((line) => line.slice('kiln:   '.length));
}

test.serial('a refused path is told with the option that allows it', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'kiln-refusals-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, '.envrc'), '');
  writeFileSync(join(folder, 'own'), '');
  const bind = ['--bind', `${folder}:/b`];
  const cases: readonly [given: string[], command: string, told: RegExp, instead: string[]][] = [
    [
      [],
      'cd /etc; : >new',
      /^"\/etc\/new" \(open\w*: EACCES, once\): --user root$/,
      ['-u', 'root'],
    ],
    [
      ['--bind', `${folder}:/b:ro`],
      ': >/b/own',
      /^"\/b\/own" \(open\w*: EROFS, once\): --bind \S+:\/b, or with :cow$/,
      bind,
    ],
    [bind, ': >/b/.envrc', /^"\/b\/.envrc" \(.*\): --no-protect$/, [...bind, '--no-protect']],
    [
      ['--read-only', '-u', 'root'],
      ': >/home/x',
      /^"\/home\/x" \(.*\): leave --read-only out, or --bind FOLDER:\/home, or --tmpfs \/home/,
      ['--read-only', '-u', 'root', '--tmpfs', '/home'],
    ],
  ];
  for (const [given, command, told, instead] of cases) {
    const refused = await run(['--explain-refusals', '--json', ...given], command);
    t.not(refused.exitCode, 0, command);
    const lines = pathsOf(refused.stderr);
    t.is(lines.length, 1, refused.stderr);
    t.regex(lines[0]!, told);
    const { refusedPaths } = JSON.parse(refused.stderr.trimEnd().split('\n').at(-1)!);
    t.like(refusedPaths, [{ path: JSON.parse(lines[0]!.split(' (')[0]!), count: 1 }]);
    const allowed = await run(['--explain-refusals', ...instead], command);
    t.is(allowed.exitCode, 0, allowed.stderr);
    t.deepEqual(pathsOf(allowed.stderr), []);
  }
});

test.serial('what no option allows is said of a path, too', async (t) => {
  const command = ': >/proc/sys/kernel/hostname';
  const { stderr } = await run(['--explain-refusals', '-u', 'root'], command);
  t.regex(
    stderr,
    /"\/proc\/sys\/kernel\/hostname" \(.*\): never: it is of the host’s kernel/,
    stderr,
  );
});

test.serial('listening for paths changes nothing that is measured', async (t) => {
  const measured = async (options: readonly string[]) => {
    const { stderr } = await run(
      ['--json', ...options],
      'grep -e ^Seccomp -e ^Cap -e Tracer /proc/self/status >&2',
    );
    const lines = stderr.trimEnd().split('\n');
    const { uidMap: _uids, gidMap: _gids, ...policy } = JSON.parse(lines.at(-1)!).policy;
    return { policy, status: lines.filter((line) => /^(?:Seccomp|Cap|Tracer)/.test(line)) };
  };
  const plain = await measured([]);
  t.is(plain.status.length, 8);
  t.deepEqual(await measured(['--explain-refusals']), plain);
});

test.serial('a command can write no line of the report', async (t) => {
  const name = '/etc/a") = -1 EPERM (x)\\n\\033[31m';
  const { stderr } = await run(['--explain-refusals'], `mkdir "$(printf '${name}b')"`);
  const lines = pathsOf(stderr);
  t.is(lines.length, 1, stderr);
  t.true(
    lines[0]!.startsWith('"/etc/a\\") = -1 EPERM (x)\\n\\u001b[31mb" (mkdir: EACCES, once)'),
    lines[0],
  );
});

test.serial('a hundred refused paths are told, and how many more there were', async (t) => {
  const command = 'for i in $(seq 130); do (: >/etc/$i); done 2>/dev/null';
  const { stderr } = await run(['--explain-refusals'], command);
  t.is(pathsOf(stderr).length, 100, stderr);
  t.regex(stderr, /^kiln: {3}30 more refusals, of other paths, are not told$/m);
});

test('what a line longer than any path has, and lines without an end, take no room', (t) => {
  const trace = new PathTrace();
  trace.push('execve("\\x2f", [...], 0x1) = 0\n');
  for (let i = 0; i < 200; i++) trace.push('x'.repeat(1 << 20));
  trace.push('\nmkdir("\\x2f\\x61", 0777)  = -1 EACCES (Permission denied)\n');
  t.deepEqual(trace.refused, {
    paths: [{ path: '/a', syscall: 'mkdir', error: 'EACCES', count: 1 }],
    more: 0,
  });
});

test.serial('a host without strace is told so, and the command runs', async (t) => {
  const programs = join(state.beside, 'programs');
  mkdirSync(programs);
  for (const folder of (process.env.PATH ?? '').split(':').toReversed())
    for (const name of attemptList(folder).filter((one) => one !== 'strace')) {
      rmSync(join(programs, name), { force: true });
      symlinkSync(join(folder, name), join(programs, name));
    }
  const words = ['run', '-r', 'busybox', '--explain-refusals', '--', 'mkdir', '/etc/new'];
  const env = { ...state.env, PATH: programs };
  // The daemon has a PATH of its own, so this is done without it.
  const { exitCode, stderr } = await execa(process.execPath, [MAIN, ...words], {
    env,
    reject: false,
  });
  t.is(exitCode, 1, String(stderr));
  t.regex(String(stderr), /paths that were refused: not recorded: this host lacks strace/);
});

test.serial('learning hosts is said loudly, and not for what goes on unwatched', async (t) => {
  const { stderr } = await run(['--egress-learn'], 'true');
  t.regex(stderr, /^kiln: WARNING: --egress-learn lets the command reach every public host/m);
  t.regex(stderr, /^kiln: it reached no host$/m);
  for (const option of ['--keep', '--detach']) {
    const kept = await run(['--egress-learn', option], 'true');
    t.is(kept.exitCode, 125, option);
    t.regex(kept.stderr, /--egress-learn is for one command that you watch/);
  }
});
