import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { openSandbox } from '../../src/sandbox/open.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';
import { asRoot } from '../support/plain-policy.ts';
import { sandboxSpecification } from '../support/specification.ts';

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** Descriptor → what it is, of a process. */
function descriptors(pid: number): string[] {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).map((fd) => `${fd} ${readlinkSync(join(folder, fd))}`);
}

test('commands that end while others start all run, and leave the init no descriptor', async (t) => {
  await using kiln = openKiln({ env: state.env });
  const root = join(state.paths.images, IMAGE, 'tree');
  const ids = { uid: 0, gid: 0 };
  const specification = sandboxSpecification({ root });
  await using sandbox = await openSandbox(kiln.engine, specification, { user: ids, caller: ids });
  const { initPid } = sandbox;
  const nested = Number(readFileSync(`/proc/${initPid}/task/${initPid}/children`, 'latin1'));
  const policy = await asRoot(kiln.paths, sandbox);
  const start = async () => await sandbox.spawn(['true'], policy);
  await once(await start(), 'close');
  const before = descriptors(nested);
  const ended: Promise<unknown[]>[] = [];
  for (let count = 0; count < 200; count++) ended.push(once(await start(), 'close'));
  for (const end of await Promise.all(ended)) t.deepEqual(end, [0, null]);
  t.deepEqual(descriptors(nested), before);
});
