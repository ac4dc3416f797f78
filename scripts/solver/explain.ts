/** Differences between kiln and dnf that are meant: docs/repositories.md lists them. */
import { ABORTED, type Difference, same } from './campaign.ts';

/**
 * Why kiln and dnf differ here, or undefined if nothing explains it. A rich request is explained only
 * where dnf itself finds kiln's packages, or takes them, once a package requires what was asked for.
 */
export function explain({ kiln, dnf, requiring, meets }: Difference): string | undefined {
  if ([dnf.error, requiring?.error].includes(ABORTED)) return 'dnf’s library aborts';
  if (requiring === undefined) return undefined;
  if (same(kiln, requiring)) {
    return 'a rich request means to kiln what it means to rpm, to dnf any of the packages in it';
  }
  if (requiring.packages?.length === 0 && /asks for nothing/.test(kiln.error ?? '')) {
    return 'a condition that is not met asks for nothing, and kiln takes that for a mistake';
  }
  if (meets === true) {
    return 'a rich request has several answers, and dnf takes kiln’s when a package requires it';
  }
  return undefined;
}
