import { EventEmitter } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { ClientCaller, type ServingProcess } from '../../src/cli/caller/client-caller.ts';
import type { CommandLine } from '../../src/daemon/command-line.ts';
import type { HandOver } from '../../src/sandbox/command/streams.ts';

/** A connection as a caller sees it; its client may be gone. */
function connection(gone: boolean): CommandLine {
  const start = { argv: [], env: {}, terminals: [false, false, false], cwd: '/', umask: 0o22 };
  const parts = { gone, start, identity: { uid: 0, gid: 0 }, passStdio: () => undefined };
  return Object.assign(new EventEmitter(), parts) as unknown as CommandLine;
}

const serving = { state: '/nowhere', interrupted: () => undefined } as unknown as ServingProcess;
const handOverOf = (line: CommandLine): HandOver => {
  const { handOver } = new ClientCaller(line, serving, undefined);
  if (handOver === undefined) throw new Error('this client takes nothing');
  return handOver;
};

test('output that is handed to a client which was killed before is not waited for', async (t) => {
  const { drained } = handOverOf(connection(true))({ stdin: 0, stdout: 1, stderr: 2 });
  t.is(await Promise.race([drained.then(() => 'ended'), sleep(5000, 'waits')]), 'ended');
});

test('output that is handed to a client is waited for until the client has it, or is gone', async (t) => {
  for (const event of ['drained', 'gone']) {
    const line = connection(false);
    const { drained } = handOverOf(line)({ stdin: 0, stdout: 1, stderr: 2 });
    t.is(await Promise.race([drained.then(() => 'ended'), sleep(50, 'waits')]), 'waits');
    line.emit(event as 'gone');
    await drained;
  }
});
