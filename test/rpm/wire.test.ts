/** The form in which a confined child sends a package, and the store keeps it. */
import test from 'ava';
import type { RpmPackage } from '../../src/rpm/package.ts';
import { readRpms } from '../../src/rpm/read.ts';
import { fromWire } from '../../src/rpm/unwire.ts';
import { toWire } from '../../src/rpm/wire.ts';
import { rpmFile } from '../support/rpm-file.ts';
import { packages } from './fixtures.ts';

type Wire = { readonly files: Record<string, unknown> };

async function readPackages(): Promise<RpmPackage[]> {
  const read: RpmPackage[] = [];
  for await (const result of readRpms(packages)) {
    if ('package' in result) read.push(result.package);
  }
  return read;
}

const read = readPackages();

function sent(of: RpmPackage): Wire {
  return JSON.parse(JSON.stringify(toWire(of))) as Wire;
}

test('a package comes through as it was, with any number of files, and of owners', async (t) => {
  t.true((await read).length > 10);
  t.true((await read).some(({ files }) => files.length > 1));
  for (const each of await read) {
    t.deepEqual(fromWire(sent(each)), each);
    const [first] = each.files;
    if (first === undefined) continue;
    const other = { ...first, path: '/other', owner: 'somebody' };
    for (const files of [[], [first], [first, other], [first, first, other]]) {
      t.deepEqual(fromWire(sent({ ...each, files })).files, files);
    }
  }
});

test('columns that are missing, too long, too short, or of something else, are refused', async (t) => {
  const of = (await read).find(({ files }) => files.length > 2);
  if (of === undefined) throw new Error('no package with three files');
  const wire = sent(of);
  t.deepEqual(fromWire(wire), of);
  const count = of.files.length;
  for (const [name, column] of Object.entries(wire.files)) {
    const one = Array.isArray(column) ? column[0] : column;
    const wrong = typeof one === 'string' ? 7 : 'text';
    const all = new Array(count).fill(one);
    const long = typeof one === 'string' ? ['x'.repeat(65)] : [];
    const bad = [undefined, null, wrong, {}, -1, 0.5, [...all, one], all.slice(1), [], ...long];
    for (const value of [...bad, [...all.slice(1), wrong], [...all.slice(1), null]]) {
      t.throws(
        () => fromWire({ ...wire, files: { ...wire.files, [name]: value } }),
        { instanceOf: TypeError },
        `${name}: ${JSON.stringify(value)}`,
      );
    }
  }
});

test('a short message cannot stand for more files than there can be', async (t) => {
  const [of] = await read;
  const wire = sent(of!);
  const { path: _, ...files } = sent({ ...of!, files: [rpmFile('/a')] }).files;
  const path = new Array(2 ** 20 + 1).fill('/a');
  t.throws(() => fromWire({ ...wire, files: { ...files, path } }), { instanceOf: TypeError });
  t.throws(() => fromWire({ ...wire, files: { ...files, path: '/a' } }), { instanceOf: TypeError });
  t.is(fromWire({ ...wire, files: { ...files, path: path.slice(0, 3) } }).files.length, 3);
});
