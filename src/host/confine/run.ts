import type { ChildProcess } from 'node:child_process';
import { addAbortListener, once } from 'node:events';
import type { Readable } from 'node:stream';
import { KilnError } from '../../errors.ts';
import { reasonLine } from '../calls/system-error.ts';
import { killedForMemory, OUT_OF_MEMORY, OUT_OF_MEMORY_HINT } from '../cgroup/work-group.ts';
import { noteDone } from '../process/work.ts';
import { span } from '../trace/trace.ts';
import { childFilter } from './filter.ts';
import { encodeFrame, FrameDecoder, rebuildError } from './frame.ts';
import { launchConfined, stopConfined } from './launch.ts';
import { type ConfinedLimits, type ConfinedRequest, defaultLimits } from './task.ts';

const MAX_LOG = 8192;

/** What a file can do to the child that reads it. */
export const FAULTS_OF_A_FILE = [
  'E_CONFINE_DIED',
  'E_CONFINE_TIMEOUT',
  'E_CONFINE_PROTOCOL',
] as const;

export interface ConfinedStart {
  readonly task: string;
  readonly input: unknown;
  readonly destination?: string | undefined;
  readonly limits?: Partial<ConfinedLimits>;
  readonly longestMessage?: number;
  readonly signal?: AbortSignal | undefined;
  readonly entry?: string;
  /** See LaunchOptions. */
  readonly ids?: { readonly base: number; readonly count: number };
  readonly command?: readonly string[];
  /** See LaunchOptions; the input is a Buffer. */
  readonly program?: string;
}

export type ChildReply =
  | { readonly type: 'message'; readonly value: unknown }
  | { readonly type: 'answered'; readonly value?: unknown; readonly error?: unknown };

/** Killed when its time is up or the caller gives up. Disposing waits until it is dead. */
export class ConfinedChild implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #start: ConfinedStart;
  readonly #timer: NodeJS.Timeout;
  readonly #abort: Disposable | undefined;
  #log = '';
  #reason: unknown;
  /** A queue's child has read what all its work has in common, such as keys. */
  hasBegun = false;

  constructor(start: ConfinedStart, child: ChildProcess, fdCount: number) {
    const { input, destination, signal } = start;
    this.#start = start;
    const limits = { ...defaultLimits, ...start.limits };
    this.#child = child;
    const late = () =>
      new KilnError('E_CONFINE_TIMEOUT', `a confined child took longer than ${limits.wallMs} ms`);
    this.#timer = setTimeout(() => this.fail(late()), limits.wallMs);
    this.#abort = signal && addAbortListener(signal, () => this.fail(signal.reason));
    child.on('error', (error) => this.fail(error));
    child.stderr?.on('data', (chunk: Buffer) => {
      this.#log = (this.#log + chunk.toString('latin1')).slice(-MAX_LOG);
    });
    // A child that dies early closes the pipe while the request is sent. Its death is reported instead.
    child.stdin?.on('error', () => undefined);
    const isRooted = destination !== undefined;
    const filter = childFilter();
    const request: ConfinedRequest = { input, limits, fdCount, destination: isRooted, filter };
    child.stdin?.end(Buffer.isBuffer(input) ? input : encodeFrame(request));
  }

  again(): void {
    this.#timer.refresh();
  }

  fail(why: unknown): void {
    this.#reason ??= why;
    this.#child.kill('SIGKILL');
  }

  async *replies(): AsyncGenerator<ChildReply, void, undefined> {
    const decoder = new FrameDecoder(this.#start.longestMessage);
    const pipe = this.#child.stdio[3] as Readable;
    // The pipe stays open here: stopConfined() waits for its end, which proves that the child is gone.
    for await (const chunk of pipe.iterator({ destroyOnReturn: false })) {
      for (const frame of decoder.push(chunk)) {
        const reply = takeReply(frame);
        if (reply.type === 'done') return;
        if (reply.type === 'failed') throw rebuildError(reply.error);
        if (reply.type === 'begun') this.hasBegun = true;
        else if (reply.type === 'progress') noteDone(countOf(reply.done));
        else yield reply as ChildReply;
      }
    }
    throw this.#reason ?? (await this.#death());
  }

  async #death(): Promise<KilnError> {
    const { task } = this.#start;
    const child = this.#child;
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    const how = child.signalCode ?? `exit status ${child.exitCode}`;
    // Node ends with 0 when nothing is left to wait for.
    const what = child.exitCode === 0 ? 'stopped before its work was done' : 'died';
    const died = `the confined child for '${task}' ${what}`;
    if (child.signalCode === 'SIGKILL' && killedForMemory()) {
      return new KilnError('E_CONFINE_DIED', `${died}: ${OUT_OF_MEMORY}`, {
        hint: OUT_OF_MEMORY_HINT,
      });
    }
    const log = Buffer.from(this.#log, 'latin1').toString();
    const text = log.replace(/[^\n\P{C}]/gu, '?').trim();
    return new KilnError('E_CONFINE_DIED', `${died} (${how})`, {
      ...(text === '' ? {} : { cause: new Error(text) }),
      hint: 'the file is probably broken or hostile; KILN_DEBUG=1 shows more',
      details: { task, exitCode: child.exitCode, signal: child.signalCode },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await stopConfined(this.#child);
    clearTimeout(this.#timer);
    this.#abort?.[Symbol.dispose]();
  }
}

const REPLIES = ['begun', 'progress', 'message', 'answered', 'done', 'failed'];

/** It is shown, and no more. @throws KilnError E_CONFINE_PROTOCOL */
function countOf(done: unknown): number {
  if (Number.isSafeInteger(done) && Number(done) >= 0) return Number(done);
  throw new KilnError('E_CONFINE_PROTOCOL', 'a confined child sent no count');
}

function takeReply(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null) {
    throw new KilnError('E_CONFINE_PROTOCOL', 'a confined child sent no object');
  }
  const reply = value as Record<string, unknown>;
  if (REPLIES.includes(String(reply.type))) return reply;
  throw new KilnError('E_CONFINE_PROTOCOL', 'a confined child sent an unknown reply');
}

export function checked<Result>(task: string, take: () => Result): Result {
  try {
    return take();
  } catch (cause) {
    if (cause instanceof KilnError) throw cause;
    const message = `the confined child for '${task}' sent what it must not send`;
    const hint = 'the file is probably broken or hostile';
    const why = cause instanceof Error ? reasonLine(cause).slice(0, 500) : String(cause);
    throw new KilnError('E_CONFINE_PROTOCOL', message, { cause: new Error(why), hint });
  }
}

export function unaskedError(): KilnError {
  const message = 'a confined process answered a question that kiln did not ask';
  return new KilnError('E_CONFINE_PROTOCOL', message);
}

export interface ConfinedOptions<Output> extends ConfinedStart {
  readonly validate: (value: unknown) => Output;
  readonly fds?: readonly number[];
}

/**
 * Runs a task in a child of its own and yields its messages. The child is dead when the iteration ends in any
 * way.
 * @throws the KilnError the task threw; E_CONFINE_START, E_CONFINE_DIED (crash, out of memory, out of processor
 * time), E_CONFINE_TIMEOUT, E_CONFINE_PROTOCOL (it sent what `validate` refused); the signal's reason.
 */
export async function* runConfined<Output>(
  options: ConfinedOptions<Output>,
): AsyncGenerator<Output, void, undefined> {
  const { task, fds = [], validate } = options;
  using _ = span(`confined: ${task}`);
  options.signal?.throwIfAborted();
  await using child = new ConfinedChild(options, launchConfined({ ...options, fds }), fds.length);
  for await (const reply of child.replies()) {
    if (reply.type !== 'message') throw unaskedError();
    yield checked(task, () => validate(reply.value));
  }
}

/** The same for a task that sends one message: that one. @throws also E_CONFINE_PROTOCOL if there is none */
export async function askConfined<Output>(options: ConfinedOptions<Output>): Promise<Output> {
  let answer: { readonly value: Output } | undefined;
  for await (const value of runConfined(options)) answer = { value };
  if (answer !== undefined) return answer.value;
  const message = `the confined child for '${options.task}' said nothing`;
  throw new KilnError('E_CONFINE_PROTOCOL', message);
}
