import { availableParallelism } from 'node:os';
import { type Command, Option } from 'commander';
import { parseCount } from '../options/values.ts';

/** The options of `build --chain`, beside those of a build. */
export interface ChainOptions {
  readonly chain?: boolean;
  readonly jobs: number;
  readonly continue?: boolean;
  readonly recurse?: boolean;
  readonly farm?: boolean;
}

export const CHAIN_EXAMPLES = `
Several packages that require each other (see docs/chains.md):
  kiln build --chain -r debian-build --resultdir out a.src.rpm b.src.rpm c.src.rpm
  kiln build --chain -j 4 --continue -r debian-build --resultdir out *.src.rpm
  kiln build --chain --farm -r debian-build --resultdir out *.src.rpm   # on a pool: docs/farm.md
  The exit status is that of the first build that failed. With the same --resultdir a chain continues
  where it stopped: a package whose inputs have not changed is not built again.`;

/** Half of the processors, because a build uses several itself (make -j). */
const JOBS = Math.max(1, Math.min(4, Math.floor(availableParallelism() / 2)));

/** Adds the options of a chain, with mock's names. */
export function addChainOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--chain',
        'build several source packages; each can use the results of the others',
      ),
    )
    .addOption(
      new Option('-j, --jobs <number>', 'with --chain: run this many builds at a time')
        .argParser(parseCount)
        .default(JOBS, 'half of the processors, at most 4'),
    )
    .addOption(new Option('-c, --continue', 'with --chain: continue after a failed build'))
    .addOption(
      new Option(
        '--recurse',
        'with --chain: try failed builds again with newer results; packages may need each other',
      ),
    )
    .addOption(new Option('--farm', 'with --chain: build on a pool of machines (HTCondor)'));
}
