import { resolve } from 'node:path';
import { Command } from 'commander';
import { renewReport } from '../report/write.ts';
import type { Caller } from './caller/caller.ts';

const EXAMPLES = `
Jobs with a --resultdir write the report themselves. It is one file and needs no network: open it in a browser.

Examples:
  kiln report result                      make result/report.html of result.json and the logs beside it
  xdg-open result/report.html`;

/** `kiln report`. */
export function command(caller: Caller): Command {
  return new Command('report')
    .description('Write report.html again from the result.json and the logs in a result directory.')
    .argument('<directory>', 'the result directory of a job')
    .addHelpText('after', EXAMPLES)
    .action(async (directory: string) => {
      const path = await renewReport(resolve(caller.cwd(), directory), caller.ids);
      caller.stdout.write(`${path}\n`);
      caller.exitStatus = 0;
    });
}
