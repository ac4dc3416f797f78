import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { KilnError } from '../../src/errors.ts';
import { openKiln } from '../../src/index.ts';
import { connect } from '../../src/libvirt/connect.ts';
import { Box, startDomain } from '../../src/sandbox/box.ts';
import { Sandbox } from '../../src/sandbox/sandbox.ts';
import { sandboxSpecification } from '../../src/sandbox/specification.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { type FaultyInit, installFaultyInit } from '../support/faulty-init.ts';

let state: BusyboxState;
let init: FaultyInit;

test.before(async (t) => {
  t.timeout(120_000);
  state = await busyboxState();
  init = await installFaultyInit(state.paths);
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** Opens a sandbox and runs `true` in it; gives what kiln threw. */
async function attempt(user = 'root'): Promise<unknown> {
  await using kiln = openKiln({ env: state.env });
  try {
    await using sandbox = await kiln.open({ image: IMAGE, user });
    const command = await sandbox.spawn('true');
    await once(command, 'close');
    return undefined;
  } catch (error) {
    return error;
  }
}

/** What the init leaves out, and the layer that the error must name. */
const faults: readonly (readonly [fault: string, layer: string])[] = [
  ['pid-namespace', 'pid-namespace'],
  ['cgroup-namespace', 'cgroup-namespace'],
  ['time-namespace', 'time-namespace'],
  ['namespace-limit', 'namespace-limit'],
  ['mask', 'masked-paths'],
  ['readonly', 'read-only-paths'],
  ['nosuid', 'mounts'],
  ['devices', 'devices'],
  ['capabilities', 'capabilities'],
  ['no_new_privs', 'landlock'], // which cannot be had without
  ['seccomp', 'seccomp'],
  ['landlock', 'landlock'],
  ['descriptors', 'descriptors'],
];

test.serial('with every layer there, the command starts', async (t) => {
  await init.leaveOut();
  t.is(await attempt(), undefined);
  t.is(await attempt('build'), undefined);
});

for (const [fault, layer] of faults) {
  test.serial(`an init that leaves out ${fault} is found out, and the start refused`, async (t) => {
    await init.leaveOut(fault);
    const error = await attempt();
    t.true(error instanceof KilnError, String(error));
    t.is((error as KilnError).code, 'E_LAYER_MISSING', String(error));
    t.is((error as KilnError).details?.layer, layer);
  });
}

test.serial('an init that does not become the user is found out', async (t) => {
  await init.leaveOut('user');
  const error = await attempt('build');
  t.is((error as KilnError | undefined)?.code, 'E_LAYER_MISSING', String(error));
});

test.serial('a domain with the host’s network is found out', async (t) => {
  await init.leaveOut();
  const { paths, env } = state;
  const connection = await connect({ paths, env });
  const started = await startDomain(paths, connection, paths.boxes, {
    network: 'host',
    label: { kind: 'auto' },
    autodestroy: true,
  });
  const box = await Box.own(paths, started, async () => connection);
  const specification = sandboxSpecification({ root: join(paths.images, IMAGE, 'tree') });
  const ids = { uid: 0, gid: 0 };
  const error = await t.throwsAsync(Sandbox.open(box, specification, { user: ids, caller: ids }), {
    code: 'E_LAYER_MISSING',
  });
  t.regex(String(error?.message), /net/);
  await connection.close();
});

test('the init that is shipped has no faults to switch on', async (t) => {
  const shipped = join(import.meta.dirname, '../../dist/kiln-init');
  t.true(existsSync(shipped));
  t.false((await readFile(shipped)).includes('/faults'));
  t.true((await readFile(join(state.paths.root, 'faulty-init'))).includes('/faults'));
});
