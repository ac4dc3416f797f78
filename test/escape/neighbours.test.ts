/** What a sandbox takes of the counters of the whole host, seen by another sandbox and by the host. */
import { on } from 'node:events';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';
import { installProbe, readOutcomes } from './setup.ts';

let state: BusyboxState;
let tree: string;

test.before(async (t) => {
  t.timeout(120_000 * PATIENCE);
  state = await busyboxState();
  tree = await installProbe(state);
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const TRY = ['one-of-each', 'aio'];
const SMALL = { limits: { pids: 10, memory: 64 << 20 } };

/** Runs `work` while a small sandbox holds all that it could take; gives how much that was, in the probe's order. */
async function besideTaker(
  user: string | undefined,
  work: () => Promise<void>,
): Promise<readonly number[]> {
  await using kiln = openKiln({ env: state.env });
  await using sandbox = await kiln.open({ image: IMAGE, ...SMALL, ...(user && { user }) });
  const command = await sandbox.spawn('/bin/probe', ['take-all']);
  let said = '';
  for await (const [chunk] of on(command.stdout, 'data', { close: ['end'] })) {
    said += String(chunk);
    if (said.includes('\n')) break;
  }
  await work();
  await sandbox.killAll();
  const [word, ...taken] = said.trim().split('\t');
  if (word !== 'taken') throw new Error(`the probe said ${said}`);
  return taken.map(Number);
}

async function onHost(): Promise<ReturnType<typeof readOutcomes>> {
  return readOutcomes((await execa(join(tree, 'bin/probe'), TRY, { reject: false })).stdout);
}

async function isLeftOnHost(t: ExecutionContext): Promise<void> {
  const found = await onHost();
  t.deepEqual(found.get('one-of-each'), { outcome: 'through', how: '' });
  t.is(found.get('aio')?.outcome, 'through');
}

test.serial('a sandbox leaves enough for its neighbours and the host', async (t) => {
  const taken = await besideTaker(undefined, async () => {
    await isLeftOnHost(t);
    // A new one: its start takes some of all that, too.
    const run = ['run', '-r', IMAGE, '--', '/bin/probe', 'one-of-each'];
    const neighbour = await state.kiln(run);
    t.is(neighbour.stdout, 'one-of-each\tthrough\t', String(neighbour.stderr));
    const terminal = [
      'script',
      '-qec',
      `"${join(import.meta.dirname, '../../bin/kiln')}" run -t -r ${IMAGE} -- tty`,
    ];
    const { stdout } = await execa(terminal[0]!, [...terminal.slice(1), '/dev/null'], {
      env: state.env,
    });
    t.regex(stdout, /^\/dev\/pts\/\d+\r?$/m);
  });
  // Timers count as signals.
  const [signals = 0, timers = 0, terminals, inotify = 0, netlink] = taken;
  t.is(signals + timers, 1024);
  t.is(terminals, 64);
  t.true(inotify >= 1 && inotify < 1000, String(inotify));
  t.is(netlink, 32);
});

test.serial('root of a sandbox, with all its ids, leaves enough for the host', async (t) => {
  const [signals = 0, timers = 0, terminals, inotify = 0, netlink] = await besideTaker('root', () =>
    isLeftOnHost(t),
  );
  t.true(signals + timers > 1024);
  t.is(terminals, 64);
  t.true(inotify >= 1 && inotify < 1000, String(inotify));
  t.is(netlink, 32);
});
