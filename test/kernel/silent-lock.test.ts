import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { acquireLock, lockHolder, tryLock } from '../../src/host/files/flock.ts';
import { releaseReservation, reserve } from '../../src/host/state/reservation.ts';
import { stopped } from '../support/stopped.ts';

process.env.KILN_PATIENCE = '1';

/** A lock that another process holds, of a file or of its folder: flock(1), and what it runs. */
async function heldByOther(
  t: ExecutionContext,
  of: 'file' | 'folder' = 'file',
): Promise<{ path: string; pid: number }> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-lock-'));
  const path = of === 'folder' ? directory : join(directory, 'lock');
  // -F: flock(1) becomes the command, so that one process holds it.
  const other = spawn('flock', ['-F', path, 'sh', '-c', 'echo held; exec sleep 1000'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(other.stdout, 'data');
  const ended = once(other, 'exit');
  t.teardown(async () => {
    other.kill('SIGKILL');
    await ended;
    await rm(directory, { recursive: true });
  });
  return { path, pid: other.pid ?? 0 };
}

test('the kernel says who holds a lock', async (t) => {
  const { path, pid } = await heldByOther(t);
  t.is(lockHolder(path), pid);
  const own = `${path}.own`;
  t.is(lockHolder(own), undefined);
  await using _ = await tryLock(own);
  t.is(lockHolder(own), process.pid);
});

test('waiting for a lock whose holder is stopped ends, and names the holder', async (t) => {
  const { path, pid } = await heldByOther(t);
  using _ = await stopped(pid);
  await t.throwsAsync(acquireLock(path), {
    code: 'E_LOCKED',
    message: new RegExp(`gave up waiting for process ${pid}, which holds the lock .*stopped`),
  });
});

test('waiting for a lock whose holder works goes on', async (t) => {
  const { path, pid } = await heldByOther(t);
  const waiting = acquireLock(path);
  const early = await Promise.race([waiting, sleep(3000)]);
  t.is(early, undefined);
  process.kill(pid, 'SIGKILL');
  await using held = await waiting;
  t.truthy(held);
});

test('releasing a reservation gives up on a stopped process', async (t) => {
  const { path, pid } = await heldByOther(t, 'folder');
  await reserve(path, 'range', t.title);
  using _ = await stopped(pid);
  await t.throwsAsync(releaseReservation(path, 'range', t.title), {
    code: 'E_LOCKED',
    message: new RegExp(`process ${pid}, which holds the lock ${path}`),
  });
});
