/** `kiln image tag` and `kiln image prune`. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE, KILN } from '../support/busybox-state.ts';
import { changeLayout } from '../support/oci-layout.ts';

let state: BusyboxState;
let layout: string;
test.before(async () => {
  state = await busyboxState();
  layout = join(state.beside, 'layout');
  const archive = join(state.beside, 'busybox.tar');
  await kiln('image', 'export', 'busybox', '-o', archive);
  await kiln('image', 'import', archive, '--name', 'plain');
  await kiln('image', 'export', 'plain', '-o', layout);
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const kiln = (...words: string[]) => state.kiln(words);

/** A further image, told from the others by its variable. @returns its id */
async function imported(name: string): Promise<string> {
  changeLayout(layout, { Env: [`WHICH=${name}`] });
  return String((await kiln('image', 'import', layout, '--name', name)).stdout);
}

const isThere = (id: string) => existsSync(join(state.paths.images, id));

test.serial('a tag means the image, and takes a name from another one', async (t) => {
  const [one, two] = [await imported('one'), await imported('two')];
  const tagged = await kiln('image', 'tag', 'one', 'stable');
  t.is(tagged.stdout, one, String(tagged.stderr));
  const which = async (name: string) =>
    (await kiln('run', '-r', name, '--', '/bin/sh', '-c', 'echo $WHICH')).stdout;
  t.is(await which('stable'), 'one');
  t.is(await which('one'), 'one');
  const moved = await kiln('image', 'tag', two.slice(0, 12), 'stable');
  t.regex(
    String(moved.stderr),
    new RegExp(`is called stable, which meant image ${one.slice(0, 12)}`),
  );
  t.is(await which('stable'), 'two');
  t.is(await which('one'), 'one');
  for (const [words, said] of [
    [['one', 'debian-build'], /debian-build means the recipe/],
    [['one', 'host'], /host means \/usr/],
    [['one', 'a/b'], /up to 200 letters/],
    [['one', 'c'.repeat(64)], /64 hexadecimal digits are an id/],
    [['nothing', 'name'], /there is no image/],
  ] as const) {
    const { exitCode, stderr } = await kiln('image', 'tag', ...words);
    t.is(exitCode, 125, words.join(' '));
    t.regex(String(stderr), said);
  }
});

test.serial('kiln image prune asks, and removes images that nothing uses', async (t) => {
  const [used, idle] = [await imported('used'), await imported('idle')];
  const kept = await kiln('run', '-r', 'used', '--keep', '--name', 'holds', '--', '/bin/true');
  t.is(kept.exitCode, 0, String(kept.stderr));
  const unanswered = await kiln('image', 'prune');
  t.is(unanswered.exitCode, 125);
  t.regex(String(unanswered.stderr), /\d images that nothing uses would be removed: .*idle/);
  t.regex(
    String(unanswered.stderr),
    /\[E_CONFIRM\]\n {2}hint: answer at a terminal, or give --force/,
  );
  const asked = (answer: string) =>
    execa('script', ['-qefc', `'${KILN}' image prune`, '/dev/null'], {
      env: state.env,
      input: `${answer}\n`,
      reject: false,
    });
  t.regex((await asked('n')).stdout, /Remove\? \[y\/N\]/);
  const older = await kiln('image', 'prune', '--older', '1h');
  t.regex(String(older.stderr), /removed 0 images/);
  t.true(isThere(idle) && isThere(used));
  const yes = await asked('y');
  t.is(yes.exitCode, 0, yes.stdout);
  t.true(yes.stdout.includes(idle));
  t.regex(yes.stdout, /removed \d images?, freed \d/);
  t.false(isThere(idle));
  t.true(isThere(used));
  await kiln('kill', 'holds');
  const rest = await kiln('image', 'prune', '--force');
  t.is(rest.exitCode, 0, String(rest.stderr));
  t.false(isThere(used));
  t.false(isThere(IMAGE));
});
