import { z } from 'zod';
import { KilnError } from '../../errors.ts';

export const moduleRequestSchema = z.strictObject({
  enable: z.array(z.string()),
  disable: z.array(z.string()),
  install: z.array(z.string()),
  obsoletes: z.boolean(),
  /** What `platform` is: `el9`; unless given the release's packages say it. */
  platform: z.string().optional(),
});
export type ModuleRequest = z.output<typeof moduleRequestSchema>;

/** What the confined task `solver-solve` is told. Plain data: it crosses a pipe. */
export const solveInputSchema = z.strictObject({
  arch: z.string(),
  multilib: z.boolean(),
  /** Descriptors: each one's converted primary, followed by its filelists and modules if there are any. */
  repositories: z.array(
    z.strictObject({
      id: z.string(),
      priority: z.int(),
      cost: z.int(),
      excludepkgs: z.array(z.string()),
      includepkgs: z.array(z.string()),
      filelists: z.boolean(),
      modules: z.boolean(),
      moduleHotfixes: z.boolean(),
    }),
  ),
  /** Whether all file lists there are were loaded: then there is nothing more to ask for. */
  complete: z.boolean(),
  install: z.array(z.string()),
  members: z.array(z.string()),
  conditional: z.array(z.strictObject({ name: z.string(), requires: z.string() })),
  requires: z.array(z.string()),
  exclude: z.array(z.string()),
  modules: moduleRequestSchema,
  recommends: z.boolean(),
  keep: z.array(z.strictObject({ nevra: z.string(), digest: z.string() })),
});
export type SolveInput = z.output<typeof solveInputSchema>;

export const solvedPackageSchema = z.strictObject({
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

export const solveOutputSchema = z.discriminatedUnion('kind', [
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

export const DELETE_CACHE = 'delete the cache folder of KILN_STATE; it is made again';

export function problemText(problems: readonly (readonly string[])[]): string {
  const item = (lines: readonly string[]) =>
    lines.map((line, index) => `${index === 0 ? '  - ' : '    '}${line}`).join('\n');
  return problems.map(item).join('\n');
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
