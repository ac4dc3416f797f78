import { fchmodSync, fstatSync, statfsSync } from 'node:fs';
import { Budget } from '../../artifacts/budget.ts';
import { listDirectory } from '../../artifacts/source.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { succeeds } from '../../host/calls/libc.ts';
import { O_PATH, openDirectory, openInTree, setTimesNow, unlinkat } from '../../host/files/at.ts';
import { refreshNames } from '../../host/files/mount.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { Layer } from './layer.ts';

/** linux/magic.h */
const OVERLAYFS = 0x794c7630;

/**
 * Empties the layer of a folder that is bound with `cow`, and ends what runs in the sandbox: the overlay does not look at
 * names anew that a process uses. The sandbox then sees the folder as it is now.
 * @throws KilnError E_SANDBOX_GONE, E_ARTIFACT_LIMIT, E_CHANGES, SyscallError
 */
export async function discardChanges(
  sandbox: PlannedSandbox,
  target: string,
  { home, upper, lower }: Layer,
): Promise<void> {
  await sandbox.killAll();
  await removeWritten(upper, new Budget());
  fchmodSync(upper, Number(fstatSync(lower).mode) & 0o1777);
  await sandbox.tree.withRoot(async (root) => {
    using mounted = openInTree(root, target, O_PATH);
    // A path of the sandbox's own: it may be any other by now.
    if (mounted !== undefined && statfsSync(`/proc/self/fd/${mounted.fd}`).type === OVERLAYFS) {
      refreshNames(mounted.fd);
      return;
    }
    throw new KilnError('E_CHANGES', `the sandbox has moved ${target} away`, {
      hint: 'what it has changed is discarded; make a new sandbox to see the folder as it is',
    });
  });
  setTimesNow(home);
}

/** Makes no name, as removeTree() does with deep trees: this process's ids are none of the sandbox's. */
async function removeWritten(folder: number, budget: Budget, depth = 1): Promise<void> {
  budget.checkDepth(depth);
  for (const name of listDirectory(folder, budget)) {
    if (budget.due) await budget.breathe();
    if (succeeds(['EISDIR'], () => unlinkat(folder, name))) continue;
    using inner = closing(openDirectory(folder, name));
    await removeWritten(inner.fd, budget, depth + 1);
    unlinkat(folder, name, { directory: true });
  }
}
