/** Programs of the host are started in few places, so that what they are given cannot be forgotten. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';

const source = join(import.meta.dirname, '../../src');

/** The modules of src with `pattern` in their code. */
async function modulesWith(pattern: RegExp): Promise<string[]> {
  const names = await readdir(source, { recursive: true });
  const found: string[] = [];
  for (const name of names.filter((each) => each.endsWith('.ts'))) {
    const text = await readFile(join(source, name), 'utf8');
    if (pattern.test(text.replace(/^import type .*$|^\s*(?:\/?\*|\/\/).*$/gm, '')))
      found.push(name);
  }
  return found.sort();
}

test('one module starts all programs, and chooses the descriptors they get', async (t) => {
  t.deepEqual(await modulesWith(/child_process|'(?:node:)?cluster'|from 'execa'/), [
    // Of the library, in a process that is not kiln's.
    'api/connect.ts',
    'api/connection.ts',
    'host/process/child-process.ts',
  ]);
  const text = await readFile(join(source, 'host/process/child-process.ts'), 'utf8');
  t.is(text.match(/^ {2}keepDescriptors\(\);$/gm)?.length, 3);
  const calls = /\b(?:posix_spawnp?|v?fork|exec[vl]p?e?|system|popen|clone3?)\(/;
  t.deepEqual(await modulesWith(calls), []);
});

test('one module writes the command lines of Node processes, and parses them', async (t) => {
  const names = /process\.(?:execPath|argv|execArgv|argv0)\b/;
  t.deepEqual(await modulesWith(names), ['host/process/own-node.ts']);
});

test('bin/kiln-node sets aside variables that children must not inherit', async (t) => {
  const shell = await readFile(join(source, '../bin/kiln-node'), 'utf8');
  const list = /^ {4}(NODE_\* .*)\)$/m.exec(shell)?.[1]?.split(' | ') ?? [];
  const module = await readFile(join(source, 'host/process/own-node.ts'), 'utf8');
  const [, families = '', names = ''] =
    /\/\^\(\?:\(\?:([A-Z|]+)\)_\\w\*\|([A-Z_|]+)\)\$\//.exec(module) ?? [];
  t.deepEqual(list, [...families.split('|').map((it) => `${it}_*`), ...names.split('|')]);
});
