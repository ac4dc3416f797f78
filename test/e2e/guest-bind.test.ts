/** Places of a sandbox that are bound to others of it: by the init, which follows no link to its own mounts. */
import { readdirSync } from 'node:fs';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

let place: string;

test.before(async (t) => {
  t.context = await userState();
  place = join(t.context.beside, 'files');
  for (const name of ['.git/hooks', 'x']) await mkdir(join(place, name), { recursive: true });
  await writeFile(join(place, 'file'), 'of the host\n');
  await writeFile(join(place, 'token'), 'hush-0815\n');
  const links = {
    ...{ proc: '/proc', self: '/proc/self', magic: '/proc/self/root', up: '../../../..' },
    ...{ dev: '/dev', secrets: '/run/secrets', run: '/run', loop: 'loop', gone: '/no/where' },
    tmp: '/tmp',
  };
  for (const [name, to] of Object.entries(links)) await symlink(to, join(place, name));
});
test.after.always(({ context }) => context[Symbol.asyncDispose]());

const guest = (source: string, target: string, more = '') => [
  '--mount',
  `type=guest-bind,source=${source},target=${target}${more}`,
];

/** Which files a process has where, by the kernel: `ROOT MOUNTPOINT OPTIONS` and the device. */
async function mounts(pid: string): Promise<Map<string, { device: string; options: string }>> {
  const text = await readFile(`/proc/${pid}/mountinfo`, 'utf8').catch(() => '');
  return new Map(
    text.split('\n').map((line) => {
      const [, , device = '', root, point = '', options = ''] = line.split(' ');
      return [point, { device: `${device} ${root}`, options }] as const;
    }),
  );
}

test.serial('a place of the sandbox is seen at another, with what is mounted below', async (t) => {
  const { kiln, as } = t.context;
  const words = [
    ...['run', '-r', 'busybox', '--bind', `${place}:/src`, '--tmpfs', '/src/x:1M'],
    ...[...guest('/src', '/deep/copy'), ...guest('/etc/passwd', '/names', ',readonly')],
  ];
  const script = `echo new >/src/x/f && cat /deep/copy/x/f /deep/copy/file && cmp=$(stat -c %d:%i /src/file) &&
    [ "$cmp" = "$(stat -c %d:%i /deep/copy/file)" ] && echo same; echo x 2>/dev/null >/names || echo closed
    mkdir /deep/copy/.git/hooks/x 2>/dev/null || echo protected; tail -n 1 /names`;
  for (const run of [kiln, (args: readonly string[]) => as(USER, args)]) {
    const { stdout, stderr } = await run([...words, '--', 'sh', '-c', script]);
    t.regex(String(stdout), /^new\nof the host\nsame\nclosed\nprotected\n\w+:/, String(stderr));
  }
  const kept = ['--keep', '--', 'true'];
  t.is((await kiln([...words, ...kept])).exitCode, 0);
  const [{ id }] = JSON.parse(String((await kiln(['ps', '--json'])).stdout));
  const tables = await Promise.all(readdirSync('/proc').map(mounts));
  const seen = tables.find((table) => table.has('/deep/copy')) ?? new Map();
  t.is(seen.get('/deep/copy')?.device, seen.get('/src')?.device);
  t.is(seen.get('/deep/copy/x')?.device, seen.get('/src/x')?.device);
  t.regex(seen.get('/names')?.options ?? '', /^ro,nosuid,nodev/);
  t.regex(seen.get('/deep/copy')?.options ?? '', /^rw,nosuid,nodev/);
  await kiln(['kill', id]);
});

test.serial('--explain tells of places that are bound inside', async (t) => {
  const { stdout } = await t.context.kiln([
    ...['run', '-r', 'busybox', ...guest('/etc', '/x', ',ro'), '--explain', '--', 'true'],
  ]);
  t.regex(String(stdout), /^guest bind +on +\/etc of the sandbox at \/x, read-only$/m);
});

test.serial('a service has places that are bound inside', async (t) => {
  const service = async (...args: readonly string[]) => {
    const { stdout, stderr, exitCode } = await t.context.kiln(['service', ...args]);
    t.is(exitCode, 0, String(stderr));
    return stdout;
  };
  const binds = ['--guest-bind', '/etc:/mnt/e:ro', '--guest-bind', '/var:/mnt/v'];
  await service('create', '-r', 'busybox', ...binds, 'bound', '--', '/bin/sleep', '100');
  await service('start', 'bound');
  const script = 'touch /mnt/e/x 2>/dev/null || echo x >/mnt/v/x; cat /var/x; ls /mnt/e/passwd';
  t.is(await service('execute', 'bound', '--', 'sh', '-c', script), 'x\n/mnt/e/passwd');
  await service('stop', 'bound');
  await service('delete', '--yes', 'bound');
  for (const bind of ['/proc/1:/x', '/etc:/dev', '/etc/:/']) {
    const words = ['service', 'create', '-r', 'busybox', '--guest-bind', bind, 'no', '--', 'true'];
    t.regex(String((await t.context.kiln(words)).stderr), /nothing is bound from or to/);
  }
});

test.serial('a copy is as closed as what it shows', async (t) => {
  const { kiln } = t.context;
  const run = ['run', '-r', 'busybox', '-u', 'root'];
  const script = 'for f in /tmp/root /copy; do touch $f/new 2>&1 && echo open $f; done';
  const closed = await kiln([
    ...[...run, '--read-only', '--bind', `${place}:/src:ro`],
    ...[...guest('/etc', '/tmp/root'), ...guest('/src', '/copy'), '--', 'sh', '-c', script],
  ]);
  t.is(String(closed.stdout).match(/Read-only file system/g)?.length, 2, String(closed.stdout));
  const half = await kiln([
    ...[...run, ...guest('/etc', '/copy', ',ro'), '--', 'sh', '-c'],
    'touch /etc/new && ls /copy/new && touch /copy/other; mount -o remount,rw /copy; touch /copy/x',
  ]);
  t.is(half.stdout, '/copy/new');
  t.is(String(half.stderr).match(/Read-only file system/g)?.length, 2, String(half.stderr));
});

test.serial(
  'nothing of the init’s own is bound or covered, whatever link leads there',
  async (t) => {
    const { kiln, as } = t.context;
    const walls = /leads to where the sandbox’s walls are/;
    const attempts: readonly (readonly [source: string, target: string, why: RegExp])[] = [
      ['/src/proc', '/x', walls],
      ['/src/proc/1', '/x', walls],
      ['/src/self/root', '/x', /walls are|a link that leads nowhere/],
      ['/src/magic', '/x', /a link that leads nowhere/],
      ['/src/magic/etc', '/x', /a link that leads nowhere/],
      ['/src/up', '/x', walls],
      ['/src/dev', '/x', walls],
      ['/src/secrets', '/x', walls],
      ['/src/secrets/t', '/x', walls],
      ['/src/run', '/x', walls],
      ['/run', '/x', walls],
      ['/src/loop', '/x', /a link that leads nowhere/],
      ['/src/gone', '/x', /one of them is not there/],
      ['/no/where', '/x', /one of them is not there/],
      ['/etc', '/src/proc', walls],
      ['/etc', '/src/proc/sys', walls],
      ['/etc', '/src/dev', walls],
      ['/etc', '/src/secrets', walls],
      ['/etc', '/src/run', walls],
      ['/etc', '/src/up', walls],
      ['/etc', '/etc/passwd', /one is a folder, the other is not/],
      ['/proc/self', '/x', /nothing is bound from or to \/proc\/self/],
      ['/etc', '/run/secrets/t', /nothing is bound from or to \/run\/secrets\/t/],
      ['/etc', '/', /nothing is bound from or to \/ inside/],
      ['/etc/../proc', '/x', /not an absolute path without/],
      ['etc', '/x', /not an absolute path/],
      ['/etc', '/src', /two mounts are for \/src/],
      ['/src', '/deep', /the guest bind on \/deep would hide a mount that is below/],
    ];
    const base = ['run', '-r', 'busybox', '--bind', `${place}:/src:ro`, '--tmpfs', '/deep/m'];
    const secret = ['--secret', `t=${join(place, 'token')}`];
    for (const [source, target, why] of attempts) {
      const words = [...base, ...secret, '--guest-bind', `${source}:${target}`];
      const { stdout, stderr, exitCode } = await kiln([...words, '--', 'ls', '-R', '/x']);
      t.is(exitCode, 125, `${source} ${target}: ${stdout}`);
      t.regex(String(stderr), why, `${source} ${target}`);
    }
    const shown = await as(USER, [...base, ...guest('/src/tmp', '/x'), '--', 'ls', '-d', '/x']);
    t.is(shown.stdout, '/x', 'a link to a place without walls is followed');
  },
);

test.serial('another root between commands has the same places, of its own files', async (t) => {
  const { kiln } = t.context;
  const ok = async (...args: readonly string[]) => {
    const { stdout, stderr, exitCode } = await kiln(args);
    t.is(exitCode, 0, String(stderr));
    return String(stdout);
  };
  const words = [...guest('/data', '/copy', ',ro'), '-u', 'root'];
  const first = await kiln(['run', '-r', 'busybox', '--keep', ...words, '--', 'true']);
  t.regex(String(first.stderr), /one of them is not there/);
  const kept = ['run', '-r', 'busybox', '--on-disk', '--keep', '-u', 'root'];
  const how = [...guest('/home', '/copy', ',ro'), '--', 'sh', '-c', 'echo one >/home/f'];
  t.is((await kiln([...kept, ...how])).exitCode, 0);
  const [{ id }] = JSON.parse(await ok('ps', '--json'));
  await ok('snapshot', id, 'one');
  await ok('exec', id, '--', 'sh', '-c', 'echo two >/home/f');
  t.is(await ok('exec', id, '--', 'cat', '/copy/f'), 'two');
  await ok('rollback', id, 'one');
  t.is(await ok('exec', id, '--', 'cat', '/copy/f', '/home/f'), 'one\none');
  const closed = await kiln(['exec', id, '--', 'touch', '/copy/x']);
  t.regex(String(closed.stderr), /Read-only file system/);
  await ok('kill', id);
  await ok('snapshot', 'rm', 'one');
});
