/** Differences between kiln and dnf that are meant: docs/repositories.md lists them. */
import type { Difference } from './campaign.ts';

/** Why kiln and dnf differ here, or undefined if nothing explains it. */
export function explain({ question }: Difference): string | undefined {
  if (question.install.some((spec) => spec.startsWith('('))) {
    return 'a rich request means to kiln what it means to rpm, to dnf any of the packages in it';
  }
  return undefined;
}
