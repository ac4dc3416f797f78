/** A confined child that was started before its work was there: its start takes longer than most of it. */
import type { ChildProcess } from 'node:child_process';
import { hasErrno } from '../kernel/libc.ts';
import { Handout, MAX_GROUP } from './handout.ts';
import { launchConfined, stopConfined } from './launch.ts';

/** A child that is used now, and is its user's to end. */
export interface StandbyChild {
  readonly child: ChildProcess;
  /** Hands these to it; once, after the request that says how many. */
  hand(fds: readonly number[]): void;
}

/** Waits for one task; disposing of it ends the child if nobody took it. */
export class Standby implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #handout: Handout;
  #taken = false;

  private constructor(child: ChildProcess, handout: Handout) {
    this.#child = child;
    this.#handout = handout;
  }

  /**
   * Throws E_CONFINE_START.
   * @param task what it will be asked for
   * @param entry see {@link runConfined}
   */
  static start(task: string, entry?: string): Standby {
    const handout = new Handout();
    try {
      const child = launchConfined({ fds: [handout.childEnd], ahead: task, entry });
      // Until it is taken nobody listens, and a failure to start shows in its replies.
      child.on('error', () => undefined);
      child.stdin?.on('error', () => undefined);
      return new Standby(child, handout);
    } catch (error) {
      handout[Symbol.dispose]();
      throw error;
    }
  }

  /** Where the child takes files from, and others may as well; undefined if it was taken or died. */
  get handout(): Handout | undefined {
    return this.#gone ? undefined : this.#handout;
  }

  get #gone(): boolean {
    return this.#taken || this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** The child, unless it was taken before or has died. */
  take(): StandbyChild | undefined {
    if (this.#gone) return undefined;
    this.#taken = true;
    return {
      child: this.#child,
      hand: (fds) => {
        const files = fds.map((fd, index) => ({ index, fd }));
        try {
          for (let at = 0; at < files.length; at += MAX_GROUP) {
            this.#handout.hand(files.slice(at, at + MAX_GROUP));
          }
        } catch (error) {
          // It died, as its replies will tell.
          if (!hasErrno(error, 'EPIPE', 'ECONNRESET')) throw error;
        }
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#handout[Symbol.dispose]();
    if (!this.#taken) await stopConfined(this.#child);
  }
}
