import { once } from 'node:events';
import { chmod, cp, mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  MAIN,
  PATIENCE,
} from '../support/busybox-state.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** kiln as one process, so that a signal reaches it and not its shell wrapper. */
function kiln(args: readonly string[]) {
  return execa(process.execPath, [MAIN, ...args], {
    env: state.env,
    reject: false,
    stdin: 'ignore',
    timeout: 60_000 * PATIENCE,
  });
}

async function libvirtdPid(): Promise<number> {
  return Number(await readFile(embeddedFiles(state.paths).pid, 'utf8'));
}

test.serial('a command survives the death of libvirtd, and the next run works', async (t) => {
  const running = kiln(['run', '-r', IMAGE, '--', 'sh', '-c', 'echo up; sleep 2; exit 9']);
  await once(running.stdout, 'data');
  process.kill(await libvirtdPid(), 'SIGKILL');
  t.is((await running).exitCode, 9);
  const next = await kiln(['run', '-r', IMAGE, '--', 'echo', 'again']);
  t.is(next.stdout, 'again', next.stderr);
  t.is(next.exitCode, 0);
  t.deepEqual(await readdir(state.paths.sandboxes), []);
});

test.serial(
  'kiln killed at any moment leaves nothing that the next run does not remove',
  async (t) => {
    for (let moment = 100; moment <= 1000; moment += 150) {
      const victim = kiln(['run', '-r', IMAGE, '--', 'sleep', '60']);
      await sleep(moment);
      victim.kill('SIGKILL');
      await victim;
    }
    const bystander = kiln(['run', '-r', IMAGE, '--', 'sh', '-c', 'sleep 2; exit 5']);
    // A folder without a record is left alone for five seconds: its maker may be at work.
    await sleep(5500);
    t.is((await kiln(['run', '-r', IMAGE, '--', 'true'])).exitCode, 0);
    t.is((await bystander).exitCode, 5);
    t.is((await kiln(['run', '-r', IMAGE, '--', 'true'])).exitCode, 0);
    t.deepEqual(await readdir(state.paths.sandboxes), []);
    const { uri } = embeddedFiles(state.paths);
    for (let i = 0; i < 100 * PATIENCE; i++) {
      const { stdout } = await execa('virsh', ['-c', uri, 'list', '--name']);
      if (stdout.trim() === '') return;
      await sleep(200);
    }
    t.fail('domains are left');
  },
);

test.serial('an interrupt before the command starts gives 130, and leaves nothing', async (t) => {
  const run = kiln(['run', '-r', IMAGE, '--', 'sh', '-c', 'sleep 60']);
  await sleep(350);
  run.kill('SIGINT');
  // Before kiln listens to signals it dies of one, which a shell calls 130 as well.
  const { exitCode, signal } = await run;
  t.is(signal === 'SIGINT' ? 130 : exitCode, 130);
  t.deepEqual(await readdir(state.paths.sandboxes).catch(() => []), []);
});

test.serial('a missing bind and a state folder that is closed are reported', async (t) => {
  const bind = await kiln(['run', '-r', IMAGE, '--bind', '/no/such:/x', '--', 'true']);
  t.is(bind.exitCode, 125);
  t.regex(bind.stderr, /cannot bind \/no\/such/);
  const closed = join(state.beside, 'closed');
  const inner = { KILN_STATE: join(closed, 'state') };
  await mkdir(inner.KILN_STATE, { recursive: true });
  await cp(state.paths.store, join(inner.KILN_STATE, 'store'), {
    recursive: true,
    verbatimSymlinks: true,
  });
  await chmod(closed, 0o700);
  const inside = await execa(process.execPath, [MAIN, 'run', '-r', IMAGE, '--', 'true'], {
    env: { ...state.env, ...inner },
    reject: false,
  });
  t.is(inside.exitCode, 125);
  t.regex(inside.stderr, /chmod o\+x/);
  const paths = statePaths(inner);
  await stopEmbeddedDaemon(paths);
  await rm(paths.run, { recursive: true, force: true });
});
