import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { KilnError } from '../../src/errors.ts';
import { openKiln } from '../../src/index.ts';
import type { OpenOptions } from '../../src/kiln.ts';
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
async function attempt(options: Partial<OpenOptions> = {}): Promise<unknown> {
  await using kiln = openKiln({ env: state.env });
  try {
    await using sandbox = await kiln.open({ image: IMAGE, user: 'root', ...options });
    const command = await sandbox.spawn('true');
    await once(command, 'close');
    return undefined;
  } catch (error) {
    return error;
  }
}

/** What the init leaves out, the layer that the error must name, and what to open to have it. */
const faults: readonly (readonly [fault: string, layer: string, Partial<OpenOptions>?])[] = [
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
  ['landlock-tcp', 'landlock', { seccomp: 'strict' }],
  ['landlock-sockets', 'landlock', { network: 'host' }],
  ['descriptors', 'descriptors'],
];

test.serial('with every layer there, the command starts', async (t) => {
  await init.leaveOut();
  t.is(await attempt(), undefined);
  t.is(await attempt({ user: 'build' }), undefined);
});

for (const [fault, layer, options] of faults) {
  test.serial(`an init that leaves out ${fault} is found out, and the start refused`, async (t) => {
    await init.leaveOut();
    t.is(await attempt(options), undefined);
    await init.leaveOut(fault);
    const error = await attempt(options);
    t.true(error instanceof KilnError, String(error));
    t.is((error as KilnError).code, 'E_LAYER_MISSING', String(error));
    t.is((error as KilnError).details?.layer, layer);
  });
}

test.serial('kiln itself looks at each wall of Landlock, too', async (t) => {
  for (const [fault, wall, options] of [
    ['landlock', 'files', {}],
    ['landlock-tcp', 'no-tcp', { seccomp: 'strict' }],
    ['landlock-sockets', 'abstract-sockets', { network: 'host' }],
  ] as const) {
    await init.leaveOut(fault, 'landlock-unchecked');
    const error = await attempt(options);
    t.is((error as KilnError | undefined)?.code, 'E_LAYER_MISSING', String(error));
    t.regex(String(error), new RegExp(`landlock: no wall: ${wall}$`, 'm'));
  }
});

test.serial('an init that does not become the user is found out', async (t) => {
  await init.leaveOut('user');
  const error = await attempt({ user: 'build' });
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
