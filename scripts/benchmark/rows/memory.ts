/** How much memory kiln takes. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { domainPrefix } from '../../../src/sandbox/box-record.ts';
import { type Bed, KILN } from '../bed.ts';
import { largePackage } from '../large-package.ts';
import { descendants, memoryOf, peakMemory, processesWith } from '../memory.ts';
import type { Row } from '../row.ts';

const PARKED = 4;

/** What is in a parked box, beyond libvirt's own process for it, MB. */
function parkedMemory(bed: Bed): number {
  const prefix = domainPrefix(bed.kiln.paths);
  const controllers = processesWith(prefix).filter((pid) => descendants(pid).length > 0);
  if (controllers.length !== PARKED) throw new Error(`${controllers.length} boxes are parked`);
  return memoryOf(controllers.flatMap(descendants)) / PARKED;
}

export const memoryRows: readonly Row[] = [
  {
    id: 'memory-parked',
    title: 'memory of a parked box beyond libvirt_lxc',
    goal: { kind: 'memory', max: 12 },
    sides: (bed) => [
      {
        name: 'a parked box',
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
];
