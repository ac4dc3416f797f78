import { EventEmitter } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { NO_PATHS } from '../../src/cli/caller/no-paths.ts';
import { hasColours, isLive } from '../../src/cli/output/progress.ts';
import type { CommandLine } from '../../src/daemon/command-line.ts';
import type { HandOver } from '../../src/sandbox/command/process.ts';
import { ClientCaller, type ServingProcess } from '../../src/serve/client-caller.ts';
import { PATIENCE } from '../support/busybox-state.ts';

/** A connection as a caller sees it; its client may be gone. */
function connection(gone: boolean, more = {}): CommandLine {
  const windowSize = { rows: 0, columns: 0, ...more };
  const terminals = [false, false, false];
  const start = { argv: [], env: {}, terminals, cwd: '/', umask: 0o22, ...more };
  const parts = {
    descriptors: {},
    gone,
    start,
    windowSize,
    identity: { uid: 0, gid: 0 },
    passStdio: () => undefined,
  };
  return Object.assign(new EventEmitter(), parts) as unknown as CommandLine;
}

const serving = { state: '/nowhere', interrupted: () => undefined } as unknown as ServingProcess;
const handOverOf = (line: CommandLine): HandOver => {
  const { handOver } = new ClientCaller(line, serving, { user: undefined, paths: NO_PATHS });
  if (handOver === undefined) throw new Error('this client takes nothing');
  return handOver;
};

test('output handed to a client that was killed before is not waited for', async (t) => {
  const { drained } = handOverOf(connection(true))({ stdin: 0, stdout: 1, stderr: 2 });
  t.is(
    await Promise.race([
      drained.then(() => 'ended'),
      sleep(5000 * PATIENCE, 'waits', { ref: false }),
    ]),
    'ended',
  );
});

test('kiln waits until a client has its output, or is gone', async (t) => {
  for (const event of ['drained', 'gone']) {
    const line = connection(false);
    const { drained } = handOverOf(line)({ stdin: 0, stdout: 1, stderr: 2 });
    t.is(await Promise.race([drained.then(() => 'ended'), sleep(50, 'waits')]), 'waits');
    line.emit(event as 'gone');
    await drained;
  }
});

test('lines change in place, in colours, if the client’s terminal can do it', (t) => {
  const on = (env: Record<string, string>, terminals = [true, true, true]) => {
    const line = connection(false, { env, terminals, rows: 9, columns: 44 });
    const caller = new ClientCaller(line, serving, { user: undefined, paths: NO_PATHS });
    return [isLive(caller), hasColours(caller.stderr, caller), caller.stderr.columns];
  };
  t.deepEqual(on({ TERM: 'xterm' }), [true, true, 44]);
  t.deepEqual(on({ TERM: 'xterm', NO_COLOR: '1' }), [true, false, 44]);
  t.deepEqual(on({ TERM: 'dumb' }), [false, false, 44]);
  t.deepEqual(on({ TERM: 'xterm' }, [true, true, false]), [false, false, 44]);
});
