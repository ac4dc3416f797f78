import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { waitForDeath } from '../../src/kernel/process.ts';
import { openKiln } from '../../src/kiln.ts';
import { domainPrefix } from '../../src/sandbox/box-record.ts';
import { openSandbox, ReservedBox } from '../../src/sandbox/open.ts';
import type { StatePaths } from '../../src/state/paths.ts';
import { busyboxState, IMAGE } from '../support/busybox-state.ts';
import { Parked } from '../support/parking.ts';
import { asRoot } from '../support/plain-policy.ts';
import { sandboxSpecification } from '../support/specification.ts';

/** libvirt's processes for boxes of this state. */
async function controllers(paths: StatePaths): Promise<string[]> {
  const argv = ['-f', `libvirt_lxc.*${domainPrefix(paths)}`];
  const { stdout } = await execa('pgrep', argv, { reject: false });
  return stdout.split('\n').filter(Boolean);
}

test('a reserved box becomes the next sandbox, and one that nobody takes is destroyed', async (t) => {
  await using state = await busyboxState();
  await using kiln = openKiln({ env: state.env });
  const { engine, paths } = kiln;
  const user = { uid: 0, gid: 0 };
  const root = join(paths.images, IMAGE, 'tree');
  {
    await using reserved = new ReservedBox(engine);
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
    await using _ = new ReservedBox(engine);
  }
  t.deepEqual(await readdir(paths.boxes), []);
  t.deepEqual(await controllers(paths), []);
});

test('a box that dies while it waits is replaced', async (t) => {
  await using state = await busyboxState();
  await using kiln = openKiln({ env: state.env });
  const { paths } = kiln;
  const user = { uid: 0, gid: 0 };
  const parked = new Parked(kiln);
  const { engine } = parked;
  const waiting = basename(await parked.one());
  await using reserved = new ReservedBox(engine);
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
