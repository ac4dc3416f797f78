/**
 * Every way into a machine, every layer, measured from inside as in a container, and what is around each machine,
 * looked at from the host meanwhile. Each machine takes a minute where it is emulated.
 */
import test from 'ava';
import { PATIENCE } from '../support/busybox-state.ts';
import { isLong, long } from '../support/long.ts';
import { MachineWatch } from './around-machine.ts';
import { judge } from './judge.ts';
import type { Measured } from './measured.ts';
import {
  AROUND_MACHINES,
  aroundInMachine,
  closedInMachines,
  type Door,
  doorEntry,
  doorNames,
  EVERYWHERE,
} from './table.ts';
import { onTheHost, VISITS, visitAll } from './visits.ts';
import { openWorld, type World } from './world.ts';

/** Machines at a time. */
const AT_ONCE = 2;

let world: World;
let host: Measured;
let watch: MachineWatch;
let found: ReadonlyMap<Door, Measured | Error>;

const opened = doorNames.filter((door) => closedInMachines(door) === undefined);
const refused = doorNames.filter((door) => closedInMachines(door)?.refusal !== undefined);
const leads = (door: Door) => opened.includes(door) || refused.includes(door);

test.before(async (t) => {
  if (!isLong) return;
  t.timeout(3_600_000 * PATIENCE);
  world = await openWorld('vm');
  watch = new MachineWatch(world.images.engine.paths);
  host = await onTheHost(world);
  found = await visitAll(
    world,
    VISITS.filter(({ doors }) => doors.some(leads)),
    AT_ONCE,
  );
});
test.after.always(async () => {
  watch?.[Symbol.dispose]();
  await world?.[Symbol.asyncDispose]();
});

/** The host sees no groups of the guest's: of processes it is tried how many there can be. */
const within = ({ processes }: Measured) =>
  processes < 200 ? { memory: 2 ** 30, processes: 200 } : { memory: 2 ** 31, processes: 8192 };

for (const door of opened) {
  long(`every layer is around a command in a machine of: ${door}`, (t) => {
    const measured = found.get(door);
    if (!(measured !== undefined && 'door' in measured)) return t.fail(String(measured));
    const { otherwise } = doorEntry(door);
    const expected = { ...EVERYWHERE, ...otherwise, ...aroundInMachine(door) };
    t.deepEqual(judge(measured, host, within(measured)), expected);
  });
}

for (const door of refused) {
  long(`kiln refuses a machine and says why: ${door}`, (t) => {
    const error = found.get(door);
    t.true(error instanceof Error, door);
    t.regex(String(error), closedInMachines(door)?.refusal ?? /never/);
  });
}

long('every machine has its own layers around it', (t) => {
  t.true(watch.seen.size >= 10);
  for (const [id, verdict] of watch.seen) t.deepEqual(verdict, AROUND_MACHINES, id);
});

test('every door leads into machines, or the table says why it does not', (t) => {
  for (const door of doorNames) t.not(closedInMachines(door)?.why, '', door);
  t.true(opened.length >= 20);
});
