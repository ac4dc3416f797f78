/** The image `host`: this host's own /usr, read-only, and nothing else of it. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { readHost } from '../../src/image/tree/host-tree.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
  state.env.KILN_FIXTURES = join(state.beside, 'no-fixtures');
  delete state.env.KILN_IMAGE;
  // As right after installation: nothing is there.
  await rm(join(state.paths.images, IMAGE), { recursive: true });
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const run = (...words: string[]) => state.kiln(['run', ...words]);

async function output(t: ExecutionContext, ...words: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await run(...words);
  t.is(exitCode, 0, String(stderr));
  return String(stdout);
}

test.serial('a command runs at once where there is no image, and none is named', async (t) => {
  const first = await run('--', 'sh', '-c', 'id -u; id -un; pwd; readlink /proc/self/exe');
  t.is(first.exitCode, 0, String(first.stderr));
  const shell = (await execa('readlink', ['-f', '/bin/sh'])).stdout;
  t.is(
    first.stdout,
    `1000\nbuild\n/builddir\n${(await execa('readlink', ['-f', '/usr/bin/readlink'])).stdout}`,
  );
  t.true(existsSync(shell));
  t.is(
    first.stderr,
    'kiln: no image is named, so this runs on the host’s own /usr, read-only; -r IMAGE names one',
  );
  const second = await run('--', 'true');
  t.is(`${second.exitCode}${second.stderr}`, '0', 'it is said once a day');
});

test.serial(
  'a sandbox of the host’s image has the host’s programs, libraries and authorities',
  async (t) => {
    const files = ['/usr/bin/env', '/etc/ld.so.cache'];
    const sums = await execa('sha256sum', files);
    t.is(await output(t, '-r', 'host', '--', 'sha256sum', ...files), sums.stdout);
    const bundle = '/etc/ssl/certs/ca-certificates.crt';
    if (!existsSync(bundle)) return;
    const count = (text: string) => text.match(/BEGIN/g)?.length;
    const inside = await output(t, '-r', 'host', '--', 'cat', bundle);
    t.is(count(inside), count(readFileSync(bundle, 'utf8')));
  },
);

test.serial(
  '--keep, exec, shell and a recipe take the host’s image, and image ls lists it',
  async (t) => {
    const kept = await run('-r', 'host', '--keep', '--', 'sh', '-c', 'echo one >/tmp/it');
    const id = /kept as (\w+)/.exec(String(kept.stderr))?.[1] ?? '';
    const entered = await state.kiln(['exec', '--user', 'root', id, 'cat', '/tmp/it']);
    t.is(entered.stdout, 'one', String(entered.stderr));
    await state.kiln(['kill', id]);
    const shell = await state.kiln(['shell', '-r', 'host'], {
      input: 'echo $((6 * 7))\n',
      stdin: undefined,
    });
    t.is(shell.stdout, '42', String(shell.stderr));
    const recipe = join(state.beside, 'recipe.yaml');
    await writeFile(recipe, JSON.stringify({ image: 'host', steps: ['test -x /usr/bin/env'] }));
    const built = await state.kiln(['build', recipe, '--resultdir', join(state.beside, 'out')]);
    t.is(built.exitCode, 0, String(built.stderr));
    const listed = await state.kiln(['image', 'ls', '--json']);
    const images = JSON.parse(String(listed.stdout)) as readonly { names: readonly string[] }[];
    t.deepEqual(
      images.map(({ names }) => names),
      [['host']],
    );
    const known = await state.kiln(['inspect', 'host']);
    const [image] = JSON.parse(String(known.stdout)) as readonly object[];
    t.like(image, { type: 'image', name: 'host', workdir: '/builddir' }, String(known.stderr));
  },
);

test.serial('builds, services and exports refuse it with a reason', async (t) => {
  const refusals: readonly (readonly [readonly string[], RegExp])[] = [
    [['image', 'export', 'host', '-o', join(state.beside, 'x.tar')], /host is not for exports/],
    [['service', 'create', '-r', 'host', 'x', '--', 'true'], /host is not for services/],
    [['service', 'create', 'x', '--', 'true'], /which image the service has/],
    [
      ['image', 'import', '--name', 'host', join(state.beside, 'x.tar')],
      /host means \/usr, and no other image/,
    ],
  ];
  const admin = await run('-r', 'host', '--cap-add', 'SYS_ADMIN', '--', 'true');
  t.regex(String(admin.stderr), /a command with SYS_ADMIN cannot have files of this host/);
  for (const [words, why] of refusals) {
    const { exitCode, stderr } = await state.kiln(words);
    t.not(exitCode, 0, words.join(' '));
    t.regex(String(stderr), why);
  }
});

/** What stands in /usr/local of the host meanwhile, in a mount namespace of its own. */
const LOCAL = `
  mount -t tmpfs -o mode=755 none /usr/local
  cd /usr/local
  echo secret >closed; chmod 600 closed
  mkdir folder; echo secret >folder/file; chmod 700 folder
  mkdir mounted; echo secret >mounted/hidden
  mount -t tmpfs none mounted; echo shown >mounted/shown; chmod 644 mounted/shown
  echo secret >"$OUT/secret"; chmod 644 "$OUT/secret"
  ln -s "$OUT/secret" link
  ln -s "../../../../../../../..$OUT/secret" climbing
  ln -s "$OUT" way
  ln -s "/proc/self/root$OUT/secret" around
  ln -s /etc/shadow shadow
  ln -s /proc/1/root/etc/shadow shadow-of-init
  echo open >open; chmod 666 open
  cp /usr/bin/id set-id; chmod 4755 set-id
  mknod kmsg c 1 11; chmod 666 kmsg`;

/** Prints the name of what gets through. */
const ATTEMPTS = `
  try() { name=$1; shift; "$@" >/dev/null 2>&1 && echo "$name"; }
  cd /
  try closed cat /usr/local/closed
  try folder cat /usr/local/folder/file
  try link cat /usr/local/link
  try shadow cat /usr/local/shadow
  try shadow-of-init cat /usr/local/shadow-of-init
  try climbing cat /usr/local/climbing
  try way cat /usr/local/way/secret
  try around cat /usr/local/around
  try path cat "$OUT/secret"
  try by-init cat "/proc/1/root$OUT/secret"
  try by-init-folder cat "/proc/1/cwd/../../../../..$OUT/secret"
  try by-map sh -c 'cat /proc/1/map_files/*'
  try by-self cat "/proc/self/root$OUT/secret"
  try by-parent cat "/usr/../..$OUT/secret"
  try state ls "$KILN_STATE_FOLDER"
  try machine-id test -s /etc/machine-id
  try private ls /etc/ssl/private
  try write sh -c 'echo x >/usr/local/open'
  try reopen sh -c 'exec 3</usr/local/open && echo x >/proc/self/fd/3'
  try make touch /usr/local/made
  try mode chmod 644 /usr/local/closed
  try owner chown 1000 /usr/local/closed
  try hard-link sh -c 'ln /usr/local/closed /usr/local/hard && cat /usr/local/hard'
  try make-in-bin touch /usr/bin/kiln-test-made
  try set-id sh -c '/usr/local/set-id -u | grep -qx 0 && test "$(id -u)" != 0'
  try own-set-id sh -c 'cp /usr/local/set-id /tmp/s && chmod 4755 /tmp/s && /tmp/s -u | grep -qx 0 && test "$(id -u)" != 0'
  try own-device sh -c 'mknod /tmp/k c 1 11 && dd if=/tmp/k of=/dev/null bs=4096 count=1 iflag=nonblock'
  try device dd if=/usr/local/kmsg of=/dev/null bs=4096 count=1 iflag=nonblock
  try uncover sh -c 'umount /usr/local/mounted && cat /usr/local/mounted/hidden'
  try remount sh -c 'mount -o remount,rw,bind /usr/local && echo x >/usr/local/open'
  try again sh -c 'mkdir -p /tmp/b && mount --bind /usr/local /tmp/b && mount -o remount,rw,bind /tmp/b && echo x >/tmp/b/open'
  try over sh -c 'mkdir -p /tmp/r && mount --rbind / /tmp/r && cat "/tmp/r$OUT/secret"'
  try below sh -c 'umount -l /usr && ls /usr/local'
  try remount-usr sh -c 'mount -o remount,rw,bind /usr && touch /usr/kiln-test-made'
  try overlay sh -c 'mkdir -p /tmp/u /tmp/w /tmp/m && mount -t overlay none -o lowerdir=/usr/local,upperdir=/tmp/u,workdir=/tmp/w /tmp/m && cat /tmp/m/closed'
  try copy-write sh -c 'echo x >/copy/local/open'
  try copy-make touch /copy/bin/kiln-test-made
  try copy-closed cat /copy/local/closed
  try copy-hidden cat /copy/local/mounted/hidden
  try copy-link cat /copy/local/climbing
  try copy-set-id sh -c '/copy/local/set-id -u | grep -qx 0 && test "$(id -u)" != 0'
  try rename mv /usr/local/link /usr/local/moved
  try remove rm /usr/local/way
  true`;

/** SYS_ADMIN is refused. */
const added = ['DAC_READ_SEARCH', 'SYS_PTRACE', 'SYS_CHROOT', 'NET_ADMIN'].flatMap((name) => [
  '--cap-add',
  name,
]);

/** By how a command is run. */
const WAYS: Readonly<Record<string, readonly string[]>> = {
  'as a user': [],
  'as root, with capabilities': ['--user', 'root', ...added],
  'with another place for /usr': ['--guest-bind', '/usr:/copy', '--user', 'root'],
  'in a nested sandbox': ['--profile', 'nested', '--user', 'root'],
};

/** Runs a program with {@link LOCAL} in place: what it mounts is gone with it. */
async function withLocal(program: string, ...words: readonly string[]) {
  const script = `set -e; ${LOCAL}\nset +e; exec "$@"`;
  const { exitCode, stdout, stderr } = await execa(
    'unshare',
    ['--mount', 'sh', '-c', script, 'sh', program, ...words],
    {
      env: { ...state.env, OUT: state.beside, KILN_STATE_FOLDER: state.paths.root },
      reject: false,
      stdin: 'ignore',
      timeout: 60_000 * PATIENCE,
    },
  );
  if (exitCode !== 0) throw new Error(`${exitCode}: ${stderr}`);
  return stdout;
}

test.serial('no attempt to change or read the host succeeds, however a command runs', async (t) => {
  const names = [...ATTEMPTS.matchAll(/try ([\w-]+) /g)].map(([, name]) => name);
  const told = ['--env', `OUT=${state.beside}`, '--env', `KILN_STATE_FOLDER=${state.paths.root}`];
  for (const [how, options] of Object.entries(WAYS)) {
    const words = ['run', '-r', 'host', ...options, ...told, '--', 'sh', '-c'];
    const inside = 'unshare --map-root-user --mount sh -c "$0"';
    const script = `sh -c "$0"; ${how.includes('nested') ? inside : ':'}; cat /usr/local/mounted/shown`;
    t.is(await withLocal(KILN, ...words, script, ATTEMPTS), 'shown', how);
  }
  // They would, where nothing is in the way: but for what needs another user, and what this host lacks.
  const through = (await withLocal('sh', '-c', ATTEMPTS)).split('\n');
  const cannot = [
    'set-id',
    'shadow-of-init',
    'by-init',
    'by-init-folder',
    'by-map',
    'below',
    'own-set-id',
    'own-device',
    'make-in-bin',
    'remount-usr',
    'private',
    'machine-id',
    'device',
    'overlay',
    // Only a sandbox has it.
    ...['copy-write', 'copy-make', 'copy-closed', 'copy-hidden', 'copy-link', 'copy-set-id'],
  ];
  t.deepEqual(
    names.filter((name) => !through.includes(name ?? '') && !cannot.includes(name ?? '')),
    [],
  );
});

test.serial(
  'mounts of it are read-only, nosuid and nodev, and nothing else is mounted',
  async (t) => {
    const mounts = await withLocal(KILN, 'run', '-r', 'host', '--', 'cat', '/proc/self/mountinfo');
    const rows = mounts.split('\n').map((line) => line.split(' '));
    const usr = rows.filter(([, , , , path]) => /^\/usr(?:\/|$)/.test(path ?? ''));
    t.true(usr.length >= 3, mounts);
    for (const row of usr) {
      const options = row[5]?.split(',') ?? [];
      for (const option of ['ro', 'nosuid', 'nodev'])
        t.true(options.includes(option), row.join(' '));
    }
    const others = rows
      .map(([, , , , path = '']) => path)
      .filter((path) => !/^\/(?:usr|proc|dev)(?:\/|$)/.test(path));
    t.deepEqual(others.sort(), ['/', '/run', '/tmp', '/var/tmp']);
  },
);

test.serial(
  'the image host has only the files of /etc in its docs, and no other folder of the host',
  async (t) => {
    const listed = await output(t, '-r', 'host', '--', 'sh', '-c', 'ls -A /; echo; ls -A /etc');
    const [top = '', etc = ''] = listed.split('\n\n');
    const links = readdirSync('/').filter((name) => /^(?:s?bin|lib\w*)$/.test(name));
    const own = ['builddir', 'dev', 'etc', 'proc', 'root', 'run', 'tmp', 'usr', 'var', ...links];
    t.deepEqual(top.split('\n').sort(), own.sort());
    const known = [
      'alternatives',
      'group',
      'hosts',
      'ld.so.cache',
      'nsswitch.conf',
      'os-release',
      'passwd',
      'pki',
      'ssl',
    ];
    t.deepEqual(
      etc.split('\n').filter((name) => !known.includes(name)),
      [],
    );
    const outside = await output(
      t,
      '-r',
      'host',
      '--',
      'sh',
      '-c',
      'for l in /etc/alternatives/*; do readlink $l; done',
    );
    t.deepEqual(
      outside.split('\n').filter((link) => !/^\/?(?:usr|s?bin|lib\w*)\//.test(link) && link !== ''),
      [],
    );
  },
);

test('a /bin that is a folder of its own is shown beside /usr, and no key is copied', async (t) => {
  const root = join(state.beside, 'root');
  for (const name of ['usr/bin', 'bin', 'lib', 'etc/alternatives', 'etc/ssl/certs'])
    await mkdir(join(root, name), { recursive: true });
  await symlink('usr/sbin', join(root, 'sbin'));
  await symlink('lib', join(root, 'lib64'));
  await symlink('/usr/bin/vim', join(root, 'etc/alternatives/editor'));
  await symlink('/srv/secret', join(root, 'etc/alternatives/secret'));
  const pem = (what: string) => `-----BEGIN ${what}-----\nAAAA\n-----END ${what}-----\n`;
  const bundle = pem('CERTIFICATE') + pem('PRIVATE KEY') + pem('CERTIFICATE');
  await writeFile(join(root, 'etc/ssl/certs/ca-certificates.crt'), bundle, { mode: 0o644 });
  await writeFile(join(root, 'etc/ld.so.cache'), 'x', { mode: 0o600 });
  const { entries, folders } = readHost(root);
  t.deepEqual(folders, ['/bin', '/lib', '/usr']);
  const links = entries.flatMap((entry) =>
    'link' in entry ? [`${entry.path} ${entry.link}`] : [],
  );
  t.deepEqual(links.sort(), [
    '/etc/alternatives/editor /usr/bin/vim',
    '/etc/os-release ../usr/lib/os-release',
    '/lib64 lib',
    '/sbin usr/sbin',
  ]);
  const files = entries.flatMap((entry) => ('content' in entry ? [entry] : []));
  const certificates = files.find(({ path }) => path.endsWith('.crt'));
  t.is(String(certificates?.content), pem('CERTIFICATE').repeat(2));
  t.is(
    files.find(({ path }) => path === '/etc/ld.so.cache'),
    undefined,
    'closed to others',
  );
});
