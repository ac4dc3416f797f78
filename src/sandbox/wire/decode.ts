/** Reads the answers of an init. They are hostile until they match the wire's table. */
import { KilnError } from '../../errors.ts';
import { isOfKind, isWholeUnits } from './encode.ts';
import {
  ANSWERS,
  type Answer,
  FIELDS,
  type FieldName,
  type Message,
  type Part,
  type Times,
  WIRE,
} from './table.ts';

const answers = new Map<number, readonly [string, Message]>(
  Object.entries(ANSWERS).map(([name, message]) => [message.type, [name, message]]),
);
const fieldNames = new Map<number, FieldName>(
  Object.entries(FIELDS).map(([name, { tag }]) => [tag, name as FieldName]),
);

export class AnswerDecoder {
  #pending: Buffer = Buffer.alloc(0);

  push(chunk: Buffer): Answer[] {
    this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    const found: Answer[] = [];
    while (this.#pending.length >= 8) {
      const length = this.#pending.readUInt32LE(0);
      if (length > WIRE.answer) throw malformedError(`an answer of ${length} bytes`);
      if (this.#pending.length < 8 + length) break;
      found.push(decode(this.#pending.readUInt32LE(4), this.#pending.subarray(8, 8 + length)));
      this.#pending = this.#pending.subarray(8 + length);
    }
    return found;
  }
}

function malformedError(what: string): KilnError {
  return new KilnError('E_PROTOCOL', `the sandbox’s init sent what it must not send: ${what}`, {
    hint: 'the sandbox was taken over or kiln-init is of another version; the sandbox is destroyed',
  });
}

function decode(type: number, payload: Buffer): Answer {
  const [name, message] = answers.get(type) ?? [];
  if (name === undefined || message === undefined)
    throw malformedError(`an answer of type ${type}`);
  const found: Record<string, unknown> = { type: name };
  for (const [field, [, most]] of Object.entries<Times>(message.fields)) {
    if (most > 1) found[field] = [];
  }
  const times = new Map<FieldName, number>();
  for (let at = 0; at < payload.length; ) {
    if (payload.length - at < 8) throw malformedError(`${name}: a cut field`);
    const tag = payload.readUInt32LE(at);
    const length = payload.readUInt32LE(at + 4);
    if (length > payload.length - at - 8) throw malformedError(`${name}: a field beyond its end`);
    const field = fieldNames.get(tag);
    const [, most] = (field && message.fields[field]) ?? [];
    if (field === undefined || most === undefined) throw malformedError(`${name}: field ${tag}`);
    const count = (times.get(field) ?? 0) + 1;
    if (count > most) throw malformedError(`${name}: ${field} more than ${most} times`);
    times.set(field, count);
    const bytes = payload.subarray(at + 8, at + 8 + length);
    const parts = decodeField(`${name}: ${field}`, field, bytes);
    if (most > 1) (found[field] as unknown[]).push(parts);
    else Object.assign(found, parts);
    at += 8 + length;
  }
  for (const [field, [least]] of Object.entries<Times>(message.fields)) {
    if ((times.get(field as FieldName) ?? 0) < least)
      throw malformedError(`${name} without ${field}`);
  }
  return found as unknown as Answer;
}

function decodeField(whose: string, field: FieldName, bytes: Buffer): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  let at = 0;
  for (const [name, part] of Object.entries<Part>(FIELDS[field].parts)) {
    const decoded = decodePart(part, bytes.subarray(at));
    if (decoded === undefined) throw malformedError(`${whose} with another ${name}`);
    found[name] = decoded.value;
    at += decoded.length;
  }
  if (at !== bytes.length) throw malformedError(`${whose} with more than is its`);
  return found;
}

function decodePart(part: Part, bytes: Buffer) {
  switch (part.kind) {
    case 'u32': {
      if (bytes.length < 4) return undefined;
      const value = bytes.readUInt32LE(0);
      return value <= part.most ? { value, length: 4 } : undefined;
    }
    case 'i32':
      return bytes.length < 4 ? undefined : { value: bytes.readInt32LE(0), length: 4 };
    case 'u64': {
      if (bytes.length < 8) return undefined;
      const value = bytes.readBigUInt64LE(0);
      if (value === 0xffff_ffff_ffff_ffffn) return { value: Infinity, length: 8 };
      return value <= Number.MAX_SAFE_INTEGER ? { value: Number(value), length: 8 } : undefined;
    }
    case 'choice': {
      if (bytes.length < 4) return undefined;
      const number = bytes.readUInt32LE(0);
      const [value] = Object.entries(part.of).find(([, known]) => known === number) ?? [];
      return value === undefined ? undefined : { value, length: 4 };
    }
    case 'text':
    case 'path':
    case 'name': {
      const end = bytes.indexOf(0);
      if (end < 0 || end > part.most) return undefined;
      const value = bytes.toString('utf8', 0, end);
      return isOfKind(part.kind, value) ? { value, length: end + 1 } : undefined;
    }
    case 'bytes':
      return isWholeUnits(bytes, part) ? { value: bytes, length: bytes.length } : undefined;
    default:
      throw new TypeError(`no answer has a ${part.kind}`);
  }
}
