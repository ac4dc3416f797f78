/** The confined child's main: one request in, messages out, end. */
import { closeSync, readFileSync, writeSync } from 'node:fs';
import { KilnError } from '../errors.ts';
import { enclose } from './enclose.ts';
import { flattenError } from './flat-error.ts';
import { encodeFrame, FrameDecoder } from './frame.ts';
import { takeHanded } from './handout.ts';
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
 * @param ahead the task that will be asked for, to be loaded while nothing else is to do
 */
export async function serveConfined(tasks: TaskTable, ahead?: string): Promise<void> {
  reply({ type: 'ready' });
  if (ahead !== undefined && Object.hasOwn(tasks, ahead)) await tasks[ahead]?.();
  const request = readRequest();
  if (request === undefined) return;
  try {
    const load = Object.hasOwn(tasks, request.task) ? tasks[request.task] : undefined;
    if (load === undefined) {
      throw new KilnError('E_CONFINE_PROTOCOL', `there is no confined task '${request.task}'`);
    }
    const { task } = await load();
    await task.prepare?.(request.input);
    const fds = takeDescriptors(request);
    enclose(request);
    const emit = (value: unknown) => reply({ type: 'message', value });
    const arriving = request.arriving ? takeHanded(FIRST_FD) : [];
    await task.run(request.input, { fds, arriving, emit });
    reply({ type: 'done' });
  } catch (error) {
    reply({ type: 'failed', error: flattenError(error) });
  }
}

function readRequest(): ConfinedRequest | undefined {
  const [request] = new FrameDecoder().push(readFileSync(0));
  return request as ConfinedRequest | undefined;
}

function takeDescriptors({ fdCount, fdsFollow, arriving }: ConfinedRequest): number[] {
  if (arriving) return [];
  if (!fdsFollow) return Array.from({ length: fdCount }, (_, index) => FIRST_FD + index);
  const fds: number[] = [];
  if (fdCount > 0) {
    for (const group of takeHanded(FIRST_FD)) {
      fds.push(...group.map(({ fd }) => fd));
      if (fds.length >= fdCount) break;
    }
  }
  if (fds.length !== fdCount) {
    throw new KilnError('E_CONFINE_PROTOCOL', 'a descriptor did not come');
  }
  closeSync(FIRST_FD);
  return fds;
}

/** The pipe is a blocking one: a slow parent slows the child down. */
function reply(message: ConfinedReply): void {
  const frame = encodeFrame(message);
  for (let sent = 0; sent < frame.length; ) sent += writeSync(REPLY_FD, frame, sent);
}
