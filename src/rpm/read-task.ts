/** The confined side of readRpms: headers, digests and signatures of a list of open files. */
import { closeSync } from 'node:fs';
import { flattenError } from '../confine/flat-error.ts';
import type { ConfinedTask } from '../confine/task.ts';
import { type DigestDepth, loadHashes } from './digests.ts';
import { inspectIdentity, inspectPackage } from './inspect.ts';
import { type Keyring, loadKeyring } from './keyring.ts';
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

let keyring: Keyring | null = null;

export const task: ConfinedTask = {
  // The keys are the user's own; what they sign is not.
  async prepare(input) {
    const { keys } = input as ReadTaskInput;
    if (keys.length > 0) keyring = await loadKeyring(keys);
  },

  async run(input, { arriving, emit }) {
    const { depth, identityOnly } = input as ReadTaskInput;
    const memory = Buffer.allocUnsafeSlow(HEADERS_MEMORY);
    const options = { depth, keyring, memory };
    const look = async (fd: number) =>
      identityOnly ? inspectIdentity(fd, options) : toWire(await inspectPackage(fd, options));
    for (const group of arriving) {
      const answers: object[] = [];
      for (const { index, fd } of group) {
        try {
          answers.push({ index, package: await look(fd) });
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
