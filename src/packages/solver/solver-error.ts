import { KilnError } from '../../errors.ts';
import { problemText } from './problem-text.ts';
import type { SolveOutput } from './solve-input.ts';

/** What to do about converted metadata that libsolv cannot read. */
export const DELETE_CACHE = 'delete the cache folder of KILN_STATE; it is made again';

/** What a person is told when the solver found no solution. */
export function solverError(answer: Exclude<SolveOutput, { kind: 'solved' }>): KilnError {
  switch (answer.kind) {
    case 'problems': {
      const text = problemText(answer.problems);
      return new KilnError(
        'E_SOLVER_PROBLEM',
        `these packages cannot be installed together:\n${text}`,
        {
          hint: 'change the packages, the excludes or the repositories',
          details: { problems: answer.problems },
        },
      );
    }
    case 'unknown': {
      const text = answer.names.map((entry) => `  ${entry.name}${unknownNote(entry)}`).join('\n');
      return new KilnError('E_SOLVER_NO_MATCH', `no repository has:\n${text}`, {
        hint: 'look for the right name, or add the repository that has it',
        details: { names: answer.names.map(({ name }) => name) },
      });
    }
    case 'incomplete':
    case 'damaged':
      return new KilnError('E_SOLVER_CACHE', 'the converted metadata in the cache is damaged', {
        hint: DELETE_CACHE,
        details: { ...answer },
      });
  }
}

function unknownNote({ excluded, similar }: { excluded: string[]; similar: string[] }): string {
  if (excluded.length > 0) return ` (excluded by the configuration: ${excluded.join(', ')})`;
  return similar.length > 0 ? ` (did you mean ${similar.join(', ')}?)` : '';
}
