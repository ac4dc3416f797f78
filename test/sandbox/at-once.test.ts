import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { SandboxProcess } from '../../src/sandbox/command/process.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';
import { asRoot, PlainSandbox } from '../support/plain-sandbox.ts';
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

test('commands that end while others start get reports of their own refused calls', async (t) => {
  await using kiln = openKiln({ env: state.env });
  const root = join(state.paths.images, IMAGE, 'tree');
  const specification = sandboxSpecification({ root });
  await using sandbox = await PlainSandbox.open(kiln.engine, specification);
  const { initPid } = sandbox;
  const nested = Number(readFileSync(`/proc/${initPid}/task/${initPid}/children`, 'latin1'));
  const policy = await asRoot(kiln.paths, sandbox);
  /** Resolves when the command runs. */
  const start = async (): Promise<{ readonly ended: Promise<SandboxProcess> }> => {
    const command = await sandbox.spawn(['mount', '-t', 'tmpfs', 'none', '/tmp'], policy);
    command.stdout.resume();
    command.stderr.resume();
    return { ended: once(command, 'close').then(() => command) };
  };
  await (await start()).ended;
  const before = descriptors(nested);
  const started = [];
  for (let count = 0; count < 200; count++) started.push(await start());
  for (const command of await Promise.all(started.map(({ ended }) => ended))) {
    t.is(command.exitCode, 1);
    t.deepEqual(
      command.refused.map(({ count }) => count),
      [1],
    );
  }
  t.deepEqual(descriptors(nested), before);
});
