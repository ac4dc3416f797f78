import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { ProcessCgroups } from '../../src/host/cgroup/cgroup-files.ts';
import { ownPath } from '../../src/host/files/held.ts';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import type { SandboxProcess } from '../../src/sandbox/command/process.ts';
import { machineFiles } from '../../src/sandbox/domain/machine/relay.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { isLong, long } from '../support/long.ts';
import { Machine } from '../support/machine.ts';

const RUN = ['run', '--isolation', 'vm', '-r', IMAGE] as const;

/** One machine for all that is long: an emulated one takes long to start. Some tests end all that runs in it. */
let state: BusyboxState;
let machine: Machine;
let shared: string;

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await busyboxState();
  if (!isLong) return;
  shared = join(state.beside, 'shared');
  await mkdir(join(shared, 'below'), { recursive: true });
  await writeFile(join(shared, 'from-host'), 'host\n');
  await writeFile(join(shared, 'below/secret'), 'of the host’s root\n', { mode: 0o600 });
  await writeFile(join(state.beside, 'one-file'), 'one\n');
  const bind = (source: string, target: string, readonly: boolean) => {
    const path = join(state.beside, source);
    return { source: path, place: ownPath(path), target, readonly };
  };
  machine = await Machine.open(
    state,
    {
      binds: [
        bind('shared', '/shared', false),
        bind('shared', '/closed', true),
        bind('one-file', '/etc/one', true),
      ],
      allowHostWrite: true,
      tmpfs: [{ target: '/small', size: 2 ** 20 }],
      guestBinds: [{ source: '/shared', target: '/again', readonly: true }],
      files: [{ path: '/etc/made', mode: 0o640, content: 'made\n' }],
      hostname: 'machine-1',
      limits: { memory: 2 ** 28, pids: 64, cpus: 1.5 },
    },
    { secrets: [{ name: 'key', content: Buffer.from('hush') }] },
  );
});

test.after.always(async (t) => {
  t.log(await machine?.console(state));
  await machine?.[Symbol.asyncDispose]();
  await state[Symbol.asyncDispose]();
});

function folder(): string {
  return join(state.paths.sandboxes, machine.sandbox.id);
}

function said(process: SandboxProcess, what: RegExp): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    process.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (what.test(text)) resolve(text);
    });
    process.once('close', () => reject(new Error(`ended after ${JSON.stringify(text)}`)));
  });
}

long('a place of a machine’s sandbox is bound to another of it', async (t) => {
  const { out } = await machine.sh('cat /again/from-host; touch /again/x 2>&1; touch /shared/x');
  t.regex(out, /^host\n.*Read-only file system\n?$/);
});

test('options that machines do not have yet are refused by name', async (t) => {
  const asked: readonly (readonly [string[], RegExp])[] = [
    [['--label', 'none'], /a machine has no --label: no process of this host is in it/],
    [['--on-disk'], /a machine has no --on-disk: the host’s disk comes to it by virtiofs/],
  ];
  for (const [words, expected] of asked) {
    const { exitCode, stderr } = await state.kiln([...RUN, ...words, '--', 'true']);
    t.is(exitCode, 125, words.join(' '));
    t.regex(String(stderr), expected);
    t.regex(String(stderr), /E_MACHINE/);
  }
  const host = ['--network', 'host', '--allow-host-network'];
  const { exitCode, stderr } = await state.kiln([...RUN, ...host, '--', 'true']);
  t.is(exitCode, 125);
  t.regex(String(stderr), /a machine cannot have the host’s network/);
});

long(
  '--profile nested lets other sandbox tools work, with the kernel of the machine',
  async (t) => {
    t.timeout(300_000 * PATIENCE);
    const binds = ['/usr', '/lib', '/lib64', '/etc/ld.so.cache'].filter((path) => existsSync(path));
    const script = `bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp --die-with-parent \\
    sh -c 'ls -d /proc/[0-9]*; id -u; touch /tmp/x && ls /tmp'; unshare -Ur id -u; uname -r`;
    const words = binds.flatMap((path) => ['--bind', `${path}:${path}:ro`]);
    const { exitCode, stdout, stderr } = await state.kiln(
      [
        ...RUN,
        ...['--allow-missing', 'kvm', '--profile', 'nested'],
        ...words,
        '--env',
        'PATH=/usr/bin:/bin',
        '--',
        'sh',
        '-c',
        script,
      ],
      { timeout: 240_000 * PATIENCE },
    );
    t.is(exitCode, 0, String(stderr));
    const [, , user, file, root, release] = String(stdout).split('\n');
    t.deepEqual([user, file, root], ['1000', 'x', '0'], String(stdout));
    t.not(release, (await readFile('/proc/sys/kernel/osrelease', 'utf8')).trim());
  },
);

long('a command has its output, its errors and its status', async (t) => {
  t.like(await machine.run(['true']), { out: '', err: '', exitCode: 0 });
  const script = 'echo hi; echo oh >&2; exit 3';
  t.like(await machine.sh(script), { out: 'hi\n', err: 'oh\n', exitCode: 3, signal: null });
  t.like(await machine.sh('kill -9 $$'), { exitCode: null, signal: 'SIGKILL' });
  await t.throwsAsync(machine.run(['missing']), { code: 'E_COMMAND_NOT_FOUND' });
});

long('the kernel is not the host’s, and all layers of a sandbox are in force', async (t) => {
  const { out, measured } = await machine.run(['uname', '-r']);
  const host = (await execa('uname', ['-r'])).stdout;
  t.not(out.trim(), host);
  for (const name of ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'time', 'user', 'uts']) {
    t.true(measured.namespaces.includes(name), name);
  }
  t.is(measured.uidMap[0], 0);
  t.not(measured.uidMap[1], 0);
  t.deepEqual(measured.interfaces, ['lo']);
  t.true(measured.noNewPrivileges);
  t.is(measured.seccomp, 'filter');
  t.true(measured.landlock?.walls.includes('files'));
  t.true(measured.masked.includes('/proc/kcore'));
  t.is((await machine.run(['hostname'])).out, 'machine-1\n');
});

long('users, groups and capabilities are as in a container', async (t) => {
  const { out } = await machine.run(['id'], { user: 'build' });
  t.is(out, 'uid=1000(build) gid=1000(build) groups=50(extra)\n');
  const status = (capabilities: readonly 'CHOWN'[]) =>
    machine.run(['grep', 'CapBnd', '/proc/self/status'], { capabilities });
  t.regex((await status([])).out, /:\t0+$/m);
  t.regex((await status(['CHOWN'])).out, /:\t0+1$/m);
  const mount = await machine.sh('mount -t tmpfs none /mnt 2>&1 || mkdir /mnt2');
  t.is(mount.exitCode, 0);
  t.regex(mount.out, /not permitted|denied|not implemented/);
});

long('a filter of system calls counts what it refuses', async (t) => {
  const { refused, exitCode } = await machine.sh('unshare -U true');
  t.not(exitCode, 0);
  t.true(refused.length > 0);
});

long('files of image, binds and file systems in memory are where they belong', async (t) => {
  const list = await machine.sh('stat -c "%n %u:%g %a" /bin/busybox /etc/passwd /etc/made');
  t.is(list.out, '/bin/busybox 0:0 755\n/etc/passwd 0:0 644\n/etc/made 0:0 640\n');
  t.is((await machine.run(['cat', '/shared/from-host'])).out, 'host\n');
  t.is((await machine.run(['cat', '/closed/from-host', '/etc/one'])).out, 'host\none\n');
  t.regex((await machine.sh('echo x > /closed/new')).err, /Read-only/);
  t.regex((await machine.sh('echo x > /etc/one')).err, /Read-only/);
  t.is(
    (await machine.sh('for name in null zero full tty; do : > /dev/$name; done 2>&1')).out,
    "sh: can't create /dev/tty: No such device or address\n",
  );
  t.is((await machine.sh('echo mine > /etc/new && cat /etc/new')).out, 'mine\n');
  t.false(existsSync(join(state.paths.images, 'b'.repeat(64), 'tree/etc/new')));
  t.regex((await machine.sh('dd if=/dev/zero of=/small/x bs=64k count=40')).err, /No space/);
  t.is((await machine.run(['cat', '/run/secrets/key'])).out, 'hush');
  t.regex((await machine.sh('echo x > /run/secrets/key')).err, /Read-only|denied/);
});

long('a file written to a bind is on the host, and one written there is in the bind', async (t) => {
  const script = 'echo deep > /shared/made && chmod 640 /shared/made && ln -s made /shared/link';
  t.is((await machine.sh(script)).exitCode, 0);
  t.is(await readFile(join(shared, 'link'), 'utf8'), 'deep\n');
  const { mode, uid } = await stat(join(shared, 'made'));
  t.deepEqual([mode & 0o777, uid], [0o640, 0]);
  await writeFile(join(shared, 'later'), 'later\n');
  t.is((await machine.run(['cat', '/shared/later'])).out, 'later\n');
  // Root of the sandbox is the caller there; another user of the sandbox is nobody's.
  const other = await machine.run(['cat', '/shared/below/secret'], { user: 'build' });
  t.regex(other.err, /Permission denied/);
});

long('all that comes in and goes out arrives, and ends', async (t) => {
  const bytes = randomBytes(3 << 20);
  const digest = createHash('sha256').update(bytes).digest('hex');
  t.is((await machine.run(['sha256sum'], { input: bytes })).out, `${digest}  -\n`);
  const back = await machine.run(['cat'], { input: bytes });
  t.true(back.stdout.equals(bytes));
  const { stdout } = await machine.run(['head', '-c', '20000000', '/dev/zero']);
  t.is(stdout.length, 20_000_000);
  // Its input ends while it goes on.
  t.is((await machine.sh('cat; echo end', { input: Buffer.from('a\n') })).out, 'a\nend\n');
});

long('much output is whole, whatever its pages are and whatever writes it', async (t) => {
  t.timeout(300_000 * PATIENCE);
  // busybox's cat has the kernel put pages of the file into the pipe.
  const script = `head -c 9000001 /dev/urandom > /tmp/much; sha256sum < /tmp/much >&2
cat /tmp/much; dd if=/tmp/much bs=777 2>/dev/null; { echo a; cat /tmp/much; echo b; } | dd bs=65537 2>/dev/null
head -c 20000 /tmp/much; sha256sum < /tmp/much >&2`;
  const { out, err } = await machine.sh(script);
  const [before = '', after = ''] = err.trim().split('\n');
  t.is(before, after, 'what was passed on is still in the file');
  const bytes = Buffer.from(out, 'latin1');
  const much = bytes.subarray(0, 9_000_001);
  t.is(`${createHash('sha256').update(much).digest('hex')}  -`, before);
  const wanted = [much, much, 'a\n', much, 'b\n', much.subarray(0, 20_000)];
  t.true(bytes.equals(Buffer.concat(wanted.map((part) => Buffer.from(part)))));
});

long('a command that nobody reads any more, or that reads no more, is told', async (t) => {
  const { process, ended } = await machine.start(['yes']);
  process.stdout.once('data', () => process.stdout.destroy());
  t.is((await ended()).signal, 'SIGPIPE');
  const { process: deaf, ended: over } = await machine.start(['sh', '-c', 'exec <&-; sleep 2']);
  // It may be closed already: an emulated machine may be slow to tell that the command runs.
  const closed = new Promise((resolve) => {
    if (deaf.stdin.closed) resolve(undefined);
    else deaf.stdin.once('close', resolve);
  });
  const write = () => {
    if (!deaf.stdin.destroyed && deaf.stdin.write(Buffer.alloc(65536))) setTimeout(write, 10);
  };
  write();
  await closed;
  t.is((await over()).exitCode, 0);
});

long('the output of a command is complete although a child of it still runs', async (t) => {
  const script = 'sleep 1000 & head -c 900000 /dev/zero';
  const { stdout, exitCode } = await machine.sh(script, { leftovers: 'ended' });
  t.deepEqual([stdout.length, exitCode], [900_000, 0]);
});

long('a signal reaches a command in a machine, which may trap it and exit', async (t) => {
  const script = 'trap "echo caught; exit 9" TERM; echo ready; while :; do sleep 0.1; done';
  const { process, ended } = await machine.start(['sh', '-c', script]);
  await said(process, /ready/);
  const caught = said(process, /caught/);
  t.true(process.kill('SIGTERM'));
  await caught;
  t.is((await ended()).exitCode, 9);
});

long('several commands run at once, each with its own streams', async (t) => {
  const results = await Promise.all(
    [1, 2, 3, 4, 5].map((number) =>
      machine.sh(`cat; exit ${number}`, { input: Buffer.from(`${number}`) }),
    ),
  );
  t.deepEqual(
    results.map(({ out, exitCode }) => [out, exitCode]),
    [1, 2, 3, 4, 5].map((number) => [String(number), number]),
  );
});

long('a terminal has a size that changes, a line discipline and an end', async (t) => {
  const size = { rows: 24, columns: 80 };
  // The trap comes first: an emulated machine is slow, and the new size may come right after the first one is told.
  const script =
    'trap "stty size" WINCH; tty; stty size; until read line; do :; done; echo "got $line"; exit 7';
  const { process, ended } = await machine.start(['sh', '-c', script], {}, size);
  t.regex(await said(process, /24 80\r\n/), /\/dev\/pts\/\d+\r\n24 80\r\n/);
  const resized = said(process, /50 132/);
  process.resize(50, 132);
  await resized;
  const got = said(process, /got word\r\n/);
  process.stdin.write('word\r');
  // The line discipline's echo comes first.
  t.regex(await got, /word\r\ngot word\r\n/);
  t.is((await ended()).exitCode, 7);
});

long('a slow reader still gets all that was written to a terminal', async (t) => {
  const size = { rows: 24, columns: 80 };
  const script = 'head -c 200000 /dev/zero | tr "\\0" x';
  const { process } = await machine.start(['sh', '-c', script], {}, size);
  await sleep(5000 * PATIENCE);
  let length = 0;
  const closed = once(process, 'close');
  process.stdout.on('data', (bytes: Buffer) => {
    length += bytes.length;
  });
  await closed;
  t.is(length, 200_000);
});

long('an interrupt key of the terminal is a signal', async (t) => {
  const size = { rows: 24, columns: 80 };
  const { process, ended } = await machine.start(['sh', '-c', 'echo ready; sleep 1000'], {}, size);
  await said(process, /ready/);
  process.stdin.write('\x03');
  t.is((await ended()).signal, 'SIGINT');
});

long('files are copied in', async (t) => {
  const source = join(state.beside, 'copied');
  await mkdir(join(source, 'sub'), { recursive: true });
  await writeFile(join(source, 'sub/tool'), '#!/bin/sh\necho tool\n');
  await chmod(join(source, 'sub/tool'), 0o755);
  await machine.sandbox.tree.copyIn([{ source: ownPath(source), target: '/opt' }], (warning) =>
    t.fail(warning.message),
  );
  t.is((await machine.run(['/opt/sub/tool'])).out, 'tool\n');
});

long('files are read and written without a command, as of a container', async (t) => {
  const read = async (path: string, offset = 0) => {
    const { data, size } = await machine.sandbox.tree.read({ path, offset });
    return [Buffer.from(data, 'base64').toString('latin1'), size];
  };
  t.deepEqual(await read('/etc/made'), ['made\n', 5]);
  t.deepEqual(await read('/etc/made', 3), ['e\n', 5]);
  t.deepEqual(await read('/etc/made', 2 ** 40), ['', 5]);
  await machine.sandbox.tree.put({
    ...{ path: '/etc/put', bytes: Buffer.from('by kiln\n'), append: false, mode: 0o644 },
  });
  t.is((await machine.run(['cat', '/etc/put'])).out, 'by kiln\n');
  const script = `head -c 3000000 /dev/zero | tr '\\0' z > /etc/long; echo hers > /tmp/hers; chmod 600 /tmp/hers
chown build /tmp/hers; ln -s /tmp/hers /etc/behind; ln -s made /etc/other; ln -s /proc/version /etc/kernels`;
  t.is((await machine.sh(script, { capabilities: ['CHOWN'] })).err, '');
  const [long, size] = await read('/etc/long', 2_500_000);
  t.deepEqual([String(long).length, size], [500_000, 3_000_000]);
  t.is(String((await read('/etc/long'))[0]).length, 2 ** 20);
  t.deepEqual(await read('/tmp/hers'), ['hers\n', 5]);
  t.deepEqual(await read('/etc/other'), ['made\n', 5]);
  const wrong = [
    ['/etc/nothing', 'E_PATH', /does not exist/],
    ['etc/made', 'E_ARGUMENT', /not an absolute path/],
    ['/etc', 'E_ARGUMENT', /not a plain file/],
    ['/proc/version', 'E_ARGUMENT', /not a plain file/],
    ['/etc/kernels', 'E_ARGUMENT', /not a plain file/],
    ['/dev/null', 'E_ARGUMENT', /not a plain file/],
    // Behind a link root of the sandbox has no more rights than a command of its has.
    ['/etc/behind', 'E_ARGUMENT', /user may not read it/],
  ] as const;
  for (const [path, code, message] of wrong) await t.throwsAsync(read(path), { code, message });
});

long('a command that fails of a full file system is told so', async (t) => {
  const filling = 'dd if=/dev/zero of=/small/full bs=64k count=40';
  const { limitHit } = await machine.sh(`${filling}; false`, { disks: ['/small'] });
  t.is(limitHit, 'disk');
  t.is((await machine.sh('rm /small/*; false', { disks: ['/small'] })).limitHit, null);
});

long('limits are in force in the guest and on the host', async (t) => {
  t.deepEqual(machine.sandbox.ground.limits(), { memory: 2 ** 28, pids: 64, cpus: 1.5 });
  const { usage, limitHit } = await machine.run(['true']);
  t.is(limitHit, null);
  for (const [name, least] of [
    ['memoryBytes', 10_000],
    ['peakPids', 2],
    ['cpuMicroseconds', 1],
  ] as const) {
    t.true((usage[name] ?? 0) > least, `${name}: ${usage[name]}`);
  }
  // The guest's kernel decides nothing of these.
  const pid = Number(await readFile(machineFiles.qemu(folder()), 'utf8'));
  const { memory = 0, cpus } = ProcessCgroups.of(pid).limits('');
  t.is(cpus, 1.5);
  t.true(memory > 2 ** 28 && memory < 2 ** 31, String(memory));
});

long('a command that wants more than its limits is told so', async (t) => {
  const crowd = await machine.sh('for i in $(seq 80); do sleep 99 & done 2>/dev/null; true', {
    leftovers: 'ended',
  });
  t.is(crowd.limitHit, 'pids');
  const { limitHit, usage } = await machine.sh('dd if=/dev/zero of=/dev/shm/x bs=1M count=300');
  t.is(limitHit, 'memory');
  t.true((usage.peakMemoryBytes ?? 0) <= 2 ** 28);
});

long('libvirt lists it, and nothing is left of one that is closed', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const files = embeddedFiles(state.paths);
  const virsh = async (...words: string[]) =>
    (await execa('virsh', ['-q', '-c', files.machineUri, ...words])).stdout;
  const other = await Machine.open(state);
  const { id } = other.sandbox;
  t.regex(await virsh('list', '--name'), new RegExp(id));
  const own = async () => (await execa('pgrep', ['-f', id], { reject: false })).stdout;
  t.not(await own(), '');
  await other[Symbol.asyncDispose]();
  // libvirt forgets it once somebody has collected qemu, for which nobody waits.
  await eventually(async () => !(await virsh('list', '--all', '--name')).includes(id));
  t.is(await own(), '');
  t.false(existsSync(join(state.paths.sandboxes, id)));
});
