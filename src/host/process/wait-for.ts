/**
 * Waits for another process that may never answer: it is stopped (SIGSTOP), hangs, or lacks memory. The user is
 * told after a while whom kiln waits for, and the wait ends after a longer time.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { deferred } from '../../promise.ts';
import { ownEnvironment, tellOwner } from './own-process.ts';
import { isStopped } from './process.ts';

/** What a timer can wait for, 24 days: with more it would not wait at all. */
export const LONGEST_WAIT = 2 ** 31 - 1;

/** Milliseconds, unless KILN_PATIENCE (seconds) says otherwise. */
const PATIENCE = 60_000;

/** Milliseconds, or a third of the patience. */
const SAY_AFTER = 5000;

/** Milliseconds that a process which is not stopped gets after an abort. */
const GRACE = 2000;

const LOOK = 1000;

export interface Awaited {
  readonly name: string;
  readonly pid?: number | undefined;
}

export interface WaitOptions {
  readonly whom?: () => Awaited;
  readonly code: ErrorCode;
  readonly hint: string;
  readonly endAfter?: number;
  /** The last sign of life, monotonic ms; the beginning of the wait by default. */
  readonly since?: () => number;
}

interface WaitContext {
  readonly endAfter?: number | undefined;
  /** KILN_PATIENCE of the caller, seconds; this process's own by default. */
  readonly patience?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly say?: (text: string) => void;
}

const contexts = new AsyncLocalStorage<WaitContext>();

const interruption = new AbortController();

const awaited = new Set<() => Awaited>();

const told = new Map<(text: string) => void, Map<string, number>>();

export function patience(): number {
  const seconds = Number(contexts.getStore()?.patience ?? ownEnvironment.KILN_PATIENCE);
  return seconds > 0 ? seconds * 1000 : PATIENCE;
}

export function sayAfter(): number {
  return Math.min(SAY_AFTER, patience() / 3);
}

export function withWaits<Result>(
  context: WaitContext,
  task: () => Promise<Result>,
): Promise<Result> {
  return contexts.run({ ...contexts.getStore(), ...context }, task);
}

export function endWaits(reason: Error): void {
  interruption.abort(reason);
}

export function hasEndedWaits(): boolean {
  return interruption.signal.aborted;
}

function sentence(
  { name, pid }: Awaited,
  what = 'which does not answer',
): { readonly why: string; readonly mend?: string } {
  if (pid === undefined || !isStopped(pid)) return { why: `${name}, ${what}` };
  return { why: `${name}, which is stopped`, mend: `\`kill -CONT ${pid}\` lets it go on` };
}

export function sayToWaiting(text: string): void {
  (contexts.getStore()?.say ?? tellOwner)(text);
}

/** Says it after a while, until it is disposed of. */
export function sayLater(whom: Awaited, what: string): Disposable {
  const said = new DisposableStack();
  const late = setTimeout(() => said.defer(sayWaiting(whom, what)), sayAfter());
  said.use(late);
  return said;
}

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

/** A clock that runs only while a process is stopped, because a working one may take long. */
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
 * The result of `work`, for which another process must do something. A late result is the caller's to handle.
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
