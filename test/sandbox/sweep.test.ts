import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { execa } from 'execa';
import { acquireLock } from '../../src/host/files/flock.ts';
import { waitForDeath } from '../../src/host/process/process.ts';
import { recordProcess } from '../../src/host/process/recorded-process.ts';
import {
  isKept,
  listSandboxes,
  readSandboxRecord,
  type SandboxRecord,
} from '../../src/sandbox/domain/sandbox-record.ts';
import { newDirectory } from '../../src/sandbox/domain/start-domain.ts';
import { sweepSandboxes } from '../../src/sandbox/domain/sweep.ts';
import { busyboxState } from '../support/busybox-state.ts';
import { endDaemon } from '../support/daemon.ts';
import { openKiln } from '../support/kiln.ts';

const MAKER = fileURLToPath(new URL('dying-maker.ts', import.meta.url));

test('a sandbox whose maker died before writing the record goes at once, one being made stays', async (t) => {
  await using state = await busyboxState();
  await using kiln = openKiln({ env: state.env });
  const { paths, engine } = kiln;
  const died = await execa('node', [MAKER], { env: state.env, reject: false });
  t.is(died.signal, 'SIGKILL', died.stderr);
  const { lock, known } = JSON.parse(died.stdout);
  t.is(known, undefined, 'it was killed too late');
  t.not(lock, '', 'its folder was seen before its lock was held');
  const id = basename(dirname(lock));
  const begun = join(newDirectory(paths), 'begun');
  mkdirSync(begun);
  {
    await using _ = await acquireLock(lock);
    t.deepEqual(await sweepSandboxes(paths, engine.connect), []);
    t.true(existsSync(lock));
  }
  t.deepEqual(await sweepSandboxes(paths, engine.connect), [id]);
  t.deepEqual(await readdir(paths.sandboxes), []);
  t.deepEqual(await readdir(newDirectory(paths)), ['begun']);
});

test('a kept sandbox whose init was killed is listed as dead, and swept', async (t) => {
  await using state = await busyboxState();
  await using kiln = openKiln({ env: state.env });
  const { paths, engine } = kiln;
  const [alive, killed] = await Promise.all(
    [1, 2].map(() => state.kiln(['run', '-r', 'busybox', '--keep', '--', 'true'])),
  );
  const idOf = (ran: typeof alive) => /kept as (\w+)/.exec(String(ran?.stderr))?.[1] ?? '';
  const [left, id] = [idOf(alive), idOf(killed)];
  const states = async () => {
    const listed = await listSandboxes(paths, { owner: undefined });
    return Object.fromEntries(listed.map((each) => [each.id, each.state]));
  };
  t.deepEqual(await states(), { [left]: 'kept', [id]: 'kept' });
  // kilnd sweeps by itself.
  await endDaemon(paths.root);
  const pid = readSandboxRecord(join(paths.sandboxes, id))?.init?.pid ?? t.fail();
  process.kill(pid, 'SIGKILL');
  t.true(await waitForDeath(pid, 10_000));
  t.deepEqual(await states(), { [left]: 'kept', [id]: 'dead' });
  await sweepSandboxes(paths, engine.connect);
  t.deepEqual(await states(), { [left]: 'kept' });
  await state.kiln(['kill', left]);
});

test('a kept machine counts as dead once its relay is', async (t) => {
  const relay = spawn('sleep', ['100']);
  const pid = relay.pid ?? 0;
  const process = recordProcess(pid) ?? t.fail();
  const record = { keepUntil: Date.now() + 60_000, machine: { relay: process } };
  const isKeptNow = () => isKept(record as SandboxRecord, Date.now());
  t.true(isKeptNow());
  relay.kill('SIGKILL');
  await once(relay, 'exit');
  t.false(isKeptNow());
});

test('a kept sandbox of another PID namespace does not count as dead', (t) => {
  const init = { ...(recordProcess(process.pid) ?? t.fail()), start: 'before' };
  const isKeptNow = (namespace: string) =>
    isKept(
      { keepUntil: Date.now() + 60_000, init: { ...init, namespace } } as SandboxRecord,
      Date.now(),
    );
  t.false(isKeptNow(init.namespace));
  t.true(isKeptNow('pid:[1]'));
});
