/** A confined child that was started before its work was there: its start takes longer than most of it. */
import type { ChildProcess } from 'node:child_process';
import { hasErrno } from '../kernel/libc.ts';
import { closeDescriptor, sendWithDescriptors, unixSocketPair } from '../kernel/unix-socket.ts';
import { launchConfined, stopConfined } from './launch.ts';

/** What a descriptor comes with: it cannot travel without a byte. */
const BYTE = Buffer.from([0]);

/** A child that is used now, and is its user's to end. */
export interface StandbyChild {
  readonly child: ChildProcess;
  /** Hands these to it; once, after the request that says how many. */
  hand(fds: readonly number[]): void;
}

/** Waits for one task; disposing of it ends the child if nobody took it. */
export class Standby implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #socket: number;
  #taken = false;

  private constructor(child: ChildProcess, socket: number) {
    this.#child = child;
    this.#socket = socket;
  }

  /**
   * Throws E_CONFINE_START.
   * @param task what it will be asked for
   * @param entry see {@link runConfined}
   */
  static start(task: string, entry?: string): Standby {
    const [ours, theirs] = unixSocketPair();
    try {
      const child = launchConfined({ fds: [theirs], ahead: task, entry });
      // Until it is taken nobody listens, and a failure to start shows in its replies.
      child.on('error', () => undefined);
      child.stdin?.on('error', () => undefined);
      return new Standby(child, ours);
    } catch (error) {
      closeDescriptor(ours);
      throw error;
    } finally {
      closeDescriptor(theirs);
    }
  }

  /** The child, unless it was taken before or has died. */
  take(): StandbyChild | undefined {
    if (this.#taken || this.#child.exitCode !== null || this.#child.signalCode !== null) {
      return undefined;
    }
    this.#taken = true;
    return {
      child: this.#child,
      hand: (fds) => {
        // One at a time: what the kernel takes in one message has a limit.
        try {
          for (const fd of fds) sendWithDescriptors(this.#socket, BYTE, [fd]);
        } catch (error) {
          // It died, as its replies will tell.
          if (!hasErrno(error, 'EPIPE', 'ECONNRESET')) throw error;
        }
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    closeDescriptor(this.#socket);
    if (!this.#taken) await stopConfined(this.#child);
  }
}
