import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import {
  acquireLock,
  isLocked,
  lockHolder,
  lockUnlessHeld,
  tryLock,
  withLock,
} from '../../src/host/files/flock.ts';

async function lockFile(t: { teardown: (fn: () => Promise<void>) => void }): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-flock-'));
  t.teardown(() => rm(directory, { recursive: true }));
  return join(directory, 'lock');
}

/** util-linux's flock(1) as another process that knows nothing of ours. */
async function otherHolder(path: string, ...flags: string[]): Promise<ChildProcess> {
  const child = spawn(
    'flock',
    [...flags, '--no-fork', path, 'sh', '-c', 'echo held; exec sleep 60'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  await once(child.stdout!, 'data');
  return child;
}

test('a lock that another process holds is not acquired until that is killed', async (t) => {
  const path = await lockFile(t);
  const other = await otherHolder(path);
  t.is(await tryLock(path), undefined);
  let entered = false;
  const waiting = withLock(path, () => {
    entered = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 120));
  t.false(entered);
  other.kill('SIGKILL');
  await waiting;
  t.true(entered);
});

test('shared holders coexist, and an exclusive one waits', async (t) => {
  const path = await lockFile(t);
  const other = await otherHolder(path, '--shared');
  await using shared = await acquireLock(path, { shared: true });
  t.truthy(shared);
  t.is(await tryLock(path), undefined);
  other.kill('SIGKILL');
});

test('two processes that test a lock at once do not take each other for holders', async (t) => {
  const path = await lockFile(t);
  const look = await tryLock(path);
  const other = isLocked(path);
  await look?.release();
  t.false(await other);
  const holder = await otherHolder(path, '--shared');
  t.true(await isLocked(path));
  holder.kill('SIGKILL');
});

test('an exclusive holder is told from a process that only tests the lock', async (t) => {
  const path = await lockFile(t);
  const look = await otherHolder(path, '--shared');
  t.is(lockHolder(path), look.pid);
  t.is(lockHolder(path, { exclusive: true }), undefined);
  look.kill('SIGKILL');
  await once(look, 'exit');
  const keeps = await otherHolder(path);
  t.is(lockHolder(path, { exclusive: true }), keeps.pid);
  keeps.kill('SIGKILL');
});

test('callers in one process take turns', async (t) => {
  const path = await lockFile(t);
  let inside = 0;
  await Promise.all(
    Array.from({ length: 5 }, () =>
      withLock(path, async () => {
        t.is(++inside, 1);
        await new Promise((resolve) => setTimeout(resolve, 3));
        inside--;
      }),
    ),
  );
});

test('a waiter for a lock file that its holder deletes locks the new file', async (t) => {
  const path = await lockFile(t);
  const first = await acquireLock(path);
  const second = acquireLock(path);
  await new Promise((resolve) => setTimeout(resolve, 20));
  await unlink(path);
  await first.release();
  await using _held = await second;
  t.is(await tryLock(path), undefined);
});

test('an abort signal ends the waiting', async (t) => {
  const path = await lockFile(t);
  await using _held = await acquireLock(path);
  await t.throwsAsync(acquireLock(path, { signal: AbortSignal.timeout(30) }), {
    name: 'TimeoutError',
  });
});

test('a lock that others only test counts as free, and a held one does not', async (t) => {
  const path = await lockFile(t);
  const look = await otherHolder(path, '--shared');
  t.is(await tryLock(path), undefined);
  const locking = lockUnlessHeld(path);
  await new Promise((resolve) => setTimeout(resolve, 20));
  look.kill('SIGKILL');
  const held = await locking;
  t.truthy(held);
  t.is(await lockUnlessHeld(path), undefined);
  await held?.release();
});
