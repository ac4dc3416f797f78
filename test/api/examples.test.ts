/** The programs of docs/api.md, as they stand there: with Debian's python3-varlink and the library. Its shell commands: test/docs. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { type ApiState, apiState, program, type Ran } from '../support/api.ts';

const top = join(import.meta.dirname, '../..');
let state: ApiState;

test.before(async () => {
  state = await apiState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** The block of the page in a language, for the daemon and the image of this test. */
function example(language: string): string {
  const page = readFileSync(join(top, 'docs/api.md'), 'utf8');
  const block = new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, 'ms').exec(page)?.[1] ?? '';
  return block.replaceAll('/run/kiln/io.kiln', state.socket).replaceAll('debian-build', 'busybox');
}

async function run(file: string, args: string[], t: { log(text: string): void }): Promise<Ran> {
  const ran = await program(file, args, { env: state.userEnv, cwd: state.beside });
  if (ran.code !== 0) t.log(ran.stderr);
  return ran;
}

test('the Python example runs', async (t) => {
  const { code, stdout } = await run('/usr/bin/python3', ['-c', example('python')], t);
  t.is(code, 0);
  const said = ['hello', ' 3', 'one', 'two', 'from python', 'io.kiln.Failed E_IMAGE_MISSING', ''];
  t.deepEqual(stdout.split('\n'), said);
});

test('the TypeScript example runs', async (t) => {
  const file = join(state.beside, 'example.mts');
  writeFileSync(
    file,
    example('ts').replace("'kiln-client'", JSON.stringify(join(top, 'dist/client/index.js'))),
  );
  const { code, stdout } = await run(process.execPath, [file], t);
  t.is(code, 0);
  const said = [
    'hello',
    ' 3',
    'one',
    'two',
    'from typescript',
    '',
    'UPPER',
    '5 16',
    'E_IMAGE_MISSING',
    '',
  ];
  t.deepEqual(stdout.split('\n'), said);
});
