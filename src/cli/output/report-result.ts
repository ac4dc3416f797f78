import type { RunRequest } from '../../jobs/run/request.ts';
import type { ResultContext } from '../../jobs/run/result.ts';
import type { Result } from '../../result/schema.ts';
import type { RunContext } from '../run.ts';
import { printError } from './errors.ts';
import { KILN_FAILED } from './exit-status.ts';
import { jsonText } from './print.ts';

/**
 * Writes result.json into the result directory, if there is one, and prints it as one line on stderr for
 * `--json`. If it cannot be written, that is a failure of kiln, unless there is one already.
 */
export async function reportResult(
  request: RunRequest,
  json: boolean,
  describe: (context: ResultContext) => Result,
  { caller, results }: Pick<RunContext, 'caller' | 'results'>,
): Promise<void> {
  if (!json && request.resultDirectory === undefined) return;
  try {
    const exitStatus = caller.exitStatus ?? 0;
    const described = describe({ request, exitStatus });
    const result = caller.user?.files?.renamed(described) ?? described;
    if (json) caller.stderr.write(`${jsonText(result)}\n`);
    if (request.resultDirectory === undefined) return;
    await results.write(request.resultDirectory, result, request.caller);
  } catch (error) {
    printError(error, caller.stderr);
    if (!caller.exitStatus) caller.exitStatus = KILN_FAILED;
  }
}
