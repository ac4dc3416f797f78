/** The confined side of readRpms: headers, digests and signatures of a list of open files. */
import { flattenError } from '../../host/confine/frame.ts';
import type { QueueTask } from '../../host/confine/task.ts';
import { type DigestDepth, loadHashes } from './digests.ts';
import { inspectIdentity, inspectPackage } from './inspect.ts';
import { Keyring } from './signature/keyring.ts';
import { loadLibrpmio } from './signature/librpmio.ts';

export interface ReadTaskInput {
  readonly depth: DigestDepth;
  readonly identityOnly: boolean;
  /** Armored public keys. */
  readonly keys: readonly string[];
}

loadHashes();

export const task: QueueTask = {
  prepare() {
    loadLibrpmio();
  },

  begin(input) {
    const { depth, identityOnly, keys } = input as ReadTaskInput;
    const keyring = new Keyring(loadLibrpmio(), keys);
    const options = { depth, keyring };
    const look = (fd: number) =>
      identityOnly ? inspectIdentity(fd, options) : inspectPackage(fd, options);
    return ({ fds }) =>
      fds.map((fd) => {
        try {
          return { package: look(fd) };
        } catch (error) {
          return { error: flattenError(error) };
        }
      });
  },
};
