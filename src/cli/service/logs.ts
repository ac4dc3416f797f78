import { Command, Option } from 'commander';
import { readService } from '../../service/lifecycle/store.ts';
import { followLog, readLog } from '../../service/log-file.ts';
import type { Caller } from '../caller/caller.ts';
import { parseCount } from '../options/values.ts';

/** `kiln service logs`. */
export function logsCommand(caller: Caller): Command {
  return new Command('logs')
    .description('Show the log of a service: what its units wrote, and messages of kiln.')
    .argument('<service>', 'the name of the service')
    .option('-f, --follow', 'also show new lines until Ctrl-C')
    .addOption(
      new Option('-n, --lines <number>', 'show this many lines').argParser(parseCount).default(200),
    )
    .addHelpText(
      'after',
      '\nExamples:\n  kiln service logs apache1\n  kiln service logs -f -n 20 apache1',
    )
    .action(async (name: string, options: { follow?: boolean; lines: number }) => {
      await using engine = caller.openEngine();
      const { files } = await readService(engine.paths, name);
      for (const line of readLog(files, options.lines)) caller.stdout.say(`${line}\n`);
      if (options.follow !== true) return;
      const interrupted = new AbortController();
      process.once('SIGINT', () => interrupted.abort());
      process.once('SIGTERM', () => interrupted.abort());
      await followLog(files, (text) => caller.stdout.say(text), interrupted.signal);
    });
}
