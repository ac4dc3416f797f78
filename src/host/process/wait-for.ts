/**
 * Waits for another process that may never answer, because it is stopped (SIGSTOP), hangs, or lacks memory.
 * Every such wait tells the user after a while whom it waits for, and ends after a longer time.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { deferred } from '../../promise.ts';
import { ownEnvironment, tellOwner } from './own-process.ts';
import { isStopped } from './process.ts';

/** How long another process may be silent, ms, unless KILN_PATIENCE (seconds) says otherwise. */
const PATIENCE = 60_000;

/** After this time, or a third of the patience if that is shorter, the user is told whom kiln waits for, ms. */
const SAY_AFTER = 5000;

/** How long a process that is not stopped may continue after an abort, ms. */
const GRACE = 2000;

/** Longest pause between two looks at the clock, ms. */
const LOOK = 1000;

/** The process that is waited for. */
export interface Awaited {
  /** The name in messages, such as `libvirtd (pid 1234, embedded)`. */
  readonly name: string;
  /** The pid on this host, where it is known. */
  readonly pid?: number | undefined;
}

export interface WaitOptions {
  /**
   * The process that is waited for; called only when the user is told. By default, whatever an outer wait
   * names.
   */
  readonly whom?: () => Awaited;
  readonly code: ErrorCode;
  /** What to do when the process is not stopped. */
  readonly hint: string;
  /** How long the wait may last, ms; {@link patience} unless given. */
  readonly endAfter?: number;
  /** The last sign of life, monotonic ms; the beginning of the wait by default. */
  readonly since?: () => number;
}

/** Settings for all waits inside {@link withWaits}. */
interface WaitContext {
  /** No wait lasts longer than this, ms. */
  readonly endAfter?: number | undefined;
  /** `KILN_PATIENCE` of the caller, in seconds; this process's own by default. */
  readonly patience?: string | undefined;
  /** Aborts the waits. A process that is not stopped gets two more seconds. */
  readonly signal?: AbortSignal | undefined;
  /** Where the user is told; stderr by default. */
  readonly say?: (text: string) => void;
}

const contexts = new AsyncLocalStorage<WaitContext>();

/** Aborted when this process as a whole was interrupted. */
const interruption = new AbortController();

/** The waits of this process. */
const awaited = new Set<() => Awaited>();

/** What each listener was told already, so that it is told once. */
const told = new Map<(text: string) => void, Map<string, number>>();

/** How long another process may be silent, ms. `KILN_PATIENCE` is in seconds. */
export function patience(): number {
  const seconds = Number(contexts.getStore()?.patience ?? ownEnvironment.KILN_PATIENCE);
  return seconds > 0 ? seconds * 1000 : PATIENCE;
}

/** After how long the user is told whom kiln waits for, ms. */
export function sayAfter(): number {
  return Math.min(SAY_AFTER, patience() / 3);
}

/** Runs `task`. Its waits by {@link waitFor} end after the shorter time, or with the signal's reason. */
export function withWaits<Result>(
  context: WaitContext,
  task: () => Promise<Result>,
): Promise<Result> {
  return contexts.run({ ...contexts.getStore(), ...context }, task);
}

/** Ends all waits of this process, now and from now on, with `reason`: the process was interrupted. */
export function endWaits(reason: Error): void {
  interruption.abort(reason);
}

/** Whether {@link endWaits} was called, so that this process can wait no more. */
export function hasEndedWaits(): boolean {
  return interruption.signal.aborted;
}

/** The text for a wait that takes long, or took too long. */
function sentence(
  { name, pid }: Awaited,
  what = 'which does not answer',
): { readonly why: string; readonly mend?: string } {
  if (pid === undefined || !isStopped(pid)) return { why: `${name}, ${what}` };
  return { why: `${name}, which is stopped`, mend: `\`kill -CONT ${pid}\` lets it go on` };
}

/** Tells a text to the listener of {@link withWaits}. */
export function sayToWaiting(text: string): void {
  (contexts.getStore()?.say ?? tellOwner)(text);
}

/** Tells whom kiln waits for, once for all who wait. Call the result at the end of the wait. */
export function sayWaiting(whom: Awaited, what?: string): () => void {
  const say = contexts.getStore()?.say ?? tellOwner;
  const names = told.get(say) ?? new Map<string, number>();
  told.set(say, names);
  const waits = names.get(whom.name) ?? 0;
  names.set(whom.name, waits + 1);
  if (waits === 0) {
    const { why, mend } = sentence(whom, what);
    say(`kiln: waiting for ${why}${mend === undefined ? '' : `: ${mend}`}\n`);
  }
  return () => {
    const left = (names.get(whom.name) ?? 1) - 1;
    if (left > 0) names.set(whom.name, left);
    else names.delete(whom.name);
    if (names.size === 0) told.delete(say);
  };
}

/**
 * A clock for {@link waitFor} that runs only while a process is stopped, because a working process may take
 * long.
 */
export function stoppedSince(pid: () => number | undefined): () => number {
  let last = performance.now();
  return () => {
    const process = pid();
    if (process !== undefined && !isStopped(process)) last = performance.now();
    return last;
  };
}

function somebody(): Awaited {
  const [whom] = awaited;
  return whom?.() ?? { name: 'another process' };
}

/**
 * The result of `work`, for which another process must do something. If the wait ends first, the caller handles
 * the late result.
 * @throws KilnError of `code` when the wait lasted too long; the reason of an abort
 */
export async function waitFor<Result>(
  work: Promise<Result>,
  { whom: named, code, hint, endAfter = patience(), since: signOfLife }: WaitOptions,
): Promise<Result> {
  const whom = named ?? somebody;
  if (named !== undefined) awaited.add(named);
  const context = contexts.getStore();
  const end = Math.min(endAfter, context?.endAfter ?? Number.POSITIVE_INFINITY);
  const say = Math.min(sayAfter(), end);
  const began = performance.now();
  const over = deferred<never>();
  let timer: NodeJS.Timeout | undefined;
  let untell: (() => void) | undefined;
  const look = () => {
    const quiet = performance.now() - (signOfLife?.() ?? began);
    if (quiet >= end) {
      const { why, mend } = sentence(whom());
      const waited = quiet < 10_000 ? (quiet / 1000).toFixed(1) : Math.round(quiet / 1000);
      over.reject(
        new KilnError(code, `gave up waiting for ${why}, after ${waited} s`, {
          hint: mend ?? hint,
        }),
      );
      return;
    }
    if (quiet >= say) untell ??= sayWaiting(whom());
    timer = setTimeout(look, Math.min(Math.max((quiet < say ? say : end) - quiet, 1), LOOK));
  };
  timer = setTimeout(look, Math.min(say, LOOK));
  let grace: NodeJS.Timeout | undefined;
  const signals = [interruption.signal, context?.signal].filter((signal) => signal !== undefined);
  const abort = () => {
    const reason = signals.find(({ aborted }) => aborted)?.reason;
    const { pid } = whom();
    const wait = pid !== undefined && isStopped(pid) ? 0 : GRACE;
    grace ??= setTimeout(() => over.reject(reason), wait);
  };
  for (const signal of signals) signal.addEventListener('abort', abort);
  if (signals.some(({ aborted }) => aborted)) abort();
  try {
    return await Promise.race([work, over.promise]);
  } finally {
    for (const signal of signals) signal.removeEventListener('abort', abort);
    clearTimeout(timer);
    clearTimeout(grace);
    if (named !== undefined) awaited.delete(named);
    untell?.();
  }
}
