/** Snapshots, forks and binds with `cow` of machines: what a command has written there is what one in a container writes. */
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { long } from '../support/long.ts';

const test = anyTest.serial;

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(() => state[Symbol.asyncDispose]());

const VM = ['--isolation', 'vm', '--allow-missing', 'kvm'] as const;

/** Changes of each kind, in the folder and in the root. */
const CHANGES = `echo more >> a; rm b; ln -s a link; echo new > new; mkdir -p made/deep; echo x > made/deep/x
ln new made/again; rm -r sub/gone; mkdir sub/gone; echo y > sub/gone/y; touch same; echo odd > "$(printf '\\377')"
cd /; rm bin/wc; echo root > root/file; ln root/file root/hard; rm -r home/build; mkdir home/build
chown build home/build; chmod 2750 home/build; touch -d '2001-02-03 04:05:06' root/file; ln -s /etc/passwd etc/odd.link`;

/** All of a root but what is mounted in it. */
const LISTING = `cd /; find bin etc home root -exec stat -c '%n %F %a %u:%g %h' {} + | sort; cat root/file
stat -c %Y root/file`;

async function kiln(t: ExecutionContext, words: readonly string[], expected = 0) {
  const ran = await state.kiln(words, { timeout: 240_000 * PATIENCE });
  t.is(ran.exitCode, expected, `${words.join(' ')}: ${ran.stderr}`);
  return { out: String(ran.stdout), said: String(ran.stderr) };
}

async function folderOf(name: string): Promise<string> {
  const folder = join(state.beside, name);
  await mkdir(join(folder, 'sub/gone/below'), { recursive: true });
  for (const [file, text] of [
    ['a', 'one\n'],
    ['b', 'b\n'],
    ['same', 'same\n'],
    ['sub/gone/below/c', 'c\n'],
  ] as const)
    await writeFile(join(folder, file), text);
  await symlink('b', join(folder, 'of-host'));
  return folder;
}

/** A kept sandbox that has made the changes. */
async function changed(t: ExecutionContext, folder: string, ...ground: readonly string[]) {
  const { said } = await kiln(t, [
    ...['run', ...ground, '-r', IMAGE, '--bind', `${folder}:/src:cow`, '--workdir', '/src'],
    ...['--user', 'root', '--cap-add', 'CHOWN', '--disk', '64M', '--keep=60m'],
    ...[
      '--',
      'sh',
      '-c',
      `chmod() { busybox chmod "$@"; }; chown() { busybox chown "$@"; }; ${CHANGES}`,
    ],
  ]);
  return /kept as (\w+)/.exec(said)?.[1] ?? '';
}

/** Names, kinds, modes, links and content. */
async function content(folder: string): Promise<string> {
  const { stdout } = await execa('find', [folder, '-printf', '%P %y %m %n %l\\n']);
  const files = await execa('find', [folder, '-type', 'f', '-exec', 'sha256sum', '{}', '+']);
  const text = `${stdout}\n${files.stdout}`.replaceAll(folder, '');
  return text.split('\n').sort().join('\n');
}

test('what a machine cannot do with layers is refused by name', async (t) => {
  const { said } = await kiln(t, ['run', ...VM, '-r', IMAGE, '--on-disk', '--', 'true'], 125);
  t.regex(said, /a machine has no --on-disk: .* no overlay can write \[E_MACHINE\]/);
});

long('a machine’s layers are a container’s: diff, apply, snapshots, rollback, forks', async (t) => {
  t.timeout(900_000 * PATIENCE);
  const [mine, theirs] = [await folderOf('machine'), await folderOf('container')];
  const before = await content(mine);
  const machine = await changed(t, mine, ...VM);
  const container = await changed(t, theirs);
  t.is(await content(mine), before);

  const both = async (...words: readonly string[]) => {
    const say = async (id: string) =>
      (
        await kiln(
          t,
          words.map((word) => (word === 'ID' ? id : word)),
        )
      ).out;
    const [one, other] = [await say(machine), await say(container)];
    t.is(one.replaceAll(machine, 'ID'), other.replaceAll(container, 'ID'), words.join(' '));
    return one;
  };
  t.true((await both('diff', 'ID', '/src')).includes('A made/deep/x\n'));
  t.true((await both('diff', 'ID')).includes('D bin/wc\n'));
  await both('diff', '--patch', 'ID', '/src', 'a', 'new');
  const listed = await both('exec', '--user', 'root', 'ID', '--', 'sh', '-c', LISTING);

  await kiln(t, ['snapshot', machine, 'of-machine']);
  await kiln(t, ['snapshot', container, 'of-container']);
  const named = (name: string) => [
    'run',
    '--from',
    name,
    '--user',
    'root',
    '--',
    'sh',
    '-c',
    LISTING,
  ];
  t.is((await kiln(t, named('of-machine'))).out, listed);
  t.is((await kiln(t, named('of-container'))).out, listed);

  await both('apply', 'ID', '/src');
  t.is(await content(mine), await content(theirs));
  // The host puts other files in the place of those that the machine has looked at.
  for (const folder of [mine, theirs]) {
    await writeFile(join(folder, 'next'), 'later\n');
    await rename(join(folder, 'next'), join(folder, 'of-host'));
  }
  await both('exec', 'ID', '--', 'cat', '/src/a', '/src/of-host', '/src/sub/gone/y');

  await both(
    'exec',
    '--user',
    'root',
    'ID',
    '--',
    'sh',
    '-c',
    'rm /root/hard; echo two > /root/two',
  );
  await both('diff', 'ID', 'of-machine');
  await kiln(t, ['rollback', machine, 'of-machine']);
  const again = await kiln(t, ['exec', '--user', 'root', machine, '--', 'sh', '-c', LISTING]);
  t.is(again.out, listed);
  // The memory for what is written is bounded as before.
  const df = 'df -k / | tail -n 1 | awk "{ print \\$2 }"';
  t.is((await kiln(t, ['exec', machine, '--', 'busybox', 'sh', '-c', df])).out, '65536');

  const { said } = await kiln(t, ['fork', 'of-machine'], 125);
  t.regex(said, /is of a machine \[E_MACHINE\]/);
  t.regex((await kiln(t, ['discard', machine, '/src'], 125)).said, /\[E_MACHINE\]/);
  await kiln(t, ['kill', machine, container]);
});

long('a machine begins on snapshots, and what it writes becomes another one', async (t) => {
  t.timeout(900_000 * PATIENCE);
  const first = await kiln(t, [
    ...['run', '-r', IMAGE, '--keep=60m', '--user', 'root', '--', 'sh', '-c'],
    'echo one > /root/one; rm /bin/wc; mkdir /root/d; echo old > /root/d/old',
  ]);
  const below = /kept as (\w+)/.exec(first.said)?.[1] ?? '';
  await kiln(t, ['snapshot', below, 'below']);
  await kiln(t, [
    'exec',
    '--user',
    'root',
    below,
    '--',
    'sh',
    '-c',
    'rm -r /root/d; mkdir /root/d; echo up > /root/up',
  ]);
  await kiln(t, ['snapshot', below, 'above']);
  const folder = await folderOf('lost');
  const script =
    'cat /root/one /root/up; ls /root/d; ls /bin/wc; echo more >> /root/one; rm /root/up; touch /src/x';
  const run = ['run', ...VM, '--from', 'above', '--bind', `${folder}:/src:cow`, '--user', 'root'];
  const ran = await kiln(t, [...run, '--', 'sh', '-c', `${script}; exit 0`]);
  t.is(ran.out, 'one\nup');
  t.regex(ran.said, /"\/src" is bound with cow, and what was written there goes with the sandbox/);

  const forks = await kiln(t, ['fork', ...VM, 'above']);
  const fork = forks.out.trim();
  const write = `${script}; busybox mkfifo /root/fifo; exit 0`;
  await kiln(t, ['exec', '--user', 'root', fork, '--', 'sh', '-c', write]);
  for (const words of [[], ['above']]) {
    const { out, said } = await kiln(t, ['diff', fork, ...words]);
    t.false(out.includes('fifo'));
    t.is(said, 'kiln: 1 fifo, socket or device of the machine cannot be shown');
  }
  await kiln(t, ['snapshot', fork, 'third']);
  const seen = await kiln(t, [
    'run',
    '--from',
    'third',
    '--',
    'sh',
    '-c',
    'cat /root/one; ls /root; ! test -e /bin/wc',
  ]);
  t.is(seen.out, 'one\nmore\nd\none');
  t.is((await kiln(t, ['diff', 'third', 'above'])).out, 'M root/one\nD root/up');
  await kiln(t, ['kill', fork, below]);
  t.false(existsSync(join(folder, 'x')));
  // Nothing of what was unpacked on the way stays.
  const work = join(state.paths.store, 'work');
  t.deepEqual(existsSync(work) ? await readdir(work) : [], []);
  await rm(folder, { recursive: true });
  t.is(
    await readFile(join(state.paths.images, IMAGE, 'tree/etc/group'), 'utf8').then(
      (text) => text.length > 0,
    ),
    true,
  );
});
