import { readdir } from 'node:fs/promises';
import { removeTree } from '../../../host/files/remove-tree.ts';
import { MockRoot } from '../../../jobs/mock/root/root.ts';
import { runsInRoot } from '../../../jobs/mock/root/root-sandbox.ts';
import { listSandboxes } from '../../../sandbox/domain/list.ts';
import { destroySandbox, sweepSandboxes } from '../../../sandbox/domain/sweep.ts';
import { mockStatus } from '../exit-status.ts';
import { initRoot, lockRoot, type MockSession, sessionChroot } from '../session.ts';

/** `--init`: makes a root with only its packages. */
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

/** `--clean`, and the parts of `--scrub`. */
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

/** The caller wants the disk space now, so delete at once. */
async function removeForGood(root: MockRoot): Promise<void> {
  const tree = await root.remove();
  if (tree !== undefined) await removeTree(tree);
}

/** `--orphanskill`: ends everything that runs in the root, including a build. */
export async function orphanskill(session: MockSession): Promise<number> {
  const { engine, log } = session;
  const { root } = await sessionChroot(session);
  const abandoned = await sweepSandboxes(engine.paths, engine.connect);
  let ended = 0;
  for (const { state, directory, record } of await listSandboxes(engine.paths, engine)) {
    if (state !== 'running' || !runsInRoot(record.command, root)) continue;
    await destroySandbox(engine.paths, directory, record, engine.connect);
    ended += 1;
  }
  log.info(`ended ${ended} sandboxes of ${root}, and ${abandoned.length} that nobody owned`);
  return 0;
}

/** `--scrub-all-chroots`: removes every unused root. */
export async function scrubAll(session: MockSession): Promise<number> {
  const { engine, log } = session;
  let status = 0;
  for (const name of await readdir(engine.paths.roots).catch(() => [])) {
    try {
      await using root = await MockRoot.lock(engine, name);
      await log.state(`scrub ${name}`, () => removeForGood(root));
    } catch (error) {
      log.failure(error);
      status = mockStatus(error);
    }
  }
  return status;
}
