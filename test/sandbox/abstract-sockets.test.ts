import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test from 'ava';
import { execa } from 'execa';
import { openKiln } from '../../src/index.ts';
import { openSandbox } from '../../src/sandbox/open.ts';
import { sandboxSpecification } from '../../src/sandbox/specification.ts';
import {
  type AbstractSocket,
  abstractSocket,
  CLOSED,
  compileAbstractProbe,
} from '../support/abstract-socket.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { asRoot } from '../support/plain-policy.ts';

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

test('the probe reaches the socket where nothing is in the way', async (t) => {
  const { stdout } = await execa(join(tree, 'bin/probe'), [socket.name]);
  t.is(stdout, 'host=0 own=0');
  // A network of its own has none of the host's sockets.
  t.is((await run([], 'probe', socket.name)).stdout, 'host=ECONNREFUSED own=0');
});

for (const options of [
  [],
  ['--user', 'root'],
  ['--seccomp', 'build'],
  ['--profile', 'nested'],
  ['--profile', 'nested', '--user', 'root'],
  ['--user', 'root', '--cap-add', 'SYS_ADMIN'],
]) {
  test(`kiln run with the host’s network: ${options.join(' ') || 'no more options'}`, async (t) => {
    const result = await run([...HOST, ...options], 'probe', socket.name);
    t.is(result.stdout, CLOSED, String(result.stderr));
    if (options.includes('nested')) {
      const inner = await run([...HOST, ...options], 'unshare', '-Ur', 'probe', socket.name);
      t.is(inner.stdout, CLOSED, String(inner.stderr));
    }
  });
}

test('behind the wall mounts are made as ever', async (t) => {
  const mount = 'mount -t tmpfs none /tmp && echo mounted';
  const nested = ['unshare', '-Urm', 'sh', '-c', mount];
  t.is((await run([...HOST, '--profile', 'nested'], ...nested)).stdout, 'mounted');
  const admin = ['--user', 'root', '--cap-add', 'SYS_ADMIN'];
  t.is((await run([...HOST, ...admin], 'sh', '-c', mount)).stdout, 'mounted');
});

for (const options of [[], ['--profile', 'nested']]) {
  test(`kiln shell in a kept sandbox: ${options.join(' ') || 'no options'}`, async (t) => {
    const kept = await run([...HOST, ...options, '--keep=5m', '--json'], 'true');
    const { id } = JSON.parse(String(kept.stderr).split('\n').at(-1) ?? '');
    const shell = await state.kiln(['shell', id], {
      stdin: 'pipe',
      input: `probe ${socket.name}\n`,
    });
    t.is(shell.stdout, CLOSED, String(shell.stderr));
    await state.kiln(['kill', id]);
  });
}

for (const profile of ['default', 'nested']) {
  test(`a recipe with the host’s network and the profile ${profile}`, async (t) => {
    const recipe = join(state.beside, `${profile}.yaml`);
    await writeFile(
      recipe,
      `image: ${IMAGE.slice(0, 12)}
sandbox: { network: host, profile: ${profile} }
steps:
  - { run: probe ${socket.name}, network: true }
`,
    );
    const result = await state.kiln([
      ...['build', recipe, '--allow-host', '--resultdir', join(state.beside, `out-${profile}`)],
    ]);
    t.is(result.stdout, CLOSED, String(result.stderr));
  });
}

test('the library', async (t) => {
  await using kiln = openKiln({ env: state.env });
  for (const nested of [false, true]) {
    await using sandbox = await kiln.open({ image: IMAGE, network: 'host', nested });
    const command = await sandbox.spawn('probe', [socket.name]);
    t.is((await text(command.stdout)).trim(), CLOSED);
  }
});

test('the init refuses to start a command without the wall where it must have it', async (t) => {
  await using kiln = openKiln({ env: state.env });
  const ids = { uid: 0, gid: 0 };
  for (const nested of [false, true]) {
    const specification = sandboxSpecification({ root: tree, network: 'host', nested });
    await using sandbox = await openSandbox(kiln.engine, specification, { user: ids, caller: ids });
    const { policy } = await asRoot(kiln.paths, sandbox);
    const landlock = policy.landlock.filter((wall) => wall !== 'abstract-sockets');
    await t.throwsAsync(sandbox.spawn(['true'], { policy: { ...policy, landlock } }), {
      code: 'E_LAYER_MISSING',
      message: /abstract-sockets/,
    });
    await t.notThrowsAsync(sandbox.spawn(['true'], { policy }));
  }
});
