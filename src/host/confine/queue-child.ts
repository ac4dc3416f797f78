/**
 * The children of queues. Some are started ahead, because starting one takes as long as reading hundreds of
 * packages. A waiting child has its code loaded and has read no input; it serves one queue and ends with it.
 */
import type { ChildProcess } from 'node:child_process';
import { closeDescriptor } from '../calls/descriptor.ts';
import { unixPacketPair } from '../sockets/unix-socket.ts';
import { type LaunchOptions, launchConfined } from './launch.ts';

/** A child that has received no request yet. */
export interface QueueChild {
  readonly process: ChildProcess;
  /** The socket that its work goes to. The owner of the child closes it. */
  readonly socket: number;
}

/** By name of the task; only tasks without a destination. */
const tasks = new Map<string, { readonly waiting: QueueChild[]; inUse: number; most: number }>();

/** Takes a waiting child or starts a new one. Throws what {@link launchConfined} throws. */
export function takeQueueChild(options: Omit<LaunchOptions, 'fds'>): QueueChild {
  const { task, destination, entry } = options;
  if (destination !== undefined || entry !== undefined) return start(options);
  const of = tasks.get(task) ?? { waiting: [], inUse: 0, most: 0 };
  tasks.set(task, of);
  const child = of.waiting.shift() ?? start({ task });
  of.inUse++;
  of.most = Math.max(of.most, of.inUse);
  // The queue waits for the exit as well, so the next queue sees the child counted off.
  child.process.once('exit', () => of.inUse--);
  return child;
}

/**
 * Starts as many children as were needed at the same time before. A failure is reported by the call that needs
 * the child.
 */
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
