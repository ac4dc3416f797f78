import { removeTree } from '../../../kernel/remove-tree.ts';
import type { MockRoot } from '../../../mock/root/root.ts';
import { sweepBoxes } from '../../../sandbox/sweep.ts';
import { initRoot, lockRoot, type MockSession, sessionChroot } from '../session.ts';

/** `--init`: a root with nothing but its packages. */
export async function init(session: MockSession): Promise<number> {
  const { line, log } = session;
  const chroot = await sessionChroot(session);
  await using root = await lockRoot(session, chroot);
  if (chroot.clean && !line.has('no-clean')) {
    await log.state('clean chroot', () => root.remove());
  }
  await initRoot(session, chroot, root);
  return 0;
}

/** `--clean`, and `--scrub` of what it is given. */
export async function clean(session: MockSession): Promise<number> {
  const { line, log } = session;
  const chroot = await sessionChroot(session);
  const scrubs = line.values('scrub');
  await using root = await lockRoot(session, chroot);
  if (scrubs.length === 0) {
    await log.state('clean chroot', () => removeForGood(root));
    return 0;
  }
  for (const what of scrubs) {
    await log.state(`scrub ${JSON.stringify([what])}`, async () => {
      if (what === 'all' || what === 'chroot') {
        log.info(`scrubbing chroot for ${chroot.root}`);
        await removeForGood(root);
      } else {
        log.info(`${what}: all roots share kiln’s caches, \`kiln gc --max-age\` empties them`);
      }
    });
  }
  return 0;
}

/** Whoever asks for that wants the room on the disk. */
async function removeForGood(root: MockRoot): Promise<void> {
  const tree = await root.remove();
  if (tree !== undefined) await removeTree(tree);
}

/** `--orphanskill`: what a kiln-mock left running that was killed. */
export async function orphanskill(session: MockSession): Promise<number> {
  const { engine, log } = session;
  const ended = await sweepBoxes(engine.paths, engine.connect);
  log.info(`ended ${ended.length} sandboxes that nobody owned`);
  return 0;
}
