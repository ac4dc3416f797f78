import { once } from 'node:events';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test from 'ava';
import type { Engine } from '../../src/engine.ts';
import { cgroupHierarchies } from '../../src/host/cgroup/cgroup.ts';
import { connect } from '../../src/host/libvirt/connection.ts';
import type { SandboxProcess } from '../../src/sandbox/command/process.ts';
import { ROOT_CAPABILITIES } from '../../src/sandbox/policy/specification.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { ownCaller } from '../support/own-caller.ts';
import { asRoot, PlainSandbox } from '../support/plain-sandbox.ts';
import { sandboxSpecification } from '../support/specification.ts';

let state: BusyboxState;
let engine: Engine;

test.before(async () => {
  state = await busyboxState();
  const { paths, env } = state;
  engine = { ...ownCaller, paths, connect: () => connect({ paths, env }) };
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** A sandbox whose command is, or is not, to be a system's pid 1. */
function open(boot: boolean): Promise<PlainSandbox> {
  const root = join(state.paths.images, IMAGE, 'tree');
  const specification = sandboxSpecification({ root, boot, namespaces: 16 });
  return PlainSandbox.open(engine, specification);
}

const root = (sandbox: PlainSandbox) => asRoot(state.paths, sandbox, ROOT_CAPABILITIES);

async function output(command: SandboxProcess): Promise<string> {
  command.stdin.end();
  const [said] = await Promise.all([text(command.stdout), once(command, 'close')]);
  return said.trim();
}

test.serial('a booted system is pid 1 of its own namespace, beside later commands', async (t) => {
  await using sandbox = await open(true);
  const script = 'echo up; while true; do sleep 1; done';
  const system = await sandbox.spawn(['sh', '-c', script], {
    ...(await root(sandbox)),
    boot: true,
  });
  await once(system.stdout, 'data');
  const look = 'cat /proc/1/cmdline; echo " $PPID"; ls -d /proc/[0-9]* | wc -l; ls /sys/fs/cgroup';
  const seen = await output(await sandbox.spawn(['sh', '-c', look], await root(sandbox)));
  const [first = '', processes, ...groups] = seen.split('\n');
  t.is(first, `sh\0-c\0${script}\0 0`);
  // sh, its sleep, and the three that look: the sandbox's init is not among them.
  t.true(Number(processes) <= 5, processes);
  t.true(groups.includes('cgroup.procs'), groups.join(' '));
  t.false(groups.includes('memory.max'));
  // With it everything ends, and nobody is let in any more.
  const other = await sandbox.spawn(['sleep', '1000'], await root(sandbox));
  system.kill('SIGKILL');
  await once(other, 'exit');
  t.is(other.signalCode, 'SIGKILL');
  await t.throwsAsync(sandbox.spawn(['true'], await root(sandbox)), { code: 'E_EXEC' });
});

test.serial('a system without a cgroup of its own is not booted', async (t) => {
  if (cgroupHierarchies().every(({ version }) => version === 2)) {
    t.pass('there every sandbox has one, which it cannot write to');
    return;
  }
  await using sandbox = await open(false);
  await t.throwsAsync(sandbox.spawn(['true'], { ...(await root(sandbox)), boot: true }), {
    code: 'E_LAYER_MISSING',
    message: /cgroup tree is the host/,
  });
});
