import { stat } from 'node:fs/promises';
import { type Check, fail, ok, warn } from '../check.ts';
import { mountOf } from '../host.ts';
import { nearestExisting } from './state-directory.ts';

/** /run/kiln, or where it will be: root's, and gone with the boot like the sockets in it. */
export const runDirectory: Check = {
  name: 'run-directory',
  async run({ paths }) {
    const existing = await nearestExisting(paths.hostRun);
    const { uid, mode } = await stat(existing);
    const { type } = await mountOf(existing);
    const found = `${paths.hostRun} on ${type}`;
    if (uid !== 0 || (mode & 0o022) !== 0) {
      return fail(
        `${existing}: owner ${uid}, mode ${(mode & 0o7777).toString(8)}`,
        'others could put a socket where kiln looks for its own',
        `chown root:root ${existing} && chmod 755 ${existing}`,
      );
    }
    if (type !== 'tmpfs') {
      return warn(
        found,
        'what is left there after a crash of the machine survives the boot',
        `mount a tmpfs on /run, as every systemd host has, or rm -r ${paths.hostRun} after a crash`,
      );
    }
    return ok(found);
  },
};
