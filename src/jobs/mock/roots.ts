import { readdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { counted } from '../../counted.ts';
import { foundAt } from '../../host/files/held.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { rootNames } from '../../image/store/user-storage.ts';
import { recipeNames } from '../../recipe/named.ts';
import { destroySandbox } from '../../sandbox/domain/destroy.ts';
import { listSandboxes } from '../../sandbox/domain/sandbox-record.ts';
import { sweepSandboxes } from '../../sandbox/domain/sweep.ts';
import { chrootOptions, configPlace } from './chroot.ts';
import { describeConfigs, SYSTEM_CONFIG } from './config/load.ts';
import { argumentError, mockStatus } from './outcome.ts';
import { MockRoot } from './root/root.ts';
import { runsInRoot } from './root/root-sandbox.ts';
import { removeSnapshot, rollBack, snapshotLines, takeSnapshot } from './root/snapshots.ts';
import { chrootRequest, initRoot, type MockSession, withChroot, withRoot } from './session.ts';

export async function init(session: MockSession): Promise<number> {
  const { engine, line, log } = session;
  const at = await withChroot(session);
  const { chroot } = at;
  await using root = await MockRoot.lock(engine, chroot.root);
  if (chroot.clean && !line.has('no-clean')) {
    await log.state('clean chroot', () => root.clean());
  }
  await initRoot({ ...at, root });
  return 0;
}

/** What of `--scrub` removes snapshots: a root and its snapshots are one folder. */
const WITH_SNAPSHOTS = ['all', 'lvm', 'overlayfs'];

export async function clean(session: MockSession): Promise<number> {
  const { engine, line, log } = session;
  const { chroot } = await withChroot(session);
  const scrubs = line.values('scrub');
  await using root = await MockRoot.lock(engine, chroot.root);
  if (scrubs.length === 0) {
    await log.state('clean chroot', () => cleanForGood(root));
    return 0;
  }
  for (const what of scrubs) {
    await log.state(`scrub ${JSON.stringify([what])}`, async () => {
      if (what === 'chroot') {
        log.info(`scrubbing chroot for ${chroot.root}`);
        await cleanForGood(root);
      } else if (WITH_SNAPSHOTS.includes(what)) {
        log.info(`scrubbing chroot for ${chroot.root}, with its snapshots`);
        await removeForGood(root);
      } else {
        log.info(`${what}: all roots share kiln’s caches, \`kiln gc --max-age\` empties them`);
      }
    });
  }
  return 0;
}

/** The caller wants the disk space now, so delete at once. */
async function cleanForGood(root: MockRoot): Promise<void> {
  const tree = await root.clean();
  if (tree !== undefined) await removeTree(tree);
}

async function removeForGood(root: MockRoot): Promise<void> {
  const tree = await root.remove();
  if (tree !== undefined) await removeTree(tree);
}

function nameOf({ line }: MockSession): string {
  const [name] = line.args;
  if (name !== undefined) return name;
  throw argumentError('Requires a snapshot name');
}

/** A mode that does something about a snapshot of the root. */
function onSnapshot(
  act: (root: MockRoot, name: string) => Promise<void>,
  said: (name: string) => string,
) {
  return async (session: MockSession): Promise<number> => {
    const name = nameOf(session);
    return await withRoot(session, async ({ root, log }) => {
      await act(root, name);
      log.info(said(name));
      return 0;
    });
  };
}

export const snapshot = onSnapshot(takeSnapshot, (name) => `created ${name} snapshot`);
export const rollbackTo = onSnapshot(rollBack, (name) => `rolled back to ${name} snapshot`);
export const dropSnapshot = onSnapshot(removeSnapshot, (name) => `deleted ${name} snapshot`);

export async function listSnapshots(session: MockSession): Promise<number> {
  const { engine, print } = session;
  const { chroot } = await withChroot(session);
  await using root = await MockRoot.lock(engine, chroot.root);
  const opened = await root.open(() => undefined);
  const lines = opened === undefined ? [] : snapshotLines(opened);
  print(`${[`Snapshots for ${chroot.root}:`, ...lines].join('\n')}\n`);
  return 0;
}

export async function orphanskill(session: MockSession): Promise<number> {
  const { engine, log } = session;
  const { root } = (await withChroot(session)).chroot;
  const abandoned = await sweepSandboxes(engine.paths, engine.connect);
  let ended = 0;
  for (const { state, folder, record } of await listSandboxes(engine.paths, engine)) {
    const isOwn = record.owner === engine.owner?.uid;
    if (state !== 'running' || !isOwn || !runsInRoot(record.command, root)) continue;
    await destroySandbox(engine.paths, folder, record, engine.connect);
    ended += 1;
  }
  log.info(
    `ended ${counted(ended, 'sandbox', 'sandboxes')} of ${root}, and ${abandoned.length} that nobody owned`,
  );
  return 0;
}

export async function scrubAll(session: MockSession): Promise<number> {
  const { engine, log } = session;
  let status = 0;
  for (const name of await rootNames(engine.paths, engine.owner)) {
    try {
      await using root = await MockRoot.lock(engine, name);
      await log.state(`scrub ${name}`, () => removeForGood(root));
    } catch (error) {
      status = mockStatus(error);
      log.failure(error, status);
    }
  }
  return status;
}

const COLUMN = 34;

const NO_CHROOTS = new Set(['site-defaults.cfg', 'chroot-aliases.cfg']);

export async function listChroots(session: MockSession): Promise<number> {
  const directory = session.line.value('configdir') ?? SYSTEM_CONFIG;
  const lines = [entry('config name', 'description'), 'Global configs:'];
  lines.push(...(await describeAll(session, directory, directory)));
  if (session.engine.owner === undefined) {
    lines.push('Custom configs:');
    lines.push(...(await describeAll(session, join(homedir(), '.config', 'mock'), directory)));
  }
  lines.push('kiln recipes:');
  for (const name of await recipeNames(session.engine.paths)) lines.push(entry(name, ''));
  session.print(`${lines.join('\n')}\n`);
  return 0;
}

async function describeAll(
  { engine }: MockSession,
  folder: string,
  directory: string,
): Promise<string[]> {
  const names = (await readdir(foundAt(folder)).catch(() => [])).sort();
  const configs = names.filter((name) => name.endsWith('.cfg') && !NO_CHROOTS.has(name));
  const files = configs.map((name) => join(folder, name));
  const lines: string[] = [];
  for await (const text of describeConfigs(files, configPlace(engine, directory))) {
    const name = basename(configs[lines.length] ?? '', '.cfg');
    lines.push(entry(name, text ?? 'error during parsing the config file'));
  }
  return lines;
}

function entry(name: string, text: string): string {
  return `${name.padEnd(COLUMN)} ${text}`.trimEnd();
}

export async function debugConfig(session: MockSession): Promise<number> {
  const request = chrootRequest(session);
  const options = await chrootOptions(session.engine, request);
  const expanded = session.line.mode === 'debug-config-expanded';
  const lines = options
    .names()
    .sort()
    .map((name) => `config_opts['${name}'] = ${options.literal(name, { expanded })}\n`);
  session.print(lines.join(''));
  return 0;
}
