import { closeSync } from 'node:fs';
import { runTool } from '../../kernel/child-process.ts';
import { createUserNamespace } from '../../kernel/user-namespace.ts';
import { idBlock, RANGE_SIZE } from '../../sandbox/id-range.ts';
import { type Check, fail, ok, reason } from '../check.ts';
import { mountOf } from '../host.ts';
import { nearestExisting } from './state-directory.ts';

/**
 * In namespaces of their own, which end with the shell: overlayfs on top of the working directory,
 * with its upper layer on a tmpfs, as the guest init mounts it; then a file is written through it.
 */
const TRIAL = `
set -eu
mount -n -t tmpfs -o size=1m tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/merged"
mount -n -t overlay -o "userxattr,lowerdir=.,upperdir=$1/upper,workdir=$1/work" overlay "$1/merged"
echo trial > "$1/merged/.kiln-doctor"
test -s "$1/upper/.kiln-doctor"
`;

/** Overlayfs can be mounted inside a user namespace, on the file system of KILN_STATE: tried. */
export const overlay: Check = {
  name: 'overlay',
  async run({ paths }) {
    const lower = await nearestExisting(paths.root);
    const { type } = await mountOf(lower);
    // Any directory will do to mount on: nobody else sees it.
    // Ids as a sandbox has them: this process's own could only be mapped with CAP_SETFCAP.
    const { start } = await idBlock();
    const ids = [{ inside: 0, outside: start, count: RANGE_SIZE }];
    const userNamespace = createUserNamespace(ids);
    try {
      const enter = [
        `--user=/proc/${process.pid}/fd/${userNamespace}`,
        'unshare',
        '--mount',
        '--propagation',
        'private',
      ];
      const tried = await runTool('nsenter', [...enter, 'sh', '-c', TRIAL, 'sh', '/sys'], {
        cwd: lower,
      });
      if (tried.failure === undefined) return ok(`overlayfs on ${type}, in a user namespace`);
      return fail(
        `overlayfs on ${type}: ${reason(tried.failure)}`,
        'a box cannot make its image writable for itself',
        'modprobe overlay; if that does not help, set KILN_STATE to ext4, xfs, btrfs or tmpfs',
      );
    } finally {
      closeSync(userNamespace);
    }
  },
};
