import { open } from 'node:fs/promises';
import { runConfined } from '../confine/run.ts';
import { KilnError } from '../errors.ts';
import { orderOutputSchema } from './order-task.ts';
import { problemText } from './problem-text.ts';

const LIMITS = { memory: 2 * 2 ** 30, cpuSeconds: 120, wallMs: 300_000, fileSize: 0 };

/**
 * The order in which a complete set of packages is to be installed, as indexes into `files`.
 * @throws KilnError E_SOLVER_PROBLEM if something is missing from the set or contradicts the rest.
 */
export async function orderPackages(
  files: readonly string[],
  arch: string,
  signal?: AbortSignal,
): Promise<number[]> {
  await using stack = new AsyncDisposableStack();
  const fds: number[] = [];
  for (const file of files) fds.push(stack.use(await open(file)).fd);
  const answers = runConfined({
    task: 'solver-order',
    input: { arch },
    validate: (value) => orderOutputSchema.parse(value),
    fds,
    limits: LIMITS,
    signal,
  });
  for await (const answer of answers) {
    if (answer.kind === 'problems') {
      const text = problemText(answer.problems);
      throw new KilnError(
        'E_SOLVER_PROBLEM',
        `these packages require what none of them provides:\n${text}`,
        {
          hint: 'add the missing packages to the recipe or the lock',
          details: { problems: answer.problems },
        },
      );
    }
    if (new Set(answer.order).size === files.length) return answer.order;
  }
  throw new KilnError('E_SOLVER_PROBLEM', 'the solver left packages out of the order');
}
