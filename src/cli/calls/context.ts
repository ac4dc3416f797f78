/** The context in which methods of the API are answered. */
import type { Methods } from '../../api/io-kiln.ts';
import type { Call } from '../../daemon/call.ts';
import type { OwnEngine } from '../../engine.ts';
import type { OnImageProgress } from '../../image/progress.ts';
import { describeProgress, type ImageProgress } from '../../image/progress.ts';
import type { Caller } from '../caller/caller.ts';
import type { OpenSandboxes } from './open-sandboxes.ts';

/** State that only the daemon's own thread has. */
export interface DaemonState {
  readonly sandboxes: OpenSandboxes;
  /** Calls that are being answered, by the names of their commands. */
  readonly calls: Map<string, Call>;
  /** Has a worker make an image. @throws what that throws */
  makeImage(call: Call, image: string): Promise<void>;
  /** Notes the removal of a sandbox, for which nobody waits. */
  removing(removal: Promise<void>): void;
}

export interface CallContext {
  readonly call: Call;
  /** The caller, without a command line: paths are absolute. */
  readonly caller: OptionCaller;
  /** Undefined in a worker. */
  readonly daemon: DaemonState | undefined;
  openEngine(): OwnEngine;
  /** Notes a change of the store. */
  storeChanged(): void;
  /** Reports a warning. */
  readonly warn: (text: string) => void;
  /** Reports the progress of making an image. */
  readonly onProgress: OnImageProgress;
}

/** The parts of a caller that options of commands use. */
export type OptionCaller = Pick<Caller, 'env' | 'cwd' | 'variable' | 'ids' | 'environment'>;

export type Name = keyof Methods;

/** Answers a call and sends its last reply. */
export type Answer<Method extends Name> = (
  parameters: Methods[Method]['parameters'],
  context: CallContext,
) => Promise<Methods[Method]['reply']>;

/** Reports news about making an image. */
export function progressTo(call: Call): OnImageProgress {
  let last = '';
  return (progress) => {
    const what = describeProgress(progress);
    const counts = countsOf(progress);
    // A download reports every piece.
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
