/** The confined side of readRpms: headers, digests and signatures of a list of open files. */
import { openSync } from 'node:fs';
import { join } from 'node:path';
import { closing } from '../../host/calls/descriptor.ts';
import { flattenError } from '../../host/confine/frame.ts';
import type { QueueTask } from '../../host/confine/task.ts';
import { packageRoot } from '../../host/state/paths.ts';
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

/** A package without content that rpmbuild made, signed by a throw-away key; the build puts it there. */
const SAMPLE = join(packageRoot(), 'dist/sample.rpm');

/** So many make the code fast: some 50 ms of work. */
const REHEARSALS = 300;

export const task: QueueTask = {
  prepare() {
    loadLibrpmio();
  },

  *rehearse() {
    using sample = closing(openSync(SAMPLE, 'r'));
    const options = { depth: 'header', keyring: new Keyring(loadLibrpmio(), []) } as const;
    for (let step = 0; step < REHEARSALS; step++) {
      inspect(sample.fd, options, describeIdentity);
      yield;
      inspect(sample.fd, options, describePackage);
      yield;
    }
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
