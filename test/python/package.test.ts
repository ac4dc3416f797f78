/** The Python package: the wheel that scripts/release makes, with Debian's Python, against a real kilnd. */
import { copyFile, mkdir, mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { KILN_VERSION } from '../../src/host/state/paths.ts';
import { blocks } from '../docs/blocks.ts';
import { USER, type UserState, userState } from '../support/second-user.ts';

const top = join(import.meta.dirname, '../..');
const source = join(top, 'packaging/python');
const PYTHON = '/usr/bin/python3';

let state: UserState;
/** Python imports from it as it is. */
let wheel: string;

test.before(async () => {
  state = await userState();
  wheel = await makeWheel(state.beside);
});
test.after.always(async () => {
  await state?.[Symbol.asyncDispose]();
});

async function makeWheel(folder: string): Promise<string> {
  const words = [join(source, 'wheel.py'), folder, KILN_VERSION];
  return (await execa(PYTHON, words)).stdout;
}

const own = () => ({ PYTHONPATH: wheel, PYTHONDONTWRITEBYTECODE: '1' });

/** Runs Python as root, in a folder of its own; never rejects. */
async function python(...words: string[]) {
  const cwd = await mkdtemp(join(state.beside, 'python-'));
  const env = { ...state.env, ...own(), PATH: `${join(top, 'dist')}:${process.env.PATH}` };
  const options = { env, cwd, reject: false, all: true };
  return await execa(PYTHON, ['-W', 'error', ...words], options);
}

test('the calls of the package do what they say', async (t) => {
  const { exitCode, all } = await python(join(import.meta.dirname, 'calls.py'));
  t.is(exitCode, 0, all);
});

test('a user who is not root calls through the client where files are named', async (t) => {
  const script = join(state.beside, 'user.py');
  await copyFile(join(import.meta.dirname, 'user.py'), script);
  const client = join(state.beside, 'client/dist/kiln');
  const { exitCode, stderr } = await state.run(USER, [PYTHON, '-W', 'error', script, client], {
    env: { ...own(), PATH: process.env.PATH, KILN_STATE: state.paths.root },
  });
  t.is(exitCode, 0, String(stderr));
});

test('the examples of docs/python.md run', async (t) => {
  const found = blocks('docs/python.md').filter(({ language }) => language === 'python');
  t.true(found.length > 3);
  const script = found.map(({ text }) => text.replaceAll('debian-build', 'busybox')).join('\n');
  const { exitCode, all } = await python('-c', script);
  t.is(exitCode, 0, all);
});

test('the Python example variants.py runs ten commands and shows the changes of each', async (t) => {
  const { exitCode, stdout, all } = await python(join(source, 'examples/variants.py'), 'busybox');
  t.is(exitCode, 0, all);
  const lines = Array.from({ length: 10 }, (_, number) => `${number}: added w/variant`);
  t.is(stdout, lines.join('\n'));
});

test('mypy finds nothing in the package, its example and its tests', async (t) => {
  const cache = ['--cache-dir', join(state.beside, 'mypy')];
  const words = ['--strict', '--python-version', '3.11', ...cache, join(source, 'kiln')];
  const tests = ['calls.py', 'user.py'].map((name) => join(import.meta.dirname, name));
  const files = [...tests, join(source, 'wheel.py'), join(source, 'examples/variants.py')];
  const { exitCode, stdout } = await execa('mypy', [...words, ...files], {
    env: { MYPYPATH: source },
    reject: false,
  });
  t.is(exitCode, 0, stdout);
});

test('the wheel is whole: metadata that Python reads, and the digest of each file', async (t) => {
  const check = `import base64, hashlib, importlib.metadata as m
d = m.distribution("kiln")
print(d.version, d.metadata["Requires-Python"], d.metadata["License-Expression"])
for f in d.files:
    if f.hash:
        digest = hashlib.new(f.hash.mode, f.read_binary()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == f.hash.value, f
print(sorted(f.name for f in d.files if f.hash is None))`;
  const { stdout, all } = await python('-c', check);
  t.is(stdout, `${KILN_VERSION} >=3.11 Apache-2.0\n['RECORD']`, all);
  const { stdout: names } = await execa(PYTHON, ['-m', 'zipfile', '-l', wheel]);
  for (const name of ['kiln/sync.py', 'kiln/types.py', 'kiln/py.typed', 'licenses/LICENSE'])
    t.true(names.includes(name), names);
});

test('a wheel made again is the same', async (t) => {
  const folder = join(state.beside, 'again');
  await mkdir(folder);
  t.is((await execa('cmp', [wheel, await makeWheel(folder)], { reject: false })).exitCode, 0);
});
