import { KilnError } from '../../../errors.ts';
import type { RepositorySet } from '../../../packages/repository/open.ts';
import { type Solution, solve } from '../../../packages/solver/solve.ts';

/** The solver's words for a requirement that nothing meets. */
const NOTHING = /^nothing provides (.+) needed by this request: /;

/**
 * The error for a build whose only problem is that packages do not exist: it names them, with the
 * version that there is, or what is called alike.
 * @param error of solving for the build
 * @returns any other error as it is
 */
export async function missingRequires(
  error: unknown,
  set: RepositorySet,
  { arch, signal }: { readonly arch: string; readonly signal?: AbortSignal | undefined },
): Promise<unknown> {
  if (!(error instanceof KilnError) || error.code !== 'E_SOLVER_PROBLEM') return error;
  const missing = missingOf(error.details?.problems);
  if (missing.length === 0) return error;
  const alike = await namesAlike(missing, set, { arch, signal });
  const lines = missing.map((requirement) => `\n  ${alike.get(requirement) ?? requirement}`);
  return new KilnError('E_SOLVER_PROBLEM', `no package provides:${lines.join('')}`, {
    hint: 'mend the BuildRequires of the spec, or give the repository that has it with --addrepo',
    details: { problems: error.details?.problems, missing },
  });
}

/** What nothing provides; nothing at all if there is another problem, too. */
function missingOf(problems: unknown): string[] {
  if (!Array.isArray(problems)) return [];
  const found = problems.map((lines: unknown) =>
    Array.isArray(lines)
      ? lines.map((line) => NOTHING.exec(String(line))?.[1]).find((it) => it !== undefined)
      : undefined,
  );
  return found.every((requirement) => requirement !== undefined) ? [...new Set(found)] : [];
}

/** Requirements with a note on what there is: the solver knows for what it is asked to install. */
async function namesAlike(
  missing: readonly string[],
  set: RepositorySet,
  question: { readonly arch: string; readonly signal?: AbortSignal | undefined },
): Promise<Map<string, string>> {
  const alike = new Map<string, string>();
  for (const requirement of missing) {
    const [name = ''] = requirement.split(' ');
    const answer = await solve(set, { ...question, install: [name] }).catch((it: Error) => it);
    const note = answer instanceof Error ? wrongName(answer) : wrongVersion(name, answer);
    if (note !== undefined) alike.set(requirement, `${requirement}${note}`);
  }
  return alike;
}

function wrongName(error: Error): string | undefined {
  if (!(error instanceof KilnError) || error.code !== 'E_SOLVER_NO_MATCH') return undefined;
  return / \(did you mean .*\?\)$/m.exec(error.message)?.[0];
}

function wrongVersion(name: string, { lock }: Solution): string | undefined {
  const found = lock.packages.find((candidate) => candidate.name === name);
  return found === undefined ? undefined : ` (there is ${found.nevra})`;
}
