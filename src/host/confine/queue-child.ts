/**
 * The children of queues. Some are started before they are needed, since that takes as long as to read hundreds of
 * packages. One that waits has its code loaded, and has seen nothing of anybody's; it serves one queue, and ends with it.
 */
import type { ChildProcess } from 'node:child_process';
import { closeDescriptor } from '../calls/descriptor.ts';
import { unixPacketPair } from '../sockets/unix-socket.ts';
import { type LaunchOptions, launchConfined } from './launch.ts';

/** A child that nobody has told anything. */
export interface QueueChild {
  readonly process: ChildProcess;
  /** Where its work goes; whoever has it closes it. */
  readonly socket: number;
}

/** Of each task that has been done without a folder of its own. */
const tasks = new Map<string, { readonly waiting: QueueChild[]; inUse: number; most: number }>();

/** One that waits, or a new one. Throws what {@link launchConfined} throws. */
export function takeQueueChild(options: Omit<LaunchOptions, 'fds'>): QueueChild {
  const { task, destination, entry } = options;
  if (destination !== undefined || entry !== undefined) return start(options);
  const of = tasks.get(task) ?? { waiting: [], inUse: 0, most: 0 };
  tasks.set(task, of);
  const child = of.waiting.shift() ?? start({ task });
  of.inUse++;
  of.most = Math.max(of.most, of.inUse);
  // Its queue waits for the same, so that the next queue finds it counted off.
  child.process.once('exit', () => of.inUse--);
  return child;
}

/** Starts as many as have been needed at a time. Where that fails, whoever needs one is told why. */
export function startQueueChildren(): void {
  for (const [task, { waiting, most }] of tasks) {
    while (waiting.length < most) {
      let child: QueueChild;
      try {
        child = start({ task });
      } catch {
        return;
      }
      waiting.push(child);
      const forget = () => {
        const at = waiting.indexOf(child);
        if (at === -1) return;
        waiting.splice(at, 1);
        closeDescriptor(child.socket);
      };
      child.process.once('exit', forget).on('error', forget);
    }
  }
}

function start(options: Omit<LaunchOptions, 'fds'>): QueueChild {
  const [socket, theirs] = unixPacketPair();
  try {
    return { process: launchConfined({ ...options, fds: [theirs] }), socket };
  } catch (error) {
    closeDescriptor(socket);
    throw error;
  } finally {
    closeDescriptor(theirs);
  }
}
