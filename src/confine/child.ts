/** The confined child's main: one request in, messages out, end. */
import { closeSync, readFileSync, writeSync } from 'node:fs';
import { KilnError } from '../errors.ts';
import { enclose } from './enclose.ts';
import { flattenError } from './flat-error.ts';
import { encodeFrame, FrameDecoder } from './frame.ts';
import {
  type ConfinedReply,
  type ConfinedRequest,
  FIRST_FD,
  type PerformWork,
  REPLY_FD,
  type TaskContext,
  type TaskTable,
} from './task.ts';
import { takeWork } from './work.ts';

/**
 * Reads the request from descriptor 0, loads the task it names, shuts the process in, runs it.
 * Nothing is done for a parent that died before it sent the whole request.
 */
export async function serveConfined(tasks: TaskTable): Promise<void> {
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
    const emit = (value: unknown) => reply({ type: 'message', value });
    if ('begin' in task) await serveQueue(task.begin(request.input), emit);
    else {
      const fds = Array.from({ length: request.fdCount }, (_, index) => FIRST_FD + index);
      await task.run(request.input, { fds, emit });
    }
    reply({ type: 'done' });
  } catch (error) {
    reply({ type: 'failed', error: flattenError(error) });
  }
}

function readRequest(): ConfinedRequest | undefined {
  const [request] = new FrameDecoder().push(readFileSync(0));
  return request as ConfinedRequest | undefined;
}

async function serveQueue(perform: PerformWork, emit: TaskContext['emit']): Promise<void> {
  for (const work of takeWork(FIRST_FD)) {
    try {
      reply({ type: 'answered', value: await perform(work, emit) });
    } catch (error) {
      reply({ type: 'answered', error: flattenError(error) });
    } finally {
      for (const fd of work.fds) closeSync(fd);
    }
  }
}

/** The pipe is a blocking one: a slow parent slows the child down. */
function reply(message: ConfinedReply): void {
  const frame = encodeFrame(message);
  for (let sent = 0; sent < frame.length; ) sent += writeSync(REPLY_FD, frame, sent);
}
