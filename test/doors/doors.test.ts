/** Every way into a sandbox, every layer, measured from inside by one program: the table is table.ts. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { DOORS_PAGE, doorsPage } from '../../scripts/write/doors.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { judge } from './judge.ts';
import type { Measured } from './measured.ts';
import { OutsideWatch } from './outside.ts';
import { type Door, doorEntry, doorNames, EVERYWHERE, LAYERS, NO_DOORS } from './table.ts';
import { onTheHost, VISITS, visitAll } from './visits.ts';
import { openWorld, type World } from './world.ts';

/** Visits at a time. */
const AT_ONCE = 3;

let world: World;
let host: Measured;
let found: ReadonlyMap<Door, Measured | Error>;
let outside: OutsideWatch;

test.before(async (t) => {
  t.timeout(600_000 * PATIENCE);
  world = await openWorld();
  outside = new OutsideWatch(world.mark);
  host = await onTheHost(world);
  found = await visitAll(world, VISITS, AT_ONCE);
});
test.after.always(async () => {
  outside?.[Symbol.dispose]();
  await world?.[Symbol.asyncDispose]();
});

for (const door of doorNames) {
  test(`every layer is in force around a command of: ${door}`, (t) => {
    const measured = found.get(door);
    if (!(measured !== undefined && 'door' in measured)) return t.fail(String(measured));
    const limits = outside.seen.get(door) ?? { memory: Number.NaN, processes: Number.NaN };
    const { around, otherwise } = doorEntry(door);
    t.deepEqual(judge(measured, host, limits), { ...EVERYWHERE, ...otherwise, ...around });
  });
}

test('outside of any sandbox, the probe finds no layer', (t) => {
  const none = { memory: Number.POSITIVE_INFINITY, processes: Number.POSITIVE_INFINITY };
  const verdict = judge(host, host, none);
  const closed = { ...EVERYWHERE, ...doorEntry('run').around };
  for (const layer of [...Object.keys(EVERYWHERE), ...LAYERS] as (keyof typeof closed)[]) {
    if (layer === 'set-id') t.is(verdict[layer], 'allowed');
    else if (layer === 'abstract sockets') t.is(verdict[layer], 'done');
    else t.not(verdict[layer], closed[layer], layer);
  }
});

test('every door in the table is measured exactly once', (t) => {
  t.deepEqual(VISITS.flatMap(({ doors }) => doors).toSorted(), doorNames.toSorted());
});

test('every file that starts a command in a sandbox is a door of the table', async (t) => {
  const source = join(import.meta.dirname, '../../src');
  const names = await readdir(source, { recursive: true });
  const callers: string[] = [];
  for (const name of names.filter((it) => it.endsWith('.ts') && !it.startsWith('sandbox/'))) {
    const text = await readFile(join(source, name), 'utf8');
    if (/[sS]andbox\.(?:start|execute)\(/.test(text)) callers.push(name);
  }
  const known = new Set([
    ...doorNames.map((door) => doorEntry(door).through),
    ...Object.keys(NO_DOORS),
  ]);
  t.deepEqual(callers.toSorted(), [...known].toSorted());
});

test('docs/doors.md has the table', async (t) => {
  t.is(await readFile(DOORS_PAGE, 'utf8'), doorsPage(), 'run: node scripts/write/doors.ts');
});
