/** What a method of the API is answered with and from. */
import type { Methods } from '../../api/io-kiln.ts';
import type { Call } from '../../daemon/call.ts';
import type { OwnEngine } from '../../engine.ts';
import type { OnImageProgress } from '../../image/progress.ts';
import { describeProgress, type ImageProgress } from '../../image/progress.ts';
import type { Caller } from '../caller/caller.ts';
import type { OpenSandboxes } from './open-sandboxes.ts';

/** What of the daemon's only its own thread has. */
export interface DaemonState {
  readonly sandboxes: OpenSandboxes;
  /** Calls that are being answered, by what their commands are called. */
  readonly calls: Map<string, Call>;
  /** Has a worker make an image. @throws what that throws */
  makeImage(call: Call, image: string): Promise<void>;
  /** A sandbox is being removed, which nobody waits for. */
  removing(removal: Promise<void>): void;
}

export interface CallContext {
  readonly call: Call;
  /** Who has called, and nothing that belongs to a command line: paths are absolute. */
  readonly caller: OptionCaller;
  /** Undefined in a worker. */
  readonly daemon: DaemonState | undefined;
  openEngine(): OwnEngine;
  /** Something has been changed in the store. */
  storeChanged(): void;
  /** Tells something that stops nothing. */
  readonly warn: (text: string) => void;
  /** Tells what making an image is busy with. */
  readonly onProgress: OnImageProgress;
}

/** What of a caller the options of commands look at. */
export type OptionCaller = Pick<Caller, 'env' | 'cwd' | 'variable' | 'ids' | 'environment'>;

export type Name = keyof Methods;

/** Answers a call: gives its last reply. */
export type Answer<Method extends Name> = (
  parameters: Methods[Method]['parameters'],
  context: CallContext,
) => Promise<Methods[Method]['reply']>;

/** Tells what making an image is busy with, as far as it is news. */
export function progressTo(call: Call): OnImageProgress {
  let last = '';
  return (progress) => {
    const what = describeProgress(progress);
    const counts = countsOf(progress);
    // A download tells of every piece that comes.
    const news = `${what} ${counts.done === undefined || !counts.total ? '' : Math.floor((100 * counts.done) / counts.total)}`;
    if (news === last) return;
    last = news;
    call.reply({ progress: { what, ...counts } });
  };
}

function countsOf(progress: ImageProgress): { readonly done?: number; readonly total?: number } {
  if (progress.kind === 'packages' || progress.kind === 'unpack') {
    return { done: progress.done, total: progress.count };
  }
  if (progress.kind !== 'download') return {};
  return { done: progress.received, ...(progress.total ? { total: progress.total } : {}) };
}
