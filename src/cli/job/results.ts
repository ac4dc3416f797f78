import { closeSync, constants, existsSync, mkdirSync, openSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command } from 'commander';
import { findJob, jobFiles, titleOf } from '../../detached/record.ts';
import { KilnError } from '../../errors.ts';
import { statePaths } from '../../host/state/paths.ts';
import { copyResults } from '../../users/copy-results.ts';
import type { Caller } from '../caller/caller.ts';

/** `kiln results`. */
export function command(caller: Caller): Command {
  return new Command('results')
    .description('Copy the results of a detached job that has ended.')
    .argument('<id>', 'an id or name, as `kiln ps` shows it; the first digits are enough')
    .argument('[dir]', 'the directory to write them to', 'result')
    .addHelpText('after', '\nExamples:\n  kiln wait nightly; kiln results nightly out')
    .action(async (id: string, directory: string) => {
      const { record, folder, state } = await findJob(statePaths(caller.env), caller.user, id);
      const title = titleOf(record);
      if (record.resultDirectory !== undefined) {
        throw new KilnError('E_NO_RESULTS', `the results of ${title} are not kept here`, {
          hint: `its --resultdir has them: ${record.resultDirectory}`,
        });
      }
      if (state === 'running') {
        throw new KilnError('E_NO_RESULTS', `the job ${title} has not ended`, {
          hint: `\`kiln wait ${record.id}\` waits for it`,
        });
      }
      const from = jobFiles.results(folder);
      if (!existsSync(from)) {
        throw new KilnError('E_NO_RESULTS', `the job ${title} left no results`, {
          hint: `\`kiln logs ${record.id}\` may say why`,
        });
      }
      await copyTo(from, directory, caller);
      caller.stdout.say(`${directory}\n`);
    });
}

async function copyTo(from: string, directory: string, caller: Caller): Promise<void> {
  const files = caller.user?.files;
  if (files !== undefined) {
    await files.give(from, directory);
    return;
  }
  const path = resolve(caller.cwd(), directory);
  mkdirSync(path, { recursive: true });
  const to = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await copyResults(from, to, directory, {
      owner: caller.ids,
      warn: ({ message }) => caller.stderr.say(`kiln: warning: ${message}\n`),
    });
  } finally {
    closeSync(to);
  }
}
