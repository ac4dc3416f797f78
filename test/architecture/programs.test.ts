/** Where a process begins, parts are made in order and connected: whoever reads one needs to look nowhere back. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';

const programs = join(import.meta.dirname, '../../src/programs');

/** Lines that a function of a program may have, fewer than this. */
const MOST = 80;

interface Part {
  readonly name: string;
  readonly lines: readonly string[];
}

/** The functions of a module, not those inside others. */
function functionsIn(text: string): Part[] {
  const found = text.matchAll(/^(?:export )?(?:async )?function\*? (\w+)[\s\S]*?^\}$/gm);
  return [...found].map(([whole, name = '']) => ({ name, lines: whole.split('\n') }));
}

/** What a function's closures use before it is made, and functions that it declares inside. */
function usedEarly({ name, lines }: Part): string[] {
  return lines.flatMap((line, at) => {
    const [, inner] = /^ {2}(?:async )?function (\w+)/.exec(line) ?? [];
    if (inner !== undefined) return [`${name}: ${inner} is declared inside`];
    const [, one, several = ''] = /^ {2}(?:const|let|using) (?:(\w+)|\{([^}]*)\})/.exec(line) ?? [];
    const made = one === undefined ? several.split(',').map((part) => part.trim()) : [one];
    const before = lines.slice(0, at).join('\n');
    return made
      .filter((it) => it !== '' && new RegExp(`(?<![\\w.'#])${it}\\b(?!['?]?:)`).test(before))
      .map((it) => `${name}: ${it} is used before it is made`);
  });
}

async function functions(): Promise<(readonly [string, Part])[]> {
  const names = await readdir(programs);
  const all = names.map(async (program) => {
    const text = await readFile(join(programs, program), 'utf8');
    return functionsIn(text).map((part) => [program, part] as const);
  });
  return (await Promise.all(all)).flat();
}

test('every function of a program is shorter than eighty lines', async (t) => {
  const all = await functions();
  t.true(all.some(([program, { name }]) => program === 'kilnd.ts' && name === 'main'));
  const long = all.filter(([, { lines }]) => lines.length >= MOST);
  t.deepEqual(
    long.map(([program, { name, lines }]) => `${program}: ${name} has ${lines.length} lines`),
    [],
  );
});

test('no closure of a program uses what is made after it', async (t) => {
  const found = (await functions()).flatMap(([program, part]) =>
    usedEarly(part).map((what) => `${program}: ${what}`),
  );
  t.deepEqual(found, []);
});

test('the scan finds what is used before it is made', (t) => {
  const text = `async function main(): Promise<void> {
  const server = new Server({ outdated: () => letGo(), call: () => life.end() });
  const { a, b } = parts;
  const life = new Life(server);
  function letGo() {}
}
`;
  t.deepEqual(functionsIn(text).flatMap(usedEarly), [
    'main: life is used before it is made',
    'main: letGo is declared inside',
  ]);
});
