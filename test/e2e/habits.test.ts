/** What people are used to from podman and docker: understood, or answered with kiln's own word. */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { timeInMilliseconds } from '../../src/options/measures.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const run = (...words: string[]) => state.kiln(['run', '-r', IMAGE, ...words]);

test('-v, -e, -w, -u, -i and --rm of kiln run work as with docker', async (t) => {
  await mkdir(join(state.beside, 'in'));
  await writeFile(join(state.beside, 'in/file'), 'of the host');
  const { stdout, stderr } = await run(
    ...['--rm', '-i', '-v', `${state.beside}/in:/in:ro`, '-e', 'NAME=value', '-w', '/in'],
    ...['-u', '0', '--network', 'none', '--', 'sh', '-c', 'cat file; echo; echo $NAME; pwd; id -u'],
  );
  t.is(stdout, 'of the host\nvalue\n/in\n0', String(stderr));
});

test('--mount is podman’s spelling of --bind and --tmpfs', async (t) => {
  const folder = join(state.beside, 'mounted');
  await mkdir(folder);
  await writeFile(join(folder, 'file'), 'of the host');
  const { stdout, stderr } = await run(
    ...['--mount', `type=bind,src=${folder},dst=/in,readonly`],
    ...[`--mount=type=bind,source=${folder},target=/out,ro=false`],
    ...['--mount', 'type=tmpfs,destination=/scratch,tmpfs-size=1M', '--'],
    ...[
      'sh',
      '-c',
      'cat /in/file; echo; touch /in/a || echo no; echo b >/out/b; df -k /scratch; echo --mount',
    ],
  );
  t.regex(String(stdout), /^of the host\nno\n.* 1024 .*\/scratch\n--mount$/s, String(stderr));
  t.false(existsSync(join(folder, 'a')));
  t.is(readFileSync(join(folder, 'b'), 'utf8'), 'b\n');
});

test('-it is two flags, and words after the command are its own', async (t) => {
  const { stdout, stderr } = await run('-i', '--', 'echo', '-it', '--rm', '-p');
  t.is(stdout, '-it --rm -p', String(stderr));
  const explained = await run('-it', '--explain', '--', 'true');
  t.is(explained.exitCode, 0, String(explained.stderr));
});

test('-p takes no UDP, and says so', async (t) => {
  const { exitCode, stderr } = await run('-p', '8080:80/udp', '--', 'true');
  t.is(exitCode, 125);
  t.regex(String(stderr), /HOSTPORT:PORT, as 8081:80; only TCP ports can be published/);
});

test('kiln run IMAGE COMMAND gets a hint with the right command line', async (t) => {
  const { exitCode, stderr } = await state.kiln(['run', 'debian-minimal', 'ls', '-l'], {
    env: { ...state.env, KILN_IMAGE: undefined },
  });
  t.is(exitCode, 127);
  t.regex(String(stderr), /debian-minimal is taken for the command/);
  t.regex(String(stderr), /^ {2}hint: kiln run -r debian-minimal -- ls -l$/m);
});

test('kiln run IMAGE COMMAND gets that hint even where an image is configured', async (t) => {
  const env = { ...state.env, KILN_IMAGE: IMAGE };
  const words = ['run', 'debian-minimal', 'sh', '-c', 'echo a'];
  const { exitCode, stderr } = await state.kiln(words, { env });
  t.is(exitCode, 127);
  t.regex(String(stderr), /^ {2}hint: kiln run -r debian-minimal -- sh -c 'echo a'$/m);
  const named = await run('debian-minimal');
  t.regex(
    String(named.stderr),
    /^kiln: debian-minimal: not found in the image \[E_COMMAND_NOT_FOUND\]$/m,
  );
  const shell = await state.kiln(['shell', 'debian-minimal']);
  t.regex(String(shell.stderr), /`kiln shell -r debian-minimal`/);
});

test('docker’s names of commands are answered with kiln’s', async (t) => {
  const words = { images: 'kiln image ls', pull: 'kiln image pull', rm: 'kiln kill' };
  for (const [theirs, ours] of Object.entries(words)) {
    const { exitCode, stderr } = await state.kiln([theirs]);
    t.is(exitCode, 125);
    t.true(String(stderr).includes(`did you mean ${ours}?`), String(stderr));
  }
  const near = await state.kiln(['image', 'rn']);
  t.regex(String(near.stderr), /did you mean rm\? `kiln image --help`/);
});

test('an image named after its program, and a program of the host, get a hint', async (t) => {
  const image = await state.kiln(['run', '-r', 'python:3.13', '--', 'true']);
  t.regex(String(image.stderr), /did you mean debian-python\?.*docker:\/\/python:3\.13/);
  const program = await run('./script.sh');
  t.is(program.exitCode, 127);
  t.regex(String(program.stderr), /--bind \.:\/src:ro/);
});

test('durations may have several units', (t) => {
  const hours = { '1h30m': 5_400_000, '1d2h3m4s': 93_784_000, '2w': 1_209_600_000, '90': 90_000 };
  for (const [text, milliseconds] of Object.entries(hours)) {
    t.is(timeInMilliseconds(text), milliseconds, text);
  }
  for (const text of ['30m1h', '1h1h', '1h30', 'h', '', '1h 30m', '-1h']) {
    t.is(timeInMilliseconds(text), undefined, text);
  }
});

test.serial(
  'lists have names of images, ISO times and templates; -a adds parked sandboxes',
  async (t) => {
    const kept = await run('--keep=1h30m', '--', 'echo', 'kept');
    const [, id = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
    t.regex(
      String((await state.kiln(['ps'])).stdout),
      new RegExp(`^${id} +kept +root +\\d+s +busybox `, 'm'),
    );
    const [listed] = JSON.parse(String((await state.kiln(['ps', '--json'])).stdout));
    const left = Date.parse(listed.keepUntil) - Date.now();
    t.true(left > 5_000_000 && left <= 5_400_000, String(left));
    t.regex(listed.created, /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    t.is(listed.imageName, 'busybox');
    const format = async (...words: string[]) => (await state.kiln(words)).stdout;
    t.is(await format('ps', '--format', '{{.ID}}\\t{{ .State }}'), `${id}\tkept`);
    t.is(await format('image', 'ls', '--format', '{{.Name}} {{.Use}}'), 'busybox in use');
    t.true(listed.memoryBytes > 0 && listed.sizeBytes >= 0, JSON.stringify(listed));
    const write = 'head -c 5000000 /dev/zero >/tmp/five && head -c 3000000 /dev/zero >/bin/three';
    const wrote = await state.kiln(['exec', '-u', '0', id, '--', 'sh', '-c', write]);
    t.is(wrote.exitCode, 0, String(wrote.stderr));
    const [after] = JSON.parse(String(await format('ps', '--json')));
    // Pages are handed out whole, and some are the init's.
    const written = after.sizeBytes - listed.sizeBytes;
    t.true(written >= 8_000_000 && written < 8_500_000, String(written));
    t.true(after.memoryBytes >= after.sizeBytes, JSON.stringify(after));
    t.regex(String(await format('ps', '--format', '{{.Size}} {{.Memory}}')), /^7\.[67]M \d+\.\dM$/);
    const [image] = JSON.parse(String(await format('image', 'ls', '--json')));
    t.regex(image.lastUse, /Z$/);
    const wrong = await state.kiln(['ps', '--format', '{{.Nam}}']);
    t.is(wrong.exitCode, 125);
    t.regex(
      String(wrong.stderr),
      /no field \.Nam \[E_ARGUMENT\]\n {2}hint: the fields are \.ID, \.STATE/,
    );
    await state.kiln(['service', 'create', '-r', 'busybox', 's1', '--', 'sleep', '100']);
    t.is(await format('service', 'list', '--format', '{{.Name}}: {{.State}}'), 's1: created');
    t.is(await format('ps', '-q'), id);
    t.is(await format('service', 'list', '-q'), 's1');
    t.is(JSON.parse(String(await format('ps', '--format', 'json')))[0].id, id);
    const [sandbox] = JSON.parse(String(await format('inspect', id.slice(0, 6))));
    t.like(sandbox, { type: 'sandbox', id, state: 'kept', imageName: 'busybox' });
    const none = await state.kiln(['inspect', 'nothing']);
    t.is(none.exitCode, 125);
    t.regex(String(none.stderr), /there is no sandbox, job or image nothing \[E_IMAGE_MISSING\]/);
    await state.kiln(['kill', id]);
    t.is(await format('ps', '--format', '{{.ID}}'), '');
  },
);

test('--env-file has lines as with podman; --env counts before it', async (t) => {
  const [one, two] = [join(state.beside, 'one.env'), join(state.beside, 'two.env')];
  await writeFile(one, '# a comment\n\nA=of one\nB="quoted" = so\nFROM_CALLER\nNOBODY\n');
  await writeFile(two, 'A=of two\nC=of two');
  const files = ['--env-file', one, '--env-file', two, '--env', 'C=given'];
  const words = [
    'run',
    '-r',
    IMAGE,
    ...files,
    '--',
    'sh',
    '-c',
    'echo "$A|$B|$C|$FROM_CALLER"; env',
  ];
  const { stdout, stderr } = await state.kiln(words, { env: { ...state.env, FROM_CALLER: 'yes' } });
  const [first, ...others] = String(stdout).split('\n');
  t.is(first, 'of two|"quoted" = so|given|yes', String(stderr));
  t.false(others.some((line) => line.startsWith('NOBODY=')));
  await writeFile(two, 'A=1\nnot a variable\n');
  const wrong = await run('--env-file', two, '--', 'true');
  t.is(wrong.exitCode, 125);
  t.regex(String(wrong.stderr), /two\.env: line 2 has no NAME=VALUE \[E_ARGUMENT\]/);
  const missing = await run('--env-file', 'none.env', '--', 'true');
  t.is(missing.exitCode, 125);
});

test.serial('kiln df shows usage, and gc --dry-run removes nothing', async (t) => {
  const cache = join(state.paths.cache, 'packages');
  await mkdir(cache, { recursive: true });
  await writeFile(join(cache, 'some.rpm'), Buffer.alloc(3 << 20));
  await utimes(join(cache, 'some.rpm'), 1, 1);
  const rows = JSON.parse(String((await state.kiln(['df', '--json'])).stdout));
  t.like(rows[0], { type: 'images', count: 1 });
  // Small files that kiln keeps there count as well.
  t.true(rows[2].type === 'downloads' && rows[2].bytes >= 3 << 20);
  t.regex(String((await state.kiln(['df'])).stdout), /^downloads +\d+ +3\.0M +3\.0M$/m);
  const directory = join(state.paths.services, 's1');
  await writeFile(join(directory, 'big'), Buffer.alloc(5 << 20, 1));
  const du = Number((await execa('du', ['-sB1', directory])).stdout.split('\t')[0]);
  const after = JSON.parse(String((await state.kiln(['df', '--json'])).stdout));
  const services = after.find(({ type }: { readonly type: string }) => type === 'services');
  t.like(services, { type: 'services', count: 1, unusedBytes: 0 });
  t.true(Math.abs(services.bytes - du) <= 8192 && du > 5 << 20, `${services.bytes} and ${du}`);
  const dry = await state.kiln(['gc', '--max-age', '1h30m', '--dry-run']);
  t.regex(String(dry.stdout), /^would remove (?:.*, )?1 download: 3\.0M$/, String(dry.stderr));
  t.true(existsSync(join(cache, 'some.rpm')));
  t.regex(String((await state.kiln(['gc', '--max-age', '1h30m'])).stdout), /\b1 download: 3\.0M$/);
  t.false(existsSync(join(cache, 'some.rpm')));
});
