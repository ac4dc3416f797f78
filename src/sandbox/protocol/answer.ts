/**
 * The wire format between kiln and the guest init: see src/guest/protocol.h, whose numbers these
 * are. What comes back is measured and sent by the init, but is still treated as hostile: bounded,
 * checked, never trusted to be well-formed.
 */
import { KilnError } from '../../errors.ts';

/** No answer of the init is longer: its buffer is 64 KiB. */
const ANSWER_MAX = 64 << 10;
const ANSWER = {
  ready: 101,
  started: 102,
  exited: 103,
  failed: 104,
  quiet: 105,
  done: 106,
  notify: 107,
} as const;

/** A kind of system call that the filter refused, as the init counted it. */
export interface RefusedCall {
  /** AUDIT_ARCH_… of linux/audit.h */
  readonly architecture: number;
  readonly number: number;
  /** SECCOMP_RET_… with its data */
  readonly action: number;
  readonly count: number;
}

/** What the init answers. `facts` are lines NAME=VALUE. */
export type Answer =
  | { readonly type: 'ready'; readonly facts: string }
  | { readonly type: 'started'; readonly id: number; readonly pid: number; readonly facts: string }
  | {
      readonly type: 'exited';
      readonly id: number;
      /** As wait(2) gives it. */
      readonly status: number;
      readonly userMicroseconds: number;
      readonly systemMicroseconds: number;
      readonly peakRssBytes: number;
      readonly refused: readonly RefusedCall[];
    }
  | { readonly type: 'failed'; readonly id: number; readonly errno: number; readonly what: string }
  | { readonly type: 'quiet' }
  /** A request of control.ts was obeyed. */
  | { readonly type: 'done'; readonly id: number; readonly value: number }
  /** A process of the box used sd_notify(3). */
  | { readonly type: 'notify'; readonly pid: number; readonly text: string };

/** Cuts a stream of bytes into answers. Throws E_PROTOCOL at the first that is malformed. */
export class AnswerDecoder {
  #pending: Buffer = Buffer.alloc(0);

  push(chunk: Buffer): Answer[] {
    this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    const answers: Answer[] = [];
    while (this.#pending.length >= 8) {
      const length = this.#pending.readUInt32LE(0);
      if (length > ANSWER_MAX) throw malformed(`an answer of ${length} bytes`);
      if (this.#pending.length < 8 + length) break;
      answers.push(decode(this.#pending.readUInt32LE(4), this.#pending.subarray(8, 8 + length)));
      this.#pending = this.#pending.subarray(8 + length);
    }
    return answers;
  }
}

function malformed(what: string): KilnError {
  return new KilnError('E_PROTOCOL', `the guest init sent ${what}`, {
    hint: 'the box was taken over or kiln-init is of another version; the box is destroyed',
  });
}

function decode(type: number, payload: Buffer): Answer {
  const fields = new Map<number, Buffer>();
  for (let at = 0; at < payload.length; ) {
    if (payload.length - at < 8) throw malformed('a cut field');
    const length = payload.readUInt32LE(at + 4);
    if (length > payload.length - at - 8) throw malformed('a field longer than its message');
    fields.set(payload.readUInt32LE(at), payload.subarray(at + 8, at + 8 + length));
    at += 8 + length;
  }
  const number = (tag: number): number => {
    const field = fields.get(tag);
    if (field?.length === 4) return field.readUInt32LE(0);
    if (field?.length === 8) return Number(field.readBigUInt64LE(0));
    throw malformed(`an answer ${type} without field ${tag}`);
  };
  const string = (tag: number): string => fields.get(tag)?.toString('utf8') ?? '';
  switch (type) {
    case ANSWER.ready:
      return { type: 'ready', facts: string(6) };
    case ANSWER.started:
      return { type: 'started', id: number(1), pid: number(2), facts: string(6) };
    case ANSWER.exited:
      return {
        type: 'exited',
        id: number(1),
        status: number(3),
        userMicroseconds: number(7),
        systemMicroseconds: number(8),
        peakRssBytes: number(9),
        refused: refusedCalls(fields.get(10) ?? Buffer.alloc(0)),
      };
    case ANSWER.failed:
      return { type: 'failed', id: number(1), errno: number(4), what: string(5) };
    case ANSWER.quiet:
      return { type: 'quiet' };
    case ANSWER.done:
      return { type: 'done', id: number(1), value: number(2) };
    case ANSWER.notify:
      return { type: 'notify', pid: number(2), text: string(5) };
    default:
      throw malformed(`an answer of unknown type ${type}`);
  }
}

/** struct refused[] of src/guest/filter.h. */
function refusedCalls(bytes: Buffer): RefusedCall[] {
  if (bytes.length % 16 !== 0) throw malformed('a cut list of refused calls');
  return Array.from({ length: bytes.length / 16 }, (_, i) => ({
    architecture: bytes.readUInt32LE(16 * i),
    number: bytes.readInt32LE(16 * i + 4),
    action: bytes.readUInt32LE(16 * i + 8),
    count: bytes.readUInt32LE(16 * i + 12),
  }));
}
