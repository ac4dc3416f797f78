/** What the confined task `solver-solve` answers, and the errors that this becomes. */
import { z } from 'zod';
import { KilnError } from '../../errors.ts';
import { reasonLine } from '../../host/calls/system-error.ts';
import { DELETE_CACHE, problemText } from './solve-input.ts';

const solvedPackageSchema = z.strictObject({
  nevra: z.string().max(4096),
  name: z.string().min(1).max(1024),
  /** `[epoch:]version-release`, epoch 0 left out. */
  evr: z.string().min(1).max(1024),
  arch: z.string().min(1).max(64),
  /** `sha256:…`, or whatever algorithm the metadata has. */
  digest: z.string().max(256),
  size: z.number().min(0),
  location: z.string().min(1).max(4096),
  base: z.string().max(4096),
  repository: z.string(),
});

const solveOutputSchema = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('solved'),
    packages: z.array(solvedPackageSchema),
    missing: z.array(z.string()),
    gone: z.array(z.string()),
    /** Requests such as `(a if b)` of which the condition is not met: they ask for nothing. */
    idle: z.array(z.string()),
    warnings: z.array(z.string().max(8192)).max(10_000),
  }),
  /** The answer may depend on files that primary metadata does not list: ask again with filelists. */
  z.strictObject({ kind: z.literal('incomplete'), because: z.string() }),
  /**
   * Nothing is called so. `excluded`: something is, but the configuration leaves it out, or modules
   * do: then each is followed by its stream.
   */
  z.strictObject({
    kind: z.literal('unknown'),
    names: z.array(
      z.strictObject({
        name: z.string(),
        excluded: z.array(z.string()),
        similar: z.array(z.string()),
      }),
    ),
  }),
  z.strictObject({ kind: z.literal('problems'), problems: z.array(z.array(z.string())) }),
  z.strictObject({ kind: z.literal('damaged'), repository: z.string() }),
]);
export type SolveOutput = z.output<typeof solveOutputSchema>;
export type SolvedPackage = z.output<typeof solvedPackageSchema>;

const toldOf = z.object({
  packages: z.array(z.looseObject({ nevra: z.string(), repository: z.string() })),
});

const OTHER_NAME = 'look for the right name, or add the repository that has it';

/** Of a path in place of a name. */
const OWN_FILE =
  'packages of your own come from a folder with metadata: `createrepo_c rpms`, then `repositories: [{ id: own, directory: rpms, gpgcheck: false }]` for unsigned ones, and the package by its name: docs/recipes.md has an example';

/**
 * Checks what the child said: it read untrusted bytes.
 * @throws KilnError E_REPOSITORY_METADATA for a package that rpm could not install
 */
export function takeSolveOutput(value: unknown): SolveOutput {
  const answer = solveOutputSchema.safeParse(value);
  if (answer.success) return answer.data;
  const [key, index] = answer.error.issues[0]?.path ?? [];
  const found = key === 'packages' && toldOf.safeParse(value).data?.packages[Number(index)];
  if (!found) throw answer.error;
  const what = `${found.nevra.slice(0, 80)} of repository ${found.repository.slice(0, 80)}`;
  throw new KilnError('E_REPOSITORY_METADATA', `${what} is not a package that rpm could install`, {
    cause: new Error(reasonLine(answer.error)),
    hint: 'the metadata of the repository is broken or hostile: leave the package out by `exclude`',
  });
}

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
        hint: answer.names.some(({ name }) => /^[.~/].*\.rpm$/.test(name)) ? OWN_FILE : OTHER_NAME,
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
