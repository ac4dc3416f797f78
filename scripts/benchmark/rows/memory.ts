/** How much memory kiln takes, and whether its daemon grows. */
import { readdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { domainPrefix } from '../../../src/sandbox/domain/sandbox-record.ts';
import { daemonPid } from '../../../test/support/daemon.ts';
import { type Bed, KILN } from '../bed.ts';
import { largePackage } from '../large-package.ts';
import { figures } from '../measure.ts';
import { descendants, memoryOf, ownMemory, peakMemory, processesWith } from '../memory.ts';
import { kilnRun, type Row } from '../row.ts';

const PARKED = 4;

/** What is in a parked sandbox, beyond libvirt's own process for it, MB. */
function parkedMemory(bed: Bed): number {
  const prefix = domainPrefix(bed.kiln.paths);
  const controllers = processesWith(prefix).filter((pid) => descendants(pid).length > 0);
  if (controllers.length !== PARKED) throw new Error(`${controllers.length} sandboxes are parked`);
  return memoryOf(controllers.flatMap(descendants)) / PARKED;
}

/** After so many runs the daemon is looked at. */
const GROWTH = { few: 1000, many: 10_000, quick: 20 } as const;

interface DaemonSize {
  /** MB */
  readonly memory: number;
  readonly descriptors: number;
}

async function daemonSize(bed: Bed): Promise<DaemonSize> {
  // What the last run left to be done is over then.
  await sleep(3000);
  const pid = daemonPid(bed.kiln.paths.root);
  if (pid === undefined) throw new Error('no daemon runs');
  return { memory: ownMemory(pid), descriptors: readdirSync(`/proc/${pid}/fd`).length };
}

let grown: Promise<readonly [DaemonSize, DaemonSize]> | undefined;

/** The daemon's size after few runs and after ten times as many: measured once for both rows. */
function daemonGrowth(bed: Bed, quick: boolean): Promise<readonly [DaemonSize, DaemonSize]> {
  const { run } = kilnRun(bed, '--', 'true');
  const measure = async () => {
    const few = quick ? GROWTH.quick : GROWTH.few;
    await bed.park(2);
    for (let number = 0; number < few; number++) await run();
    const before = await daemonSize(bed);
    for (let number = few; number < (few * GROWTH.many) / GROWTH.few; number++) await run();
    return [before, await daemonSize(bed)] as const;
  };
  grown ??= measure();
  return grown;
}

const growth = (of: 'memory' | 'number', size: (of: DaemonSize) => number) => ({
  goal: { kind: 'ratio', max: 1.1, of } as const,
  measure: async (bed: Bed, quick: boolean) => {
    const [before, after] = await daemonGrowth(bed, quick);
    return [figures('after ten times as many', [size(after)]), figures('before', [size(before)])];
  },
});

export const memoryRows: readonly Row[] = [
  {
    id: 'memory-parked',
    title: 'memory of a parked sandbox beyond libvirt_lxc',
    goal: { kind: 'memory', max: 12 },
    sides: (bed) => [
      {
        name: 'a parked sandbox',
        before: async () => {
          await bed.parkNone();
          await bed.park(PARKED);
        },
        run: async () => parkedMemory(bed),
      },
    ],
    slow: true,
  },
  {
    id: 'memory-unpack',
    title: 'memory of all of kiln while it unpacks a package of 2 GB',
    goal: { kind: 'memory', max: 200 },
    sides: async (bed) => {
      const file = await largePackage(bed);
      const directory = join(bed.scratch, 'unpacked');
      return [
        {
          name: 'kiln rpm unpack',
          before: () => rm(directory, { recursive: true, force: true }),
          run: () => peakMemory([...KILN, 'rpm', 'unpack', '-C', directory, file], bed.env),
        },
      ];
    },
    slow: true,
  },
  {
    id: 'daemon-memory',
    title: `memory of the daemon after ${GROWTH.many} runs, by that after ${GROWTH.few}`,
    ...growth('memory', ({ memory }) => memory),
  },
  {
    id: 'daemon-descriptors',
    title: `descriptors of the daemon after ${GROWTH.many} runs, by those after ${GROWTH.few}`,
    ...growth('number', ({ descriptors }) => descriptors),
  },
];
