import { Command } from 'commander';
import { parkTarget, refill, setParkTarget } from '../sandbox/parking.ts';
import { sweepBoxes } from '../sandbox/sweep.ts';
import { openEngine } from './engine.ts';
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
      '\nExamples:\n  kiln park -n 4\n  kiln ps\n  kiln park --none\n\nKILN_PARK=2 in the environment of `kiln run` and `kiln build` parks two after them, where memory allows.',
    )
    .action(async (options: { number?: number; none?: boolean }) => {
      await using engine = openEngine();
      if (options.none === true) {
        await setParkTarget(engine.paths, 0);
        await sweepBoxes(engine.paths, engine.connect, { parkedToo: true });
        return;
      }
      if (options.number !== undefined) await setParkTarget(engine.paths, options.number);
      // Somebody who asks for a number is to see it reached.
      const wait = options.number !== undefined;
      const waiting = await refill(engine.paths, engine.connect, { wait });
      process.stdout.write(`${waiting} of ${parkTarget(engine.paths)} parked\n`);
    });
}
