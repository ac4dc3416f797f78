/** What is asked of modules: each a `NAME` or `NAME:STREAM`, those to install with `/PROFILE` as well. */
export interface ModuleRequest {
  enable: string[];
  disable: string[];
  install: string[];
  obsoletes: boolean;
  /** What `platform` is: `el9`; unless given the release's packages say it. */
  platform?: string | undefined;
}

/** What the confined task `solver-solve` is told. Plain data: it crosses a pipe. */
/** What groups stand for. */
export interface ExpandedGroups {
  readonly members: readonly string[];
  readonly conditional: readonly { readonly name: string; readonly requires: string }[];
}

export interface SolveInput extends ExpandedGroups {
  readonly arch: string;
  readonly multilib: boolean;
  /** Descriptors: each one's converted primary, followed by its filelists and modules if there are any. */
  readonly repositories: readonly SolveRepository[];
  /** Whether all file lists there are were loaded: then there is nothing more to ask for. */
  readonly complete: boolean;
  readonly install: readonly string[];
  readonly requires: readonly string[];
  readonly exclude: readonly string[];
  readonly modules: ModuleRequest;
  readonly recommends: boolean;
  readonly keep: readonly { readonly nevra: string; readonly digest: string }[];
}

/** A repository as the solver takes it; one with a lower priority, and then a lower cost, comes first. */
export interface SolveRepository {
  readonly id: string;
  readonly priority: number;
  readonly cost: number;
  readonly excludepkgs: readonly string[];
  readonly includepkgs: readonly string[];
  readonly filelists: boolean;
  readonly modules: boolean;
  readonly moduleHotfixes: boolean;
}

export const DELETE_CACHE = 'delete the cache folder of KILN_STATE; it is made again';

export function problemText(problems: readonly (readonly string[])[]): string {
  const item = (lines: readonly string[]) =>
    lines.map((line, index) => `${index === 0 ? '  - ' : '    '}${line}`).join('\n');
  return problems.map(item).join('\n');
}
