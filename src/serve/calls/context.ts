/** What a method of the API is given, and what it gives back. */
import type { Methods } from '../../api/io-kiln.ts';
import type { OptionCaller } from '../../cli/caller/caller.ts';
import type { Call } from '../../daemon/call.ts';
import type { EngineOptions, OwnEngine } from '../../engine.ts';
import { describeProgress, type OnImageProgress, progressCounts } from '../../image/progress.ts';
import type { OpenSandboxes } from './open-sandboxes.ts';

/** Of a call that a worker has answered. */
export const ANSWERED = Symbol('answered');

export interface CallsState {
  readonly sandboxes: OpenSandboxes;
  readonly calls: Map<string, Call>;
  /** When nothing else starts. */
  removeLater(remove: () => Promise<void>): void;
  /** Resolves when that is done, or takes long. */
  removed(): Promise<void>;
}

export interface DaemonState extends CallsState {
  /** Has a worker answer another call, as a part of this one. @returns its reply */
  part<Method extends Name>(
    call: Call,
    method: Method,
    parameters: Methods[Method]['parameters'],
  ): Promise<Methods[Method]['reply']>;
  /** Has a worker answer a call that is not short. */
  work(call: Call): Promise<typeof ANSWERED>;
}

export interface CallContext {
  readonly call: Call;
  /** The caller, without a command line: paths are absolute. */
  readonly caller: OptionCaller;
  readonly daemon: DaemonState | undefined;
  /** The caller's share is used until then, after the call if need be. */
  hold(until: Promise<void>): void;
  openEngine(options?: EngineOptions): OwnEngine;
  readonly storeChanged: () => void;
  readonly warn: (text: string) => void;
  readonly onProgress: OnImageProgress;
}

export type Name = keyof Methods;

export type Answer<Method extends Name> = (
  parameters: Methods[Method]['parameters'],
  context: CallContext,
) => Promise<Methods[Method]['reply'] | typeof ANSWERED>;

export function progressTo(call: Call): OnImageProgress {
  let last = '';
  return (progress) => {
    const what = describeProgress(progress);
    const counts = progressCounts(progress);
    // A download reports every piece.
    const news = `${what} ${counts.done === undefined || !counts.total ? '' : Math.floor((100 * counts.done) / counts.total)}`;
    if (news === last) return;
    last = news;
    call.reply({ progress: { what, ...counts } });
  };
}
