/**
 * `kiln varlink`: calls of the API on a client's stdin and stdout, one after the other. The client opens the files
 * that they name, with its caller's rights. Programs that speak Varlink start it in place of a connection.
 */

import type { PathCaller } from '../../cli/caller/caller.ts';
import {
  Call,
  type CallConnection,
  firstMessage,
  MESSAGE_MAX,
  parseCall,
} from '../../daemon/call.ts';
import type { CommandLine } from '../../daemon/command-line.ts';
import { KilnError } from '../../errors.ts';
import { takeCallersUmask } from '../../host/process/own-umask.ts';
import { deferred } from '../../promise.ts';
import type { ClientCaller } from '../client-caller.ts';
import { type AnsweringProcess, answerForClient } from './answer.ts';

export function isClientOfCalls({ start: { argv } }: CommandLine): boolean {
  return argv[1] === 'varlink' && argv.length === 2;
}

/**
 * Answers until the input ends, which ends the call that is being answered. `placeOfCall` gives each call a place of
 * its own for what its caller names, and puts away the one before.
 */
export async function answerClient(
  line: CommandLine,
  caller: ClientCaller,
  place: AnsweringProcess,
  placeOfCall: () => Promise<PathCaller>,
): Promise<void> {
  takeCallersUmask(line.start.umask);
  using input = caller.readInput({ raw: false });
  const { stream: output } = caller.stdout;
  const connection: CallConnection = {
    identity: line.identity,
    send: (bytes) => void output.write(bytes),
    get unsentBytes() {
      return output.writableLength;
    },
    sent: () => new Promise<void>((resolve) => void output.write('', () => resolve())),
  };
  let received = Buffer.alloc(0);
  let current: Call | undefined;
  let isOver = false;
  let more = deferred<void>();
  const over = () => {
    isOver = true;
    current?.gone();
    more.resolve();
  };
  using _signals = caller.onSignal(['SIGINT', 'SIGTERM', 'SIGHUP'], over);
  input.stream
    .on('data', (bytes: Buffer) => {
      received = Buffer.concat([received, bytes]);
      // What comes while a call is answered waits in the pipe.
      if (current !== undefined && received.length > MESSAGE_MAX) input.stream.pause();
      more.resolve();
    })
    .on('end', over)
    .on('error', over)
    .on('close', over);
  output.on('close', over);
  while (!isOver) {
    const message = firstMessage(received);
    if (message === undefined) {
      if (received.length > MESSAGE_MAX) throw notCallsError();
      more = deferred<void>();
      input.stream.resume();
      await more.promise;
      continue;
    }
    const parsed = parseCall(message);
    if (parsed === undefined) throw notCallsError();
    received = received.subarray(message.length + 1);
    current = Call.from(connection, parsed);
    const { env, environment, ids, takeRoom } = caller;
    await answerForClient(current, place, {
      ...{ env, environment, ids, takeRoom, ...(await placeOfCall()) },
      cwd: () => caller.cwd(),
      variable: (name) => caller.variable(name),
    });
    await connection.sent();
    current = undefined;
  }
}

function notCallsError(): KilnError {
  return new KilnError('E_PROTOCOL', 'the input of kiln varlink is no call', {
    hint: 'it takes messages of Varlink, as docs/api.md has them: it is started by programs, not typed to',
  });
}
