import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { connect } from '../../src/host/libvirt/connection.ts';
import { endOrphans } from '../../src/host/libvirt/controllers.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { long } from '../support/long.ts';
import { privateState, processesWith, WAITING } from './private-state.ts';

const SLEEP = 'sleep 1000; :';

test('only a process that waits for a dead controller, in its own namespace, is ended', async (t) => {
  // None of kiln's: any kiln on this machine may end those, before this test has seen them.
  const prefix = `orphan-test-${process.pid}-`;
  const name = (what: string) => `${what === 'ours' ? 'kiln-' : ''}${prefix}${what}`;
  const asController = (what: string, command: string) =>
    `exec -a /usr/lib/libvirt/libvirt_lxc ${command} --name ${name(what)}`;
  const sleeper = (what: string) => asController(what, `sh -c '${SLEEP}'`);
  const inside = 'unshare --user --map-root-user --pid --fork --kill-child=KILL';
  const started = {
    // Its parent is unshare, as it would be pid 1 once a controller is dead.
    orphan: `exec ${inside} bash -c "${sleeper('orphan')}"`,
    // The same, called as kiln's domains are.
    ours: `exec ${inside} bash -c "${sleeper('ours')}"`,
    // Its parent is a controller.
    child: `exec -a libvirt_lxc ${inside} bash -c "${sleeper('child')}"`,
    controller: sleeper('controller'),
    // Somebody else's.
    stranger: `exec ${inside} bash -c "exec -a libvirt_lxc sh -c '${SLEEP}' --name web-${process.pid}"`,
  };
  const children = Object.values(started).map((script) =>
    spawn('bash', ['-c', script], { stdio: 'ignore', detached: true }),
  );
  // Each with what it started: a shell's sleep would outlive it.
  t.teardown(() => {
    for (const { pid } of children) {
      try {
        process.kill(-Number(pid), 'SIGKILL');
      } catch {
        // It has ended, as it should.
      }
    }
  });
  const [orphan, ours] = children;
  const ended = Promise.all([orphan!, ours!].map((child) => once(child, 'exit')));
  const runs = async (what: string) => {
    const pids = await processesWith(name(what));
    const lines = pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => ''));
    return (await Promise.all(lines)).some((line) => line.startsWith('/usr/lib/libvirt/'));
  };
  for (const what of ['orphan', 'ours', 'child', 'controller']) {
    const over = () => what === 'ours' && (ours!.exitCode ?? ours!.signalCode) !== null;
    for (
      const end = Date.now() + 30_000 * PATIENCE;
      !(await runs(what)) && !over();
      await sleep(20)
    ) {
      if (Date.now() > end) throw new Error(`${what} did not start`);
    }
  }
  t.is(endOrphans(prefix), 1);
  endOrphans();
  await ended;
  t.deepEqual(
    children.map(({ exitCode, signalCode }) => exitCode === null && signalCode === null),
    [false, false, true, true, true],
  );
  t.is(endOrphans(prefix), 0);
});

long('libvirtd still answers after controllers were killed at their start', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const state = await privateState(t);
  const folder = join(state.paths.root, '..');
  const sniper = join(folder, 'sniper');
  await execa('cc', ['-O2', '-o', sniper, join(import.meta.dirname, 'sniper.c')]);
  await using connection = await connect({ paths: state.paths, env: state.env });
  const prefix = `kiln-sniped-${process.pid}-`;
  // One in eight is hit in the very moment that blocks libvirtd.
  const shooting = execa(sniper, ['40', prefix], { reject: false, timeout: 400_000 });
  let shots = 0;
  shooting.stdout.on('data', (chunk: Buffer) => {
    shots += chunk.toString().split('\n').length - 1;
  });
  for (let number = 0; shots < 40; number++) {
    const began = performance.now();
    try {
      const domain = await connection.createDomain(state.xml(`${prefix}${number}`, WAITING));
      await domain.destroy();
    } catch (error) {
      t.regex((error as Error).message, /failed to|broke/);
    }
    t.true(performance.now() - began < 30_000 * PATIENCE);
  }
  await shooting;
  t.is((await state.virsh('list', '--name')).trim(), '');
  t.deepEqual(await processesWith(prefix), []);
  t.deepEqual(await state.cleared(), []);
});
