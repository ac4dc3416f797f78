import type { Artifact } from '../../../artifacts/manifest.ts';
import type { Warning } from '../../../artifacts/warning.ts';
import type { EgressEntry } from '../../../egress/rule.ts';
import type { KilnError } from '../../../errors.ts';
import type { CgroupUsage } from '../../../host/cgroup/cgroup-usage.ts';
import type { HeldPath } from '../../../host/files/held.ts';
import type { OnImageProgress } from '../../../image/progress.ts';
import type { RpmIdentity } from '../../../packages/rpm/package.ts';
import type { CommandEnd, LimitHit } from '../../../sandbox/door/supervise.ts';
import type { RunReport } from '../../run/run.ts';
import type { Course, PhaseEvent } from '../../run/timeline.ts';
import type { BuildRequest } from '../request.ts';

/** The parts of a build, in their order. `prep` to `package` are parts of rpmbuild's own run, by its output. */
export type BuildPhase =
  | 'input'
  | 'image'
  | 'sandbox'
  | 'srpm'
  | 'buildrequires'
  | 'dependencies'
  | 'dynamic-buildrequires'
  | 'build'
  | 'prep'
  | 'compile'
  | 'install'
  | 'check'
  | 'package'
  | 'collect'
  | 'postinstall'
  | 'verify'
  | 'sign'
  | 'destroy';

export type LogName = 'build.log' | 'root.log';

export interface BuildHooks {
  readonly signal?: AbortSignal;
  readonly onPhase?: (phase: BuildPhase, event: PhaseEvent) => void;
  readonly onOutput?: (log: LogName, chunk: Buffer) => void;
  readonly onImageProgress?: OnImageProgress;
  readonly onWarning?: (warning: Warning) => void;
  readonly samples?: boolean;
  readonly stateNames?: Readonly<Partial<Record<BuildPhase | 'whole', string>>>;
}

export interface BuiltPackage {
  readonly file: string;
  readonly nevra: string;
  readonly isSource: boolean;
  /** Lower-case hex, of the whole file. */
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
  readonly identity: RpmIdentity;
}

export interface Difference {
  readonly package: string;
  readonly what: string;
  readonly path?: string;
  readonly detail?: readonly string[];
}

/** What a build made, as it is in the result directory. */
export interface Built {
  readonly packages: readonly BuiltPackage[];
  readonly sourcePackage: BuiltPackage | undefined;
  readonly artifacts: readonly Artifact[];
}

export const NOTHING_BUILT: Built = { packages: [], sourcePackage: undefined, artifacts: [] };

/** Steps of a build: each yields what it adds to the report, also where a later one fails. */
export type Steps<Value = void> = AsyncGenerator<Partial<BuildReport>, Value, void>;

export interface BuildReport extends Built, Course {
  readonly name: string;
  /** Name, version and release; undefined until the source package says it. */
  readonly nvr?: string | undefined;
  readonly exitStatus: number;
  readonly failure: KilnError | undefined;
  readonly failedPhase: string | undefined;
  readonly lastLines: readonly string[];
  readonly request: BuildRequest;
  readonly resultDirectory: HeldPath;
  /** `sha256:…` of the source package or spec; undefined if it was not read. */
  readonly sourceDigest?: string | undefined;
  readonly buildRequires: readonly string[];
  readonly base?: { readonly id: string; readonly name: string } | undefined;
  readonly image?:
    | { readonly id: string; readonly name: string; readonly arch: string }
    | undefined;
  readonly sandbox?: string | undefined;
  readonly kept: boolean;
  readonly end?: CommandEnd | undefined;
  readonly limitHit: LimitHit | null;
  readonly usage: CgroupUsage;
  readonly measured?: RunReport['measured'] | undefined;
  readonly warnings: readonly Warning[];
  readonly egress: readonly EgressEntry[];
  readonly differences?: readonly Difference[];
}
