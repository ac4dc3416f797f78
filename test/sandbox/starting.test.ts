import { readlinkSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { connect } from '../../src/host/libvirt/connection.ts';
import { LibvirtError } from '../../src/host/libvirt/errors.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { SandboxDomain } from '../../src/sandbox/domain/sandbox-domain.ts';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import { startDomain } from '../../src/sandbox/domain/start-domain.ts';
import { busyboxState } from '../support/busybox-state.ts';

/** libvirt's processes for sandboxes of this state. */
async function controllers(paths: StatePaths): Promise<string[]> {
  const argv = ['-f', `libvirt_lxc.*${domainPrefix(paths)}`];
  const { stdout } = await execa('pgrep', argv, { reject: false });
  return stdout.split('\n').filter(Boolean);
}

const USUAL = { network: 'private', label: { kind: 'auto' } } as const;

/** Whether kiln is connected to the init of the one sandbox: such a socket is of kiln's network, not of the sandbox's. */
async function isConnected(paths: StatePaths): Promise<boolean> {
  const [controller] = await controllers(paths);
  if (controller === undefined) return false;
  const { stdout } = await execa('pgrep', ['-P', controller], { reject: false });
  try {
    const own = await readFile(`/proc/${stdout}/net/unix`, 'utf8');
    const open = (await readdir(`/proc/${stdout}/fd`)).map((fd) =>
      readlinkSync(`/proc/${stdout}/fd/${fd}`),
    );
    const inodes = open.flatMap((name) => /^socket:\[(\d+)\]$/.exec(name)?.[1] ?? []);
    return own.includes('/.kiln/new.sock') && inodes.some((inode) => !own.includes(` ${inode} `));
  } catch {
    return false;
  }
}

test('kiln talks to the init while libvirt still starts the domain, and waits for both', async (t) => {
  await using state = await busyboxState();
  const { paths } = state;
  await using connection = await connect({ paths, env: state.env });
  const create = connection.createDomain.bind(connection);
  const told = Promise.withResolvers<void>();
  connection.createDomain = async (...asked) => {
    const domain = await create(...asked);
    await told.promise;
    return domain;
  };
  const started = await startDomain(paths, connection, USUAL);
  let isOwned = false;
  const owning = SandboxDomain.create(paths, started, async () => connection).finally(() => {
    isOwned = true;
  });
  while (!(await isConnected(paths))) await sleep(20);
  await sleep(200);
  t.false(isOwned);
  told.resolve();
  const sandbox = await owning;
  t.is(sandbox.id, started.record.id);
  await sandbox.destroy();
  t.deepEqual(await readdir(paths.sandboxes), []);
});

test('a domain that libvirt refuses late is reported, and leaves nothing', async (t) => {
  await using state = await busyboxState();
  const { paths } = state;
  await using connection = await connect({ paths, env: state.env });
  const create = connection.createDomain.bind(connection);
  connection.createDomain = async (...asked) => {
    const domain = await create(...asked);
    while (!(await isConnected(paths))) await sleep(20);
    await domain.destroy();
    throw new LibvirtError('E_LIBVIRT_CLOSED', 'libvirt said no');
  };
  const started = await startDomain(paths, connection, USUAL);
  const owning = SandboxDomain.create(paths, started, async () => connection);
  await t.throwsAsync(owning, { message: 'libvirt said no' });
  t.deepEqual(await readdir(paths.sandboxes), []);
  // Another sandbox of this host may have the range by now.
  const { base } = started.record.range;
  const owner = await readFile(join(paths.hostRun, 'ranges', String(base)), 'utf8').catch(() => '');
  t.not(owner, started.directory);
});
