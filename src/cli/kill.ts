import { Command } from 'commander';
import { Follower } from '../detached/follow.ts';
import { type ListedJob, listJobs } from '../detached/record.ts';
import { KilnError } from '../errors.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { findSandbox } from '../sandbox/domain/find-sandbox.ts';
import { listSandboxes } from '../sandbox/domain/list.ts';
import { destroySandbox } from '../sandbox/domain/sweep.ts';
import type { Caller } from './caller/caller.ts';

/** `kiln kill`. */
export function command(caller: Caller): Command {
  return new Command('kill')
    .description(
      'Destroy sandboxes with all that runs in them; `kiln run` then exits with status 137. End detached jobs.',
    )
    .argument(
      '[id...]',
      'ids, or names of jobs, as `kiln ps` shows them; the first digits are enough',
    )
    .option('-a, --all', 'destroy all sandboxes, including parked ones, and end all jobs')
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
      const jobs = (await listJobs(engine.paths, caller.user)).filter(
        ({ state }) => state === 'running',
      );
      const meant = jobs.filter(
        ({ record: { id, name } }) =>
          options.all === true || ids.some((word) => name === word || isBeginning(word, id)),
      );
      for (const job of meant) {
        await endJob(engine.paths, job);
        caller.stdout.say(`${job.record.id}\n`);
      }
      const others = ids.filter(
        (word) => !meant.some(({ record: { id, name } }) => name === word || isBeginning(word, id)),
      );
      const chosen =
        options.all === true
          ? await listSandboxes(engine.paths, engine)
          : await Promise.all(others.map((id) => findSandbox(engine, id)));
      for (const { id, directory, record } of chosen) {
        await destroySandbox(engine.paths, directory, record, engine.connect);
        caller.stdout.say(`${id}\n`);
      }
    });
}

function isBeginning(word: string, id: string): boolean {
  return word !== '' && id.startsWith(word);
}

/** Has a job end, and waits until it has. */
async function endJob(paths: StatePaths, { record }: ListedJob): Promise<void> {
  using follower = await Follower.open(paths, record.id);
  follower?.control({ do: 'end' });
  await follower?.over;
}
