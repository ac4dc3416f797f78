/** A file of the working directory is one that the caller named by a path: no module makes such a path of a name. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';

const source = join(import.meta.dirname, '../../src');

/** Folders in which names are looked up, by the modules that do so. All of them are kiln's, or root's. */
const NAMED: Readonly<Record<string, readonly string[]>> = {
  "'recipes/images'": ['recipe/named.ts'],
  "'recipes/builds'": ['jobs/recipe/request.ts'],
};

async function modules(): Promise<(readonly [string, string])[]> {
  const names = (await readdir(source, { recursive: true })).filter((name) => name.endsWith('.ts'));
  return await Promise.all(
    names.map(async (name) => {
      const text = await readFile(join(source, name), 'utf8');
      return [name, text.replace(/^\s*(?:\/?\*|\/\/).*$/gm, '')] as const;
    }),
  );
}

/** Calls that make a path of the working directory and more than what a caller wrote. */
function composed(text: string): string[] {
  const calls = text.matchAll(/\b(join|resolve)\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)/g);
  return [...calls]
    .filter(([, , inside = '']) => /\bcwd\b/i.test(inside))
    .filter(([, call, inside = '']) => call === 'join' || /[`'"+]/.test(inside))
    .map(([whole]) => whole);
}

test('no module joins the working directory with a name', async (t) => {
  const found: string[] = [];
  for (const [name, text] of await modules()) {
    // What a user calls a copy: no file is looked for.
    if (name === 'users/caller-files.ts') continue;
    found.push(...composed(text).map((call) => `src/${name}: ${call}`));
  }
  t.deepEqual(found, []);
});

test('only folders of kiln and of root are searched by name', async (t) => {
  const texts = await modules();
  for (const [folder, expected] of Object.entries(NAMED)) {
    const users = texts.filter(([, text]) => text.includes(folder)).map(([name]) => name);
    t.deepEqual(users, [...expected], folder);
  }
});

test('the scan finds every way to join the working directory with a name', (t) => {
  const forms = [
    "join(cwd, 'recipes', 'images')",
    'join(caller.cwd(), name)',
    'resolve(engine.cwd(), `a.yaml`)',
    "resolve(cwd, name + '.yaml')",
    'resolve(this.#cwd, `x`, dirname(name))',
  ];
  for (const form of forms) t.deepEqual(composed(`x(${form})`), [form]);
  t.deepEqual(composed('resolve(caller.cwd(), path); join(folder, name); resolve(`a`)'), []);
});
