/** An init that does not read: what is to be sent to it waits, and nobody waits for it. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';
import { asRoot, PlainSandbox } from '../support/plain-sandbox.ts';
import { sandboxSpecification } from '../support/specification.ts';
import { stopped } from '../support/stopped.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

test('commands for a stopped init keep nobody waiting, and start later', async (t) => {
  await using kiln = openKiln({ env: state.env });
  const specification = sandboxSpecification({ root: `${state.paths.images}/${IMAGE}/tree` });
  await using sandbox = await PlainSandbox.open(kiln.engine, specification);
  const { policy } = await asRoot(kiln.paths, sandbox);
  const started = [];
  {
    // The one that serves commands is pid 1 of a namespace inside of the domain's.
    const [init = ''] = readFileSync(
      `/proc/${sandbox.initPid}/task/${sandbox.initPid}/children`,
      'latin1',
    ).split(' ');
    using _ = await stopped(Number(init));
    // Each is more than a socket has room for.
    const words = Array.from({ length: 10 }, () => 'x'.repeat(100_000));
    const argv = ['sh', '-c', 'printf %s "$*" | wc -c', 'sh', ...words];
    for (let count = 0; count < 3; count++) started.push(sandbox.spawn(argv, { policy, env: {} }));
    const before = performance.now();
    await sleep(300);
    t.true(performance.now() - before < 2000 * PATIENCE);
  }
  for (const command of await Promise.all(started)) {
    const chunks = await command.stdout.toArray();
    t.is(Buffer.concat(chunks).toString(), '1000009\n');
  }
});
