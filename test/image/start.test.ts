/** ENTRYPOINT, CMD, EXPOSE and HEALTHCHECK of images of others: read, shown, exported and run. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState } from '../support/busybox-state.ts';
import { changeFolder, changeLayout } from '../support/oci-layout.ts';

let state: BusyboxState;
let plain: string;

const kiln = async (...words: string[]): Promise<string> => {
  const { exitCode, stdout, stderr } = await state.kiln(words);
  if (exitCode !== 0) throw new Error(String(stderr));
  return String(stdout);
};

/** An image of skopeo's copy of the plain layout, with these fields in its configuration. */
async function imported(name: string, fields: object): Promise<void> {
  const layout = join(state.beside, name);
  await execa('skopeo', ['copy', '--quiet', `oci:${plain}`, `oci:${layout}`]);
  changeLayout(layout, fields);
  await kiln('image', 'import', layout);
}

test.before(async () => {
  state = await busyboxState();
  plain = join(state.beside, 'plain');
  const archive = join(state.beside, 'busybox.tar');
  await kiln('image', 'export', 'busybox', '-o', archive);
  await kiln('image', 'import', archive, '--name', 'bare');
  await kiln('image', 'export', 'bare', '-o', plain);
  await imported('both', { Entrypoint: ['/bin/echo', 'entry'], Cmd: ['usual', 'words'] });
  await imported('cmd', { Cmd: ['/bin/sh', '-c', 'echo "usual $0"; exit 7'] });
  await imported('entry', { Entrypoint: ['/bin/echo', 'entry'], WorkingDir: '/tmp' });
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** What podman runs of the same image and words. */
const CASES: readonly (readonly [image: string, words: readonly string[], said: string])[] = [
  ['both', [], 'entry usual words'],
  ['both', ['--', 'mine'], 'entry mine'],
  ['both', ['mine', '-n'], 'entry mine -n'],
  ['both', ['--entrypoint', '', '--', 'echo', 'alone'], 'alone'],
  ['both', ['--entrypoint', '/bin/hostname'], 'kiln'],
  ['both', ['--entrypoint', '["echo", "two words"]', '--', 'more'], 'two words more'],
  ['cmd', ['--', 'echo', 'other'], 'other'],
  ['cmd', ['--entrypoint', 'echo', '--', 'x'], 'x'],
  ['entry', [], 'entry'],
  ['entry', ['--', 'a b'], 'entry a b'],
  ['bare', ['--entrypoint', 'echo'], ''],
];

test('ENTRYPOINT and CMD are run, and given words take the place of CMD', async (t) => {
  for (const [image, words, said] of CASES) {
    const run = await state.kiln(['run', '-r', image, ...words]);
    t.is(String(run.stdout), said, `${image} ${words.join(' ')}: ${run.stderr}`);
    t.is(run.exitCode, 0);
  }
  const usual = await state.kiln(['run', '-r', 'cmd']);
  t.is(usual.exitCode, 7, String(usual.stderr));
  t.is(usual.stdout, 'usual /bin/sh');
});

test('without a command of either, the refusal says how to write one', async (t) => {
  for (const [words, what] of [
    [['run', '-r', 'bare'], /no command is given, and the image bare has no CMD/],
    [['run', '-r', 'both', '--entrypoint', '["a"'], /is no JSON array of words/],
    [['run', '-r', 'debian-build'], /no command is given, and the image debian-build has no CMD/],
    [['run', '-r', 'host'], /hint: write it behind --: kiln run -r host -- COMMAND/],
  ] as const) {
    const { exitCode, stderr } = await state.kiln(words);
    t.is(exitCode, 125);
    t.regex(String(stderr), what);
  }
  t.false(existsSync(join(state.paths.store, 'references')), 'no image was made for that');
});

test('a shell, and what runs a result again, leave ENTRYPOINT out', async (t) => {
  const shell = await state.kiln(['shell', '-r', 'both'], {
    stdin: 'pipe',
    input: 'echo $((6 * 7))\n',
  });
  t.is(shell.stdout, '42', String(shell.stderr));
  const run = await state.kiln(['run', '-r', 'both', '--resultdir', join(state.beside, 'r')]);
  t.is(run.exitCode, 0, String(run.stderr));
  const { request } = JSON.parse(readFileSync(join(state.beside, 'r/result.json'), 'utf8'));
  t.deepEqual(request.argv, ['/bin/echo', 'entry', 'usual', 'words']);
  const report = readFileSync(join(state.beside, 'r/report.html'), 'utf8');
  t.true(report.includes('--entrypoint &#39;&#39; -- /bin/echo entry usual words'), report);
});

test('what an image says is shown, and exported as skopeo reads it', async (t) => {
  const fields = {
    Entrypoint: ['/bin/echo', 'entry'],
    Cmd: ['usual'],
    ExposedPorts: { '80/tcp': {}, '53/udp': {} },
    User: '1000:50',
    WorkingDir: '/var/tmp',
  };
  await imported('whole', fields);
  const shown = JSON.parse(await kiln('image', 'show', 'whole'));
  t.like(shown, { entrypoint: ['/bin/echo', 'entry'], command: ['usual'], workdir: '/var/tmp' });
  t.deepEqual(shown.exposed, ['80/tcp', '53/udp']);
  t.like(shown.user, { uid: 1000, gid: 50 });
  const layout = join(state.beside, 'exported');
  await kiln('image', 'export', 'whole', '-o', layout);
  const { stdout } = await execa('skopeo', ['inspect', '--config', `oci:${layout}`]);
  const { Entrypoint, Cmd, ExposedPorts, WorkingDir } = JSON.parse(stdout).config;
  const { User: _, ...others } = fields;
  t.deepEqual({ Entrypoint, Cmd, ExposedPorts, WorkingDir }, others);
});

test('a pull keeps HEALTHCHECK, which a layout has no place for', async (t) => {
  const folder = join(state.beside, 'docker');
  await execa('skopeo', ['copy', '--quiet', '--format', 'v2s2', `oci:${plain}`, `dir:${folder}`]);
  changeFolder(folder, {
    Cmd: ['true'],
    Healthcheck: { Test: ['CMD', 'true'], Interval: 30_000_000_000, Retries: 3 },
  });
  await kiln('image', 'pull', `dir:${folder}`, '--name', 'healthy');
  const { healthcheck, command } = JSON.parse(await kiln('image', 'show', 'healthy'));
  t.deepEqual(healthcheck, { test: ['CMD', 'true'], interval: 30_000, retries: 3 });
  t.deepEqual(command, ['true']);
});

test('a word with a NUL makes an image no layout', async (t) => {
  const layout = join(state.beside, 'nul');
  await execa('skopeo', ['copy', '--quiet', `oci:${plain}`, `oci:${layout}`]);
  changeLayout(layout, { Cmd: ['a\0b'] });
  const { exitCode, stderr } = await state.kiln(['image', 'import', layout]);
  t.is(exitCode, 125);
  t.regex(String(stderr), /is not what an OCI layout has there \[E_OCI\]/);
});
