/** Every way into a sandbox, every layer, measured from inside by one program: the table is table.ts. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { DOORS_PAGE, doorsPage } from '../../scripts/write/doors.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { judge } from './judge.ts';
import { type Measured, measuredIn } from './measured.ts';
import { OutsideWatch } from './outside.ts';
import { type Door, doorEntry, doorNames, EVERYWHERE, LAYERS, NO_DOORS } from './table.ts';
import { VISITS } from './visits.ts';
import { openWorld, type World } from './world.ts';

/** Visits at a time. */
const AT_ONCE = 3;

let world: World;
let host: Measured;
/** Of each door what was found, or why nothing was. */
const found = new Map<Door, Measured | Error>();
let outside: OutsideWatch;

/** What the probe finds where nothing is around it. */
async function onTheHost(): Promise<Measured> {
  const [, ...args] = world.measure('no door at all', world.directory);
  const env = { KILN_TEST_CALLER: 'seen' };
  const more = { stdio: ['ignore', 'pipe', 'pipe', 'pipe'], env } as const;
  const { stdout } = await execa(world.probe, args, more);
  return measuredIn(stdout).get('no door at all')!;
}

async function visitAll(): Promise<void> {
  const [first, ...rest] = VISITS;
  const go = async ({ doors, go: enter }: (typeof VISITS)[number]) => {
    const said = await enter(world).catch((error: Error) => error);
    const measured = said instanceof Error ? undefined : measuredIn(said);
    for (const door of doors) {
      const nothing =
        said instanceof Error
          ? said
          : new Error(`the probe did not run: ${String(said).slice(-2000)}`);
      found.set(door, measured?.get(door) ?? nothing);
    }
  };
  // The first makes the image.
  await go(first!);
  const work = async () => {
    for (let next = rest.shift(); next !== undefined; next = rest.shift()) await go(next);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

test.before(async (t) => {
  t.timeout(600_000 * PATIENCE);
  world = await openWorld();
  outside = new OutsideWatch(world.mark);
  host = await onTheHost();
  await visitAll();
});
test.after.always(async () => {
  outside?.[Symbol.dispose]();
  await world?.[Symbol.asyncDispose]();
});

for (const door of doorNames) {
  test(`every layer is around a command of: ${door}`, (t) => {
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
