import { z } from 'zod';

/** What is asked of modules; each spec is `NAME`, `NAME:STREAM` or `NAME:STREAM/PROFILE`. */
export const moduleRequestSchema = z.strictObject({
  enable: z.array(z.string()),
  disable: z.array(z.string()),
  /** Enabled, and the packages of their profiles installed. */
  install: z.array(z.string()),
  /** Whether streams that the metadata says are replaced are replaced. */
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
      /** None of its packages is filtered by modules. */
      moduleHotfixes: z.boolean(),
    }),
  ),
  /** Whether all file lists there are were loaded: then there is nothing more to ask for. */
  complete: z.boolean(),
  /** What must be installed, as on dnf's command line. */
  install: z.array(z.string()),
  /** Package names that are installed if they exist: the members of groups. */
  members: z.array(z.string()),
  /** Names that are installed if they exist and `requires` is installed. */
  conditional: z.array(z.strictObject({ name: z.string(), requires: z.string() })),
  /** Dependencies that must be met, as in a spec file's BuildRequires. */
  requires: z.array(z.string()),
  exclude: z.array(z.string()),
  modules: moduleRequestSchema,
  recommends: z.boolean(),
  /** Packages to keep at exactly this version if that is possible. */
  keep: z.array(z.strictObject({ nevra: z.string(), digest: z.string() })),
});
export type SolveInput = z.output<typeof solveInputSchema>;

/** One package of a solution. */
export const solvedPackageSchema = z.strictObject({
  nevra: z.string().max(4096),
  name: z.string().min(1).max(1024),
  evr: z.string().min(1).max(1024),
  arch: z.string().min(1).max(64),
  digest: z.string().max(256),
  size: z.number().min(0),
  location: z.string().min(1).max(4096),
  base: z.string().max(4096),
  repository: z.string(),
});

/** The task's one answer. */
export const solveOutputSchema = z.discriminatedUnion('kind', [
  /** In the order of installation. */
  z.strictObject({
    kind: z.literal('solved'),
    packages: z.array(solvedPackageSchema),
    /** Group members that no repository has. */
    missing: z.array(z.string()),
    /** Of `keep`: what no repository has any more. */
    gone: z.array(z.string()),
    /** Requests such as `(a if b)` of which the condition is not met: they ask for nothing. */
    idle: z.array(z.string()),
    /** About modules, for people. */
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
  /** libsolv's own words; several lines for one problem. */
  z.strictObject({ kind: z.literal('problems'), problems: z.array(z.array(z.string())) }),
  /** The converted metadata of this repository is damaged. */
  z.strictObject({ kind: z.literal('damaged'), repository: z.string() }),
]);
export type SolveOutput = z.output<typeof solveOutputSchema>;
export type SolvedPackage = z.output<typeof solvedPackageSchema>;
