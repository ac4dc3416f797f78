import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { can, ISOLATION } from '../../src/sandbox/policy/ground-kinds.ts';

const source = join(import.meta.dirname, '../../src');

/** What works on a sandbox, whatever it stands on. */
const IGNORANT = ['sandbox/door', 'sandbox/policy', 'sandbox/wire', 'result', 'jobs'];

/** The one table of what the kinds can. */
const TABLE = 'sandbox/policy/ground-kinds.ts';

/** Ways to ask for the kind: its name, the facts that only a machine has, and the driver of libvirt's. */
const ASKS = [
  /'(?:container|vm|qemu|lxc)'/,
  /\bmachine\b\s*(?:[!=]==|\?\?|\?\.|&&|\|\|)/,
  /\bground\.machine\b\s*[^,\s}]/,
  /\bisMachine\b/,
  /domain\/machine\//,
];

async function modules(folder: string): Promise<string[]> {
  const names = await readdir(join(source, folder), { recursive: true });
  return names.filter((name) => name.endsWith('.ts')).map((name) => join(folder, name));
}

test('the door, jobs, policy, wire and result do not know what a sandbox stands on', async (t) => {
  const found: string[] = [];
  for (const module of (await Promise.all(IGNORANT.map(modules))).flat()) {
    if (module === TABLE) continue;
    const text = await readFile(join(source, module), 'utf8');
    for (const [number, line] of text.split('\n').entries()) {
      if (/^\s*(?:\/?\*|\/\/)/.test(line)) continue;
      if (ASKS.some((ask) => ask.test(line))) found.push(`${module}:${number + 1}: ${line.trim()}`);
    }
  }
  t.deepEqual(found, [], `ask the table of src/${TABLE} for an ability`);
});

test('each kind has an ability that the other lacks, so the table is no formality', (t) => {
  t.deepEqual(
    ISOLATION.map((kind) => [can(kind, 'upperOnDisk'), can(kind, 'mountsImages')]),
    [
      [true, false],
      [false, true],
    ],
  );
});
