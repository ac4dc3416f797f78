import { Command } from 'commander';
import { countParked, park } from '../sandbox/parking.ts';
import { sweepBoxes } from '../sandbox/sweep.ts';
import { openEngine } from './engine.ts';
import { parseCount } from './values.ts';

/** `kiln park`. */
export function command(): Command {
  return new Command('park')
    .description(
      'Start sandboxes ahead, so that the next runs need not wait for libvirt. They fit every image and every bind; each is used once.',
    )
    .option('-n, --number <count>', 'how many are to wait', parseCount, 1)
    .option('--none', 'destroy those that wait')
    .addHelpText('after', '\nExamples:\n  kiln park -n 4\n  kiln park --none')
    .action(async (options: { number: number; none?: boolean }) => {
      await using engine = openEngine();
      if (options.none === true) {
        await sweepBoxes(engine.paths, engine.connect, Number.MAX_SAFE_INTEGER);
        return;
      }
      const connection = await engine.connect();
      while ((await countParked(engine.paths)) < options.number)
        await park(engine.paths, connection);
      process.stdout.write(`${await countParked(engine.paths)} parked\n`);
    });
}
