import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { KilnError } from '../errors.ts';
import { countParked, parkTarget, refill, setParkTarget } from '../sandbox/parking.ts';
import { sweepBoxes } from '../sandbox/sweep.ts';
import type { StatePaths } from '../state/paths.ts';
import { roomForParked } from './background.ts';
import { watchProgress } from './changing-line.ts';
import { openEngine } from './engine.ts';
import { tell } from './print.ts';
import { parseCount } from './values.ts';

/** `kiln park`. */
export function command(): Command {
  return new Command('park')
    .description(
      'Start sandboxes ahead, so that the next runs need not wait for libvirt. They fit every image, bind and limit; each is used once and then replaced in the background. They end after 30 minutes without use.',
    )
    .option(
      '-n, --number <count>',
      'how many are to wait; without it, as many as before',
      parseCount,
    )
    .option('--none', 'destroy those that wait, and start no more')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln park -n 4\n  kiln ps\n  kiln park --none\n\nMore than memory allows (32 MB each, 512 MB stay free) are refused. KILN_PARK=2 in the environment of `kiln run` and `kiln build` parks two after them, where memory allows.',
    )
    .action(async (options: { number?: number; none?: boolean }) => {
      await using engine = openEngine();
      if (options.none === true) {
        setParkTarget(engine.paths, 0);
        using _ = watchGoing(engine.paths);
        // A run's replacement that is being started would be left waiting: for its end this waits.
        await refill(engine.paths, engine.connect, { wait: true });
        await sweepBoxes(engine.paths, engine.connect, { parkedToo: true });
        return;
      }
      if (options.number !== undefined) {
        requireRoom(engine.paths, options.number);
        setParkTarget(engine.paths, options.number);
      }
      // Somebody who asks for a number is to see it reached.
      const wait = options.number !== undefined;
      const waiting = await (async () => {
        using _ = watchProgress(() => parked(engine.paths, countParked(engine.paths)));
        return await refill(engine.paths, engine.connect, { wait });
      })();
      tell(`${parked(engine.paths, waiting)}\n`);
    });
}

function parked(paths: StatePaths, waiting: number): string {
  return `${waiting} of ${parkTarget(paths) ?? 0} parked`;
}

/** Refuses a number of boxes that memory has no room for. */
function requireRoom(paths: StatePaths, wanted: number): void {
  const most = countParked(paths) + roomForParked();
  if (wanted <= most) return;
  throw new KilnError('E_PARK_ROOM', `there is no memory for ${wanted} parked sandboxes`, {
    hint:
      most === 0
        ? 'free some: each is reckoned at 32 MB, and 512 MB are to stay free'
        : `at most ${most} fit: kiln park -n ${most}`,
    details: { most },
  });
}

/** Shows how many of the boxes that wait now are gone. */
function watchGoing({ boxes, parked: waiting }: StatePaths): Disposable {
  const ids = existsSync(waiting) ? readdirSync(waiting) : [];
  const isThere = (id: string) => existsSync(join(waiting, id)) || existsSync(join(boxes, id));
  return watchProgress(() => {
    const gone = ids.filter((id) => !isThere(id)).length;
    return `${gone} of ${ids.length} destroyed`;
  });
}
