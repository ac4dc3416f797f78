/** The confined side of readRpms: headers, digests and signatures of a list of open files. */
import { flattenError } from '../../host/confine/frame.ts';
import type { QueueTask } from '../../host/confine/task.ts';
import { describeIdentity, describePackage } from './describe.ts';
import type { DigestDepth } from './digests.ts';
import { inspect } from './inspect.ts';
import { Keyring } from './signature/keyring.ts';
import { loadLibrpmio } from './signature/librpmio.ts';

export interface ReadTaskInput {
  readonly depth: DigestDepth;
  readonly identityOnly: boolean;
  readonly keys: readonly string[];
}

export const task: QueueTask = {
  prepare() {
    loadLibrpmio();
  },

  begin(input) {
    const { depth, identityOnly, keys } = input as ReadTaskInput;
    const keyring = new Keyring(loadLibrpmio(), keys);
    const options = { depth, keyring };
    const describe = identityOnly ? describeIdentity : describePackage;
    return ({ fds }) =>
      fds.map((fd) => {
        try {
          return { package: inspect(fd, options, describe) };
        } catch (error) {
          return { error: flattenError(error) };
        }
      });
  },
};
