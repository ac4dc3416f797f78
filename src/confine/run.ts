/** Runs work on untrusted bytes in a confined child and hands back what it says, checked. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { KilnError } from '../errors.ts';
import { reasonLine } from '../kernel/system-error.ts';
import { span } from '../trace/trace.ts';
import { rebuildError } from './flat-error.ts';
import { encodeFrame, FrameDecoder } from './frame.ts';
import { type Handout, MAX_GROUP } from './handout.ts';
import { launchConfined, stopConfined } from './launch.ts';
import type { Standby } from './standby.ts';
import { type ConfinedLimits, type ConfinedRequest, defaultLimits } from './task.ts';

/** Bytes of the child's stderr kept for an error message. */
const MAX_LOG = 8192;

type Validate<Output> = (value: unknown) => Output;

export interface ConfinedOptions<Output> {
  /** A name of the table in src/confined.ts. */
  readonly task: string;
  /** JSON for the task. */
  readonly input: unknown;
  /**
   * Turns a message of the child, which is untrusted, into an Output or throws. May be a promise:
   * what takes long to load is loaded while the child starts.
   */
  readonly validate: Validate<Output> | Promise<Validate<Output>>;
  /** An existing directory that becomes the child's root; files get the owners the child gives. */
  readonly destination?: string | undefined;
  /** Open files for the child; they stay open here. */
  readonly fds?: readonly number[];
  /**
   * Instead of `fds`: files that come later, for this child or others; it is done once the handout has
   * ended. With a `standby`, it is that one's.
   */
  readonly handout?: Handout | undefined;
  readonly limits?: Partial<ConfinedLimits>;
  /** Bytes that one message of the child may have; a package with all its files fits by default. */
  readonly longestMessage?: number;
  readonly signal?: AbortSignal | undefined;
  /** A program that calls serveConfined with its own tasks; default src/confined.ts. */
  readonly entry?: string;
  /** A child that waits for this task already, unless it has been used; not with a destination. */
  readonly standby?: Standby | undefined;
}

/**
 * Runs a task in a child of its own and yields its messages as they come. The child is dead, and
 * cannot write any more, when the iteration ends, whichever way it ends.
 *
 * @throws the KilnError the task threw; E_CONFINE_START, E_CONFINE_DIED (crash, out of memory, out
 *   of processor time), E_CONFINE_TIMEOUT, E_CONFINE_PROTOCOL (it sent what `validate` refused);
 *   the signal's reason.
 */
export async function* runConfined<Output>(
  options: ConfinedOptions<Output>,
): AsyncGenerator<Output, void, undefined> {
  options.signal?.throwIfAborted();
  using _ = span(`confined: ${options.task}`);
  const limits = { ...defaultLimits, ...options.limits };
  const { handout, task } = options;
  const fds = options.fds ?? [];
  const waiting = options.destination === undefined ? options.standby?.take() : undefined;
  const child =
    waiting?.child ??
    launchConfined({
      destination: options.destination,
      fds: handout === undefined ? fds : [handout.childEnd],
      entry: options.entry,
      ahead: task,
    });
  const request: ConfinedRequest = {
    task,
    input: options.input,
    fdCount: handout === undefined ? fds.length : MAX_GROUP,
    fdsFollow: waiting !== undefined && handout === undefined,
    arriving: handout !== undefined,
    destination: options.destination !== undefined,
    limits,
  };
  const watch = watchChild(child, limits.wallMs, options.signal);
  let finished = false;
  let over = false;
  try {
    for await (const reply of replies(child, options.longestMessage)) {
      switch (reply.type) {
        case 'ready':
          child.stdin?.end(encodeFrame(request), () => {
            // Not before: the child takes nothing else until it has seen the request's end.
            if (!over && request.fdsFollow) waiting?.hand(fds);
          });
          break;
        case 'message': {
          const message = checkedMessage(options.task, await options.validate, reply.value);
          // Of files that arrive there are any number. What `validate` makes nothing of is no answer.
          if (handout !== undefined && message !== undefined) watch.again();
          yield message;
          break;
        }
        case 'failed':
          throw rebuildError(reply.error);
        case 'done':
          finished = true;
          break;
        default:
          throw new KilnError('E_CONFINE_PROTOCOL', 'a confined child sent an unknown reply');
      }
      if (finished) return;
    }
    throw watch.reason() ?? (await diedError(child, options.task, watch.log()));
  } finally {
    over = true;
    await stopConfined(child);
    watch.end();
  }
}

async function* replies(
  child: ChildProcess,
  longest: number | undefined,
): AsyncGenerator<Record<string, unknown>> {
  const decoder = new FrameDecoder(longest);
  const pipe = child.stdio[3] as Readable;
  // Not destroyed on the way out: stop() waits for its end, the proof that the child is gone.
  for await (const chunk of pipe.iterator({ destroyOnReturn: false })) {
    for (const reply of decoder.push(chunk)) {
      if (typeof reply !== 'object' || reply === null) {
        throw new KilnError('E_CONFINE_PROTOCOL', 'a confined child sent no object');
      }
      yield reply as Record<string, unknown>;
    }
  }
}

function checkedMessage<Output>(task: string, validate: Validate<Output>, value: unknown): Output {
  try {
    return validate(value);
  } catch (cause) {
    if (cause instanceof KilnError) throw cause;
    const message = `the confined child for '${task}' sent what it must not send`;
    const hint = 'the file is probably broken or hostile';
    throw new KilnError('E_CONFINE_PROTOCOL', message, { cause: shortCause(cause), hint });
  }
}

/** A schema's refusal in one line: what it refuses may be megabytes. */
function shortCause(cause: unknown): Error {
  return new Error(cause instanceof Error ? reasonLine(cause).slice(0, 500) : String(cause));
}

/** Kills the child when time is up or the caller gives up, and keeps the end of its stderr. */
function watchChild(child: ChildProcess, wallMs: number, signal: AbortSignal | undefined) {
  let reason: unknown;
  let log = '';
  const kill = (why: unknown) => {
    reason ??= why;
    child.kill('SIGKILL');
  };
  const timer = setTimeout(() => {
    kill(new KilnError('E_CONFINE_TIMEOUT', `a confined child took longer than ${wallMs} ms`));
  }, wallMs);
  const onAbort = () => kill(signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  // A child that dies early closes the pipe under our request; its death is reported instead.
  child.stdin?.on('error', () => {});
  child.on('error', kill);
  child.stderr?.on('data', (chunk: Buffer) => {
    log = (log + chunk.toString('latin1')).slice(-MAX_LOG);
  });
  return {
    reason: () => reason,
    log: () => log,
    /** The time begins anew. */
    again: () => void timer.refresh(),
    end: () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    },
  };
}

async function diedError(child: ChildProcess, task: string, log: string): Promise<KilnError> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  const how = child.signalCode ?? `exit status ${child.exitCode}`;
  const text = log.replace(/[^\n\x20-\x7e]/g, '?').trim();
  return new KilnError('E_CONFINE_DIED', `the confined child for '${task}' died (${how})`, {
    ...(text === '' ? {} : { cause: new Error(text) }),
    hint: 'the file is probably broken or hostile; KILN_DEBUG=1 shows more',
    details: { task, exitCode: child.exitCode, signal: child.signalCode },
  });
}
