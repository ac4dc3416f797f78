import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

/** What a person is told who got a command line wrong: what is wrong, and what to do. */

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** Runs kiln, and holds it to a plain refusal: its own status, the message, a hint, no stack. */
async function refused(
  t: ExecutionContext,
  args: readonly string[],
  message: RegExp,
  { hint = /./, env = state.env }: { hint?: RegExp; env?: NodeJS.ProcessEnv } = {},
): Promise<void> {
  const { exitCode, stderr } = await state.kiln(args, { env, timeout: 30_000 });
  const text = String(stderr);
  const lines = text.split('\n');
  const what = `kiln ${args.join(' ')}: ${exitCode}\n${text}`;
  t.is(exitCode, 125, what);
  t.regex(lines[0] ?? '', /^kiln: /, what);
  t.regex(text, message, what);
  const hints = lines.filter((line) => line.startsWith('  hint: '));
  t.is(hints.length, 1, what);
  t.regex(hints[0] ?? '', hint, what);
  t.notRegex(text, /internal error|\n {4}at /, what);
}

const place = (...names: string[]) => join(state.paths.root, ...names);

test.serial('a file that cannot be written is named, before the work for it is done', async (t) => {
  const recipe = place('r.yaml');
  await writeFile(recipe, 'packages: [no-such-package]\nrepositories: []\n');
  const folder = place('folder');
  await mkdir(folder);
  const lock = (output: string) => ['image', 'lock', recipe, '-o', output];
  await refused(t, lock('/nonexistent/x.json'), /^kiln: cannot write \/nonexistent\/x\.json$/m);
  await refused(t, lock(folder), /because: it is a directory/);
  await refused(t, lock('/etc/passwd/x.json'), /because: .*not a directory/);
  for (const output of ['/etc/passwd', '/proc/kiln-test/x']) {
    await refused(t, ['image', 'export', IMAGE, '-o', output], RegExp(`cannot write to ${output}`));
  }
});

test.serial('a state directory that can be none is an error, not an empty one', async (t) => {
  const commands = [['ps'], ['image', 'ls'], ['service', 'list'], ['park', '-n', '1'], ['gc']];
  for (const command of commands) {
    for (const root of ['/etc/passwd', '/etc/passwd/x', '/proc/kiln-test']) {
      const env = { ...state.env, KILN_STATE: root };
      await refused(t, command, RegExp(`state in ${root}: `), { env, hint: /KILN_STATE/ });
    }
  }
  // One that is not there yet is empty, and looking does not make it.
  const fresh = place('a', 'b');
  const env = { ...state.env, KILN_STATE: fresh };
  const { exitCode, stdout } = await state.kiln(['ps', '--json'], { env });
  t.is(exitCode, 0);
  t.is(stdout, '[]');
  t.false(existsSync(fresh));
});
