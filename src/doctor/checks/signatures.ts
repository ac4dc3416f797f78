import { KilnError } from '../../errors.ts';
import { verifyRepomd } from '../../repository/verify-repomd.ts';
import { type Check, fail, ok, reason } from '../check.ts';

/** rpm's library, which judges signatures, can be used where that is done: in a confined child. */
export const signatures: Check = {
  name: 'signatures',
  async run() {
    try {
      await verifyRepomd('of the doctor', Buffer.alloc(0), Buffer.from('no signature'), []);
    } catch (error) {
      // What is no signature was seen to be none.
      const isKiln = error instanceof KilnError;
      if (isKiln && error.code === 'E_REPOSITORY_SIGNATURE') return ok('rpm’s library judges them');
      const mend = (isKiln ? error.hint : undefined) ?? 'see the checks above';
      return fail(reason(error), 'no package can be verified, so no image can be made', mend);
    }
    return fail('what is no signature was taken for one', 'forged packages pass', 'report it');
  },
};
