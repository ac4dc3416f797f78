import { Command } from 'commander';
import { KilnError } from '../errors.ts';
import { findSandbox } from '../sandbox/domain/find-sandbox.ts';
import { listSandboxes } from '../sandbox/domain/list.ts';
import { destroySandbox } from '../sandbox/domain/sweep.ts';
import type { Caller } from './caller/caller.ts';

/** `kiln kill`. */
export function command(caller: Caller): Command {
  return new Command('kill')
    .description(
      'Destroy sandboxes with all that runs in them; `kiln run` then exits with status 137.',
    )
    .argument('[id...]', 'ids as `kiln ps` shows them; the first digits are enough')
    .option('-a, --all', 'destroy all sandboxes, including parked ones')
    .addHelpText('after', '\nExamples:\n  kiln kill 3fa9\n  kiln kill --all')
    .action(async (ids: string[], options: { all?: boolean }) => {
      if (ids.length === 0 && options.all !== true) {
        throw new KilnError('E_ARGUMENT', 'say which sandbox: an id, or --all', {
          hint: '`kiln ps` lists them',
        });
      }
      if (ids.length > 0 && options.all === true) {
        throw new KilnError('E_ARGUMENT', `--all destroys every sandbox: it takes no ${ids[0]}`, {
          hint: 'leave out --all, or the ids',
        });
      }
      await using engine = caller.openEngine();
      const chosen =
        options.all === true
          ? await listSandboxes(engine.paths, engine)
          : await Promise.all(ids.map((id) => findSandbox(engine, id)));
      for (const { id, directory, record } of chosen) {
        await destroySandbox(engine.paths, directory, record, engine.connect);
        caller.stdout.say(`${id}\n`);
      }
    });
}
