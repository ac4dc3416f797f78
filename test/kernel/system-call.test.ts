import { closeSync, constants, openSync, statSync } from 'node:fs';
import { constants as os } from 'node:os';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import koffi from 'koffi';
import { addon, CALLS, tryCall } from '../../src/host/calls/system-call.ts';
import { receivePacket, sendPacket, unixPacketPair } from '../../src/host/sockets/unix-socket.ts';

const AT_FDCWD = -100;

/** Waits in futex(2) and is woken all the time, as V8's own threads do. */
const RESTLESS = `
const { workerData } = require('node:worker_threads');
const word = new Int32Array(workerData);
for (let i = 0; Atomics.load(word, 1) === 0; i++) {
  Atomics.wait(word, 0, 0, 0.01);
  if (i % 64 === 0) new Array(10000).fill(i);
}`;

test('a failed call says why, whatever other threads and V8 do', async (t) => {
  const shared = new SharedArrayBuffer(8);
  const word = new Int32Array(shared);
  const workers = [0, 1].map(() => new Worker(RESTLESS, { eval: true, workerData: shared }));
  const results = new Set<number>();
  for (let i = 0; i < 300_000; i++) {
    results.add(tryCall('unlinkat', AT_FDCWD, '/proc/none', 0));
    if (i % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  Atomics.store(word, 1, 1);
  await Promise.all(workers.map((worker) => worker.terminate()));
  t.deepEqual([...results], [-os.errno.ENOENT]);
});

test('an errno that a library left behind is not a call’s result', (t) => {
  koffi.errno(os.errno.EPERM);
  t.is(tryCall('unlinkat', AT_FDCWD, '/proc/none', 0), -os.errno.ENOENT);
  t.is(tryCall('flock', openSync('/dev/null', 'r'), 2), 0);
});

test('the addon has a number for each system call, that of the headers', (t) => {
  t.deepEqual(Object.keys(addon().numbers), [...CALLS]);
  if (process.arch === 'x64') t.is(addon().numbers.fcntl, 72);
});

test('text, bytes, numbers and null reach the kernel', (t) => {
  // The addon is given what src/host/calls would give it.
  const how = BigUint64Array.of(BigInt(constants.O_DIRECTORY), 0n, 0n);
  for (const path of ['/tmp', Buffer.from('/tmp\0'), `/tmp${'/.'.repeat(2000)}`]) {
    const fd = tryCall('openat2', AT_FDCWD, path, how, how.byteLength);
    t.true(fd > 2);
    const link = Buffer.alloc(64);
    const length = tryCall('readlinkat', AT_FDCWD, `/proc/self/fd/${fd}`, link, link.length);
    t.is(link.toString('utf8', 0, length), '/tmp');
    closeSync(fd);
  }
  t.throws(() => tryCall('unlinkat', AT_FDCWD, 'a\0b', 0), { instanceOf: TypeError });
  t.throws(() => tryCall('unlinkat', AT_FDCWD, {} as never, 0), { instanceOf: TypeError });
});

test('a message delivers no more descriptors than were asked for', (t) => {
  const [ours, theirs] = unixPacketPair();
  const file = openSync('/dev/null', 'r');
  sendPacket(theirs, Buffer.from('x'), [file, file, file]);
  const two = receivePacket(ours, 8, 2);
  t.is(two?.fds.length, 2);
  t.false(two?.whole);
  sendPacket(theirs, Buffer.from('yz'), [file]);
  const one = receivePacket(ours, 8, 2);
  t.deepEqual([one?.fds.length, one?.whole, one?.data.toString()], [1, true, 'yz']);
  t.is(statSync(`/proc/self/fd/${one?.fds[0]}`).rdev, statSync('/dev/null').rdev);
  for (const fd of [ours, theirs, file, ...(two?.fds ?? []), ...(one?.fds ?? [])]) closeSync(fd);
});
