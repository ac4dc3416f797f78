import { Command } from 'commander';
import { KilnError } from '../errors.ts';
import { listBoxes } from '../sandbox/list.ts';
import { destroyBox } from '../sandbox/sweep.ts';
import { openEngine } from './engine.ts';

/** `kiln kill`. */
export function command(): Command {
  return new Command('kill')
    .description(
      'Destroy sandboxes, whatever runs in them. `kiln run` of one ends with status 137.',
    )
    .argument('[id...]', 'as `kiln ps` shows them, or their beginning')
    .option('-a, --all', 'all of them, parked ones too')
    .addHelpText('after', '\nExamples:\n  kiln kill 3fa9\n  kiln kill --all')
    .action(async (ids: string[], options: { all?: boolean }, it: Command) => {
      if (ids.length === 0 && options.all !== true) it.error('kiln: say which: an id, or --all');
      await using engine = openEngine();
      const boxes = await listBoxes(engine.paths);
      const chosen =
        options.all === true
          ? boxes
          : ids.map((id) => {
              const found = boxes.filter((box) => box.id.startsWith(id));
              if (found.length === 1 && found[0] !== undefined) return found[0];
              const why = found.length === 0 ? 'there is none' : `${found.length} begin so`;
              throw new KilnError('E_NO_BOX', `no sandbox ${id}: ${why}`, {
                hint: '`kiln ps` lists them',
              });
            });
      for (const { id, directory, record } of chosen) {
        await destroyBox(engine.paths, directory, record, engine.connect);
        process.stdout.write(`${id}\n`);
      }
    });
}
