import { findDamage } from '../../state/kinds.ts';
import { type Check, ok, warn } from '../check.ts';

/** So many are named; a person looks for the cause (the disk, mostly), not at each. */
const NAMED = 5;

/** The small files in KILN_STATE are what kiln wrote. Large ones are looked at when they are used. */
export const stateFiles: Check = {
  name: 'state-files',
  async run({ paths }) {
    const damage = findDamage(paths);
    if (damage.length === 0) return ok(`no damaged file in ${paths.root}`);
    const lines = damage
      .slice(0, NAMED)
      .map(
        ({ kind, error }) => `${error.message}${kind.mend === undefined ? '' : `; ${kind.mend}`}`,
      );
    const more = damage.length > NAMED ? ` (and ${damage.length - NAMED} more)` : '';
    const files = damage.length === 1 ? '1 damaged file' : `${damage.length} damaged files`;
    return warn(
      `${files} in ${paths.root}`,
      `${lines.join('; ')}${more}`,
      'kiln gc, which throws away what can be made anew; look whether the disk fails, or was full',
    );
  },
};
