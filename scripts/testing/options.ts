/** Options of the scripts for developers. `--help` is answered by scripts/bootstrap.sh. */
import { type ParseArgsOptionsConfig, parseArgs } from 'node:util';

/** For a wrong call, as of kiln itself. */
const USAGE_STATUS = 2;

/** Reads the options of a script; ends the process with status 2 and the reason for one that is not among them. */
export function scriptOptions<Options extends ParseArgsOptionsConfig>(options: Options) {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    refuseCall(`${(error as Error).message}; --help says what there is`);
  }
}

/** Says what is wrong with a call, and ends the process. */
export function refuseCall(why: string): never {
  process.stderr.write(`${why}\n`);
  process.exit(USAGE_STATUS);
}
