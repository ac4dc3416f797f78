/** The confined side of readRpms: headers, digests and signatures of a list of open files. */
import { closeSync } from 'node:fs';
import { flattenError } from '../confine/flat-error.ts';
import type { ConfinedTask } from '../confine/task.ts';
import { type DigestDepth, loadHashes } from './digests.ts';
import { inspectIdentity, inspectPackage } from './inspect.ts';
import { Keyring } from './keyring.ts';
import { loadLibrpmio } from './librpmio.ts';
import { HEADERS_MEMORY } from './sections.ts';
import { toWire } from './wire.ts';

export interface ReadTaskInput {
  readonly depth: DigestDepth;
  /** Only what the packages are, not what is in them. */
  readonly identityOnly: boolean;
  /** Armored public keys. */
  readonly keys: readonly string[];
}

loadHashes();

export const task: ConfinedTask = {
  prepare() {
    loadLibrpmio();
  },

  run(input, { arriving, emit }) {
    const { depth, identityOnly, keys } = input as ReadTaskInput;
    const keyring = new Keyring(loadLibrpmio(), keys);
    const memory = Buffer.allocUnsafeSlow(HEADERS_MEMORY);
    const options = { depth, keyring, memory };
    const look = (fd: number) =>
      identityOnly ? inspectIdentity(fd, options) : toWire(inspectPackage(fd, options));
    for (const group of arriving) {
      const answers: object[] = [];
      for (const { index, fd } of group) {
        try {
          answers.push({ index, package: look(fd) });
        } catch (error) {
          answers.push({ index, error: flattenError(error) });
        } finally {
          closeSync(fd);
        }
      }
      // One message a group: each costs the parent as much as checking what is in it.
      emit(answers);
    }
  },
};
