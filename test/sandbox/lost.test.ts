import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import test from 'ava';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { readSandboxRecord } from '../../src/sandbox/domain/sandbox-record.ts';
import { type BusyboxState, busyboxState, PATIENCE } from '../support/busybox-state.ts';
import type { Kiln } from '../support/kiln.ts';
import { openKiln } from '../support/kiln.ts';
import { domainNames, domainsLeft, Parked } from '../support/parking.ts';

/** Sandboxes that libvirtd loses sight of at their birth: see Domain.isWatched(). */

let state: BusyboxState;
let kiln: Kiln;
let parked: Parked;

test.before(async (t) => {
  t.timeout(120_000 * PATIENCE);
  state = await busyboxState();
  kiln = openKiln({ env: state.env });
  parked = new Parked(kiln);
});
test.after.always(async () => {
  await parked.none();
  await kiln.close();
  await state[Symbol.asyncDispose]();
});

test.serial('no sandbox is parked whose end libvirt would not notice', async (t) => {
  await parked.none();
  await kiln.engine.connect();
  // Whether the daemon's first thread hears a controller too early is a race: the others are slowed.
  const daemon = readFileSync(embeddedFiles(state.paths).pid, 'utf8').trim();
  const workers = readdirSync(`/proc/${daemon}/task`).filter((thread) => thread !== daemon);
  const delay = `inject=write:delay_exit=${5000 * PATIENCE}`;
  const slow = ['-e', 'trace=write', '-e', delay, '-o', '/dev/null'];
  const strace = spawn('strace', [...slow, ...workers.flatMap((thread) => ['-p', thread])]);
  const started = new Set<string>();
  let waiting = '';
  const looking = setInterval(() => {
    // The folder comes with the first one.
    if (!existsSync(state.paths.sandboxes)) return;
    for (const id of readdirSync(state.paths.sandboxes)) started.add(id);
    if (started.size > 1) strace.kill();
  }, 20);
  try {
    for (const end = Date.now() + 100_000 * PATIENCE; started.size < 2; ) {
      t.true(Date.now() < end, 'strace has kept libvirt from losing any, or a lost one waits');
      await parked.none();
      started.clear();
      waiting = await parked.one(3000 * PATIENCE);
    }
  } finally {
    clearInterval(looking);
    strace.kill();
  }
  t.true(started.size <= 5, 'one that libvirt has not lost was ended');
  t.deepEqual(
    await domainNames(kiln),
    [readSandboxRecord(waiting)?.domain],
    'the lost one was not ended',
  );
  t.deepEqual(await domainsLeft(kiln), []);
});
