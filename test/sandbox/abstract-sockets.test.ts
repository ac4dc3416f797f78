import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import {
  type AbstractSocket,
  abstractSocket,
  CLOSED,
  compileAbstractProbe,
} from '../support/abstract-socket.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';
import { asRoot, PlainSandbox } from '../support/plain-sandbox.ts';
import { sandboxSpecification } from '../support/specification.ts';

let state: BusyboxState;
let socket: AbstractSocket;
let tree: string;

test.before(async () => {
  state = await busyboxState();
  tree = join(state.paths.images, IMAGE, 'tree');
  await compileAbstractProbe(join(tree, 'bin/probe'));
  socket = await abstractSocket();
});
test.after.always(async () => {
  await socket[Symbol.asyncDispose]();
  await state[Symbol.asyncDispose]();
});

const HOST = ['--network', 'host', '--allow-host-network'];

const run = (options: readonly string[], ...argv: readonly string[]) =>
  state.kiln(['run', '-r', IMAGE, ...options, '--', ...argv]);

test('the probe reaches the socket if nothing is in the way', async (t) => {
  const { stdout } = await execa(join(tree, 'bin/probe'), [socket.name]);
  t.is(stdout, 'host=0 own=0');
  // A network of its own has none of the host's sockets.
  t.is((await run([], 'probe', socket.name)).stdout, 'host=ECONNREFUSED own=0');
});

// Commands themselves: test/doors. These make a user namespace of their own first.
for (const user of [[], ['--user', 'root']]) {
  test(`a user namespace in a nested sandbox does not reach the host’s abstract sockets: ${user.join(' ') || 'a user'}`, async (t) => {
    const options = [...HOST, '--profile', 'nested', ...user];
    const inner = await run(options, 'unshare', '-Ur', 'probe', socket.name);
    t.is(inner.stdout, CLOSED, String(inner.stderr));
  });
}

test('behind the Landlock wall, mounts still work', async (t) => {
  const mount = 'mount -t tmpfs none /tmp && echo mounted';
  const nested = ['unshare', '-Urm', 'sh', '-c', mount];
  t.is((await run([...HOST, '--profile', 'nested'], ...nested)).stdout, 'mounted');
  const admin = ['--user', 'root', '--cap-add', 'SYS_ADMIN'];
  t.is((await run([...HOST, ...admin], 'sh', '-c', mount)).stdout, 'mounted');
});

test('the init starts no command without the wall that it must have', async (t) => {
  await using kiln = openKiln({ env: state.env });
  for (const nested of [false, true]) {
    const specification = sandboxSpecification({ root: tree, network: 'host', nested });
    await using sandbox = await PlainSandbox.open(kiln.engine, specification);
    const { policy } = await asRoot(kiln.paths, sandbox);
    const landlock = policy.landlock.filter((wall) => wall !== 'abstract-sockets');
    await t.throwsAsync(sandbox.spawn(['true'], { policy: { ...policy, landlock } }), {
      code: 'E_LAYER_MISSING',
      message: /abstract-sockets/,
    });
    await t.notThrowsAsync(sandbox.spawn(['true'], { policy }));
  }
});
