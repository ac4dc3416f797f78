import { readlinkSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { waitForDeath } from '../../src/kernel/process.ts';
import { connect } from '../../src/libvirt/connect.ts';
import { LibvirtError } from '../../src/libvirt/errors.ts';
import { openSandbox, ReservedSandbox } from '../../src/sandbox/open.ts';
import { SandboxDomain, startDomain } from '../../src/sandbox/sandbox-domain.ts';
import { domainPrefix } from '../../src/sandbox/sandbox-record.ts';
import type { StatePaths } from '../../src/state/paths.ts';
import { busyboxState, IMAGE } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';
import { Parked } from '../support/parking.ts';
import { asRoot } from '../support/plain-policy.ts';
import { sandboxSpecification } from '../support/specification.ts';

/** libvirt's processes for sandboxes of this state. */
async function controllers(paths: StatePaths): Promise<string[]> {
  const argv = ['-f', `libvirt_lxc.*${domainPrefix(paths)}`];
  const { stdout } = await execa('pgrep', argv, { reject: false });
  return stdout.split('\n').filter(Boolean);
}

test('a reserved sandbox becomes the next sandbox, and one that nobody takes is destroyed', async (t) => {
  await using state = await busyboxState();
  await using kiln = openKiln({ env: state.env });
  const { engine, paths } = kiln;
  const user = { uid: 0, gid: 0 };
  const root = join(paths.images, IMAGE, 'tree');
  {
    await using reserved = new ReservedSandbox(engine);
    await using sandbox = await openSandbox(engine, sandboxSpecification({ root }), {
      user,
      caller: user,
      reserved,
    });
    t.is((await controllers(paths)).length, 1);
    const child = await sandbox.spawn(['echo', 'here'], await asRoot(paths, sandbox));
    t.is(await text(child.stdout), 'here\n');
    t.throws(() => reserved.take(), { instanceOf: TypeError });
  }
  {
    await using _ = new ReservedSandbox(engine);
  }
  t.deepEqual(await readdir(paths.sandboxes), []);
  t.deepEqual(await controllers(paths), []);
});

test('a sandbox that dies while it waits is replaced', async (t) => {
  await using state = await busyboxState();
  await using kiln = openKiln({ env: state.env });
  const { paths } = kiln;
  const user = { uid: 0, gid: 0 };
  const parked = new Parked(kiln);
  const { engine } = parked;
  const waiting = basename(await parked.one());
  await using reserved = new ReservedSandbox(engine);
  while (parked.lot.count > 0) await sleep(10);
  // From the claim to the connection to its init it is milliseconds.
  await sleep(1000);
  const { stdout } = await execa('pgrep', ['-P', (await controllers(paths)).join(',')]);
  for (const init of stdout.split('\n').map(Number)) {
    process.kill(init, 'SIGKILL');
    t.true(await waitForDeath(init, 30_000));
  }
  const specification = sandboxSpecification({ root: join(paths.images, IMAGE, 'tree') });
  await using sandbox = await openSandbox(engine, specification, { user, caller: user, reserved });
  t.not(sandbox.id, waiting);
  const child = await sandbox.spawn(['echo', 'here'], await asRoot(paths, sandbox));
  t.is(await text(child.stdout), 'here\n');
});

const USUAL = { network: 'private', label: { kind: 'auto' }, autodestroy: true } as const;

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
    return own.includes('/.kiln/init.sock') && inodes.some((inode) => !own.includes(` ${inode} `));
  } catch {
    return false;
  }
}

test('kiln is with the init while libvirt still starts the domain, and waits for libvirt', async (t) => {
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
  const owning = SandboxDomain.own(paths, started, async () => connection).finally(() => {
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

test('what libvirt refuses late leaves nothing, and is said', async (t) => {
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
  const owning = SandboxDomain.own(paths, started, async () => connection);
  await t.throwsAsync(owning, { message: 'libvirt said no' });
  t.deepEqual(await readdir(paths.sandboxes), []);
  // Another sandbox of this host may have the range by now.
  const { base } = started.record.range;
  const owner = await readFile(join(paths.hostRun, 'ranges', String(base)), 'utf8').catch(() => '');
  t.not(owner, started.directory);
});
