import type { Lock, LockedPackage } from '../repository/lock/lock.ts';
import type { OnProgress } from '../repository/transport/transfer.ts';
import type { ModuleRequest } from './solve-input.ts';

export interface SolveRequest {
  readonly arch: string;
  readonly multilib?: boolean | undefined;
  /**
   * What must be installed, as on dnf's command line: a name, name-version, NEVRA, glob, condition
   * (`foo >= 2`), capability, path, rich dependency (`(a or b)`), `@group` or `@^environment`.
   */
  readonly install: readonly string[];
  readonly requires?: readonly string[] | undefined;
  readonly exclude?: readonly string[] | undefined;
  readonly modules?: Partial<ModuleRequest> | undefined;
  readonly recommends?: boolean | undefined;
  readonly keep?: { readonly packages: readonly LockedPackage[] } | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnProgress | undefined;
}

export interface Solution {
  readonly lock: Lock;
  readonly warnings: readonly string[];
}
