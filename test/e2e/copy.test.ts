/** `kiln cp`: files into sandboxes and out of them, and what links of a command cannot do meanwhile. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { type BusyboxState, busyboxState } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';

let state: BusyboxState;
let cwd: string;
test.before(async () => {
  state = await busyboxState();
  cwd = state.beside;
  mkdirSync(join(cwd, 'tree/sub'), { recursive: true });
  writeFileSync(join(cwd, 'tree/a'), 'of a', { mode: 0o640 });
  writeFileSync(join(cwd, 'tree/sub/b'), 'of b', { mode: 0o755 });
  symlinkSync('sub/b', join(cwd, 'tree/link'));
  const kept = await kiln('run', '-r', 'busybox', '--keep', '--name', 'work', '--', 'true');
  if (kept.exitCode !== 0) throw new Error(String(kept.stderr));
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const kiln = (...words: string[]) => state.kiln(words, { cwd });
const sh = async (script: string, ...options: string[]) => {
  const { stdout, stderr, exitCode } = await kiln('exec', ...options, 'work', 'sh', '-c', script);
  if (exitCode !== 0) throw new Error(String(stderr));
  return String(stdout);
};

/** @throws what the command said */
async function cp(from: string, to: string): Promise<void> {
  const { exitCode, stderr } = await kiln('cp', from, to);
  if (exitCode !== 0) throw new Error(String(stderr));
}

test.serial('a tree goes in and comes back as it was', async (t) => {
  await cp('tree', 'work:/tmp/');
  t.is(await sh('cat /tmp/tree/a /tmp/tree/link'), 'of aof b');
  t.is(await sh('stat -c "%a %U" /tmp/tree/a /tmp/tree/sub/b'), '640 build\n755 build');
  await cp('work:/tmp/tree', 'back');
  t.is(readFileSync(join(cwd, 'back/a'), 'utf8'), 'of a');
  t.is(statSync(join(cwd, 'back/a')).mode & 0o777, 0o640);
  t.is(statSync(join(cwd, 'back/sub/b')).mode & 0o777, 0o755);
  t.is(readlinkSync(join(cwd, 'back/link')), 'sub/b');
  t.is(statSync(join(cwd, 'back/a')).uid, 0);
});

test.serial('what comes back has the times that it had', (t) => {
  t.is(statSync(join(cwd, 'back/a')).mtimeMs, statSync(join(cwd, 'tree/a')).mtimeMs);
});

test.serial('names and contents go where podman and docker put them', async (t) => {
  mkdirSync(join(cwd, 'there'));
  await cp('work:/etc/passwd', 'there');
  t.true(readFileSync(join(cwd, 'there/passwd'), 'utf8').startsWith('root:'));
  await cp('work:/etc/passwd', 'renamed');
  t.true(existsSync(join(cwd, 'renamed')));
  await cp('work:/tmp/tree/.', 'there');
  t.is(readFileSync(join(cwd, 'there/sub/b'), 'utf8'), 'of b');
  await cp('work:/tmp/tree', 'there');
  t.is(readFileSync(join(cwd, 'there/tree/a'), 'utf8'), 'of a');
  await cp('./tree/a', 'work:/tmp/one');
  t.is(await sh('cat /tmp/one'), 'of a');
  writeFileSync(join(cwd, 'with:colon'), 'colon');
  await cp('./with:colon', 'work:/tmp/colon');
  t.is(await sh('cat /tmp/colon'), 'colon');
});

test.serial('a running sandbox takes and gives files, and goes on', async (t) => {
  const script = 'until test -e /tmp/end; do sleep 0.1; done; cat /tmp/end';
  const run = kiln('run', '-r', 'busybox', '--name', 'going', '--', 'sh', '-c', script);
  await eventually(async () => (await kiln('exec', 'going', '--', 'true')).exitCode === 0);
  await cp('going:/etc/group', 'group');
  t.true(readFileSync(join(cwd, 'group'), 'utf8').includes('extra:x:50'));
  await cp('tree/a', 'going:/tmp/end');
  t.is((await run).stdout, 'of a');
});

test.serial('links of a command lead to no file of the host, in either direction', async (t) => {
  writeFileSync(join(cwd, 'secret'), 'of the host', { mode: 0o600 });
  const out = join(cwd, 'secret');
  await sh(`mkdir /tmp/l; ln -s ${out} /tmp/l/file; ln -s / /tmp/l/root; ln -s ../../.. /tmp/l/up`);
  await sh('ln -s /proc/1/root /tmp/l/proc; echo own >/tmp/l/own');
  const single = await kiln('cp', 'work:/tmp/l/file', 'single');
  t.is(single.exitCode, 125);
  t.regex(String(single.stderr), /it does not exist \[E_PATH\]/);
  t.false(existsSync(join(cwd, 'single')));
  const folder = await kiln('cp', 'work:/tmp/l', 'links');
  t.is(folder.exitCode, 0, String(folder.stderr));
  t.regex(String(folder.stderr), /file" is a symbolic link to .*: skipped/);
  t.is(readFileSync(join(cwd, 'links/own'), 'utf8'), 'own\n');
  for (const name of ['file', 'root', 'up', 'proc'])
    t.is(lstatSync(join(cwd, 'links', name), { throwIfNoEntry: false }), undefined, name);
  // A link that was copied out before leads nowhere for what comes after it.
  symlinkSync(out, join(cwd, 'links/later'));
  await sh('rm -r /tmp/l; mkdir /tmp/l; echo new >/tmp/l/later');
  await cp('work:/tmp/l/.', 'links');
  t.is(readFileSync(out, 'utf8'), 'of the host');
  t.is(readFileSync(join(cwd, 'links/later'), 'utf8'), 'new\n');
  // Inside, a link leads to a place of the sandbox's.
  await sh(`ln -s ${cwd} /tmp/outside`);
  await kiln('cp', 'tree/a', 'work:/tmp/outside/written');
  t.false(existsSync(join(cwd, 'written')));
});

test.serial('inside, the rights are those of the command’s user', async (t) => {
  await sh('echo closed >/tmp/closed; chmod 600 /tmp/closed; mkdir -m 700 /tmp/shut', '-u', '0');
  const read = await kiln('cp', 'work:/tmp/closed', 'closed');
  t.not(read.exitCode, 0);
  t.false(existsSync(join(cwd, 'closed')));
  for (const target of ['/etc/passwd', '/tmp/shut/file', '/new']) {
    const { exitCode, stderr } = await kiln('cp', 'tree/a', `work:${target}`);
    t.is(exitCode, 125, target);
    t.regex(String(stderr), /\[E_COPY_IN\]/);
  }
  t.is(await sh('cat /tmp/closed', '-u', '0'), 'closed');
  const kernel = await kiln('cp', 'work:/proc/self/environ', 'environ');
  t.false(existsSync(join(cwd, 'environ')), String(kernel.stderr));
});

test.serial(
  'kiln cp names the path or sandbox it cannot use, and stays on this machine',
  async (t) => {
    for (const [words, said] of [
      [['a', 'b'], /one of both paths is of a sandbox/],
      [['work:/a', 'work:/b'], /one of both paths is of a sandbox/],
      [['work:tmp', 'b'], /names no absolute path of a sandbox/],
      [['nobody:/tmp', 'b'], /there is no sandbox nobody/],
      [['work:/etc/passwd', 'none/'], /there is no folder none\//],
      [['work:/etc/passwd', 'none/file'], /none/],
      [['missing', 'work:/tmp/'], /there is no such file/],
    ] as const) {
      const { exitCode, stderr } = await kiln('cp', ...words);
      t.is(exitCode, 125, words.join(' '));
      t.regex(String(stderr), said);
    }
    const far = await kiln('--host', 'ssh://nobody@127.0.0.1:1', 'cp', 'a', 'work:/a');
    t.regex(String(far.stderr), /kiln cp does not go to another machine/);
  },
);
