/** The confined child's main: one request in, messages out, end. */
import { readFileSync, writeSync } from 'node:fs';
import { KilnError } from '../errors.ts';
import { enclose } from './enclose.ts';
import { flattenError } from './flat-error.ts';
import { encodeFrame, FrameDecoder } from './frame.ts';
import {
  type ConfinedReply,
  type ConfinedRequest,
  FIRST_FD,
  REPLY_FD,
  type TaskTable,
} from './task.ts';

/**
 * Reads the request from descriptor 0, loads the task it names, shuts the process in, runs it.
 * Nothing is done for a parent that died before it sent the whole request.
 */
export async function serveConfined(tasks: TaskTable): Promise<void> {
  reply({ type: 'ready' });
  const request = readRequest();
  if (request === undefined) return;
  try {
    const load = Object.hasOwn(tasks, request.task) ? tasks[request.task] : undefined;
    if (load === undefined) {
      throw new KilnError('E_CONFINE_PROTOCOL', `there is no confined task '${request.task}'`);
    }
    const { task } = await load();
    await task.prepare?.(request.input);
    enclose(request);
    const fds = Array.from({ length: request.fdCount }, (_, index) => FIRST_FD + index);
    const emit = (value: unknown) => reply({ type: 'message', value });
    await task.run(request.input, { fds, emit });
    reply({ type: 'done' });
  } catch (error) {
    reply({ type: 'failed', error: flattenError(error) });
  }
}

function readRequest(): ConfinedRequest | undefined {
  const [request] = new FrameDecoder().push(readFileSync(0));
  return request as ConfinedRequest | undefined;
}

/** The pipe is a blocking one: a slow parent slows the child down. */
function reply(message: ConfinedReply): void {
  const frame = encodeFrame(message);
  for (let sent = 0; sent < frame.length; ) sent += writeSync(REPLY_FD, frame, sent);
}
