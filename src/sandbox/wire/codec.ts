import { KilnError } from '../../errors.ts';
import {
  ANSWERS,
  type Answer,
  FIELDS,
  type FieldName,
  type Message,
  type Part,
  type Parts,
  REQUESTS,
  type RequestField,
  type RequestName,
  type Times,
  WIRE,
} from './table.ts';

/**
 * A complete request. Throws E_ARGUMENT for a value that the table does not allow, such as a NUL in a text or
 * too long a path.
 */
export function encodeRequest<R extends RequestName>(
  name: R,
  fields: readonly RequestField<R>[],
): Buffer {
  const message = encodeMessage(REQUESTS[name], fields);
  if (message.length - 8 <= WIRE.request) return message;
  throw new KilnError(
    'E_ARGUMENT',
    `${name}: longer than the ${WIRE.request} bytes that a sandbox takes`,
    { hint: 'give fewer or shorter arguments and environment variables' },
  );
}

export function encodeSignal(id: number, signal: number): Buffer {
  return encodeRequest('signal', [
    { op: 'id', id },
    { op: 'signal', signal },
  ]);
}

export function encodeMessage(
  message: Message,
  fields: readonly { readonly op: FieldName; readonly [part: string]: unknown }[],
): Buffer {
  const parts: Buffer[] = [Buffer.allocUnsafe(8)];
  const times = new Map<FieldName, number>();
  let length = 0;
  for (const field of fields) {
    const { op } = field;
    if (message.fields[op] === undefined)
      throw new TypeError(`no ${op} in message ${message.type}`);
    times.set(op, (times.get(op) ?? 0) + 1);
    const head = Buffer.allocUnsafe(8);
    parts.push(head);
    let size = 0;
    for (const [name, part] of Object.entries<Part>(FIELDS[op].parts)) {
      const bytes = encodePart(part, field[name]);
      if (bytes === undefined) throw fieldError(op, name, field[name]);
      size += bytes.length;
      parts.push(bytes);
    }
    head.writeUInt32LE(FIELDS[op].tag, 0);
    head.writeUInt32LE(size, 4);
    length += 8 + size;
  }
  for (const [op, [least, most]] of Object.entries<Times>(message.fields)) {
    const found = times.get(op as FieldName) ?? 0;
    if (found < least || found > most) {
      const what = `${op}: ${found} are given, and a sandbox takes at most ${most}`;
      throw new KilnError('E_ARGUMENT', what, { hint: 'give fewer of them' });
    }
  }
  parts[0]?.writeUInt32LE(length, 0);
  parts[0]?.writeUInt32LE(message.type, 4);
  return Buffer.concat(parts);
}

function fieldError(op: string, name: string, value: unknown): KilnError {
  const said = typeof value === 'string' ? JSON.stringify(value.slice(0, 200)) : String(value);
  const cut = typeof value === 'string' && value.includes('\0');
  return new KilnError(
    'E_ARGUMENT',
    cut ? `a NUL byte in ${said}` : `${op}: ${name} ${said} is not valid`,
  );
}

function encodePart(part: Part, value: unknown): Buffer | undefined {
  switch (part.kind) {
    case 'u32':
      return isWhole(value, 0, part.most) ? u32(value) : undefined;
    case 'i32':
      return isWhole(value, -(2 ** 31), 2 ** 31 - 1) ? u32(value >>> 0) : undefined;
    case 'u64':
      if (value === Infinity) return u64(0xffff_ffff_ffff_ffffn);
      return isWhole(value, 0, Number.MAX_SAFE_INTEGER) ? u64(BigInt(value)) : undefined;
    case 'size':
      return isWhole(value, 1, Number.MAX_SAFE_INTEGER) ? u64(BigInt(value)) : undefined;
    case 'mask':
      return u64(value as bigint);
    case 'flag':
      return u32(value === true ? 1 : 0);
    case 'choice': {
      const number = part.of[value as string];
      return number === undefined ? undefined : u32(number);
    }
    case 'set': {
      const bits = (value as readonly string[]).map((bit) => part.of[bit]);
      if (bits.includes(undefined)) return undefined;
      return u32(bits.reduce<number>((all, bit) => all | (bit ?? 0), 0));
    }
    case 'descriptor':
      return isWhole(value, 0, WIRE.descriptors - 1) ? u32(value) : undefined;
    case 'ipv4': {
      const bytes = (value as string).split('.').map(Number);
      return bytes.length === 4 && bytes.every((byte) => isWhole(byte, 0, 255))
        ? Buffer.from(bytes)
        : undefined;
    }
    case 'bytes': {
      const bytes = value as Buffer;
      return isWholeUnits(bytes, part) ? bytes : undefined;
    }
    default: {
      const text = value as string;
      const bytes = Buffer.from(`${text}\0`);
      const fits = bytes.length - 1 <= part.most && bytes.indexOf(0) === bytes.length - 1;
      return fits && isOfKind(part.kind, text) ? bytes : undefined;
    }
  }
}

function isWholeUnits(
  { length }: Buffer,
  { unit, most }: Extract<Part, { readonly kind: 'bytes' }>,
): boolean {
  return length <= most && length % unit === 0 && (length > 0 || unit === 1);
}

function isOfKind(kind: 'text' | 'path' | 'name', text: string): boolean {
  if (kind === 'path') return text.startsWith('/');
  return kind === 'text' || !(text === '' || text.startsWith('.') || text.includes('/'));
}

function isWhole(value: unknown, least: number, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
}

function u32(value: number): Buffer {
  const buffer = Buffer.allocUnsafe(4);
  buffer.writeUInt32LE(value, 0);
  return buffer;
}

function u64(value: bigint): Buffer {
  const buffer = Buffer.allocUnsafe(8);
  buffer.writeBigUInt64LE(value, 0);
  return buffer;
}

export type LandlockWall = Exclude<
  keyof (typeof FIELDS)['landlock']['parts']['walls']['of'],
  'open-sockets'
>;

export type ResourceLimit = Parts<'rlimit'>;

export type ProcRule = Parts<'boot'>;

export interface ExecRequest
  extends Parts<'id'>,
    Parts<'workdir'>,
    Parts<'user'>,
    Parts<'capabilities'>,
    Parts<'umask'> {
  readonly argv: readonly string[];
  readonly environment: readonly string[];
  /** struct sock_filter[], or nothing for no filter. */
  readonly seccomp?: Buffer;
  readonly verdicts?: Buffer;
  readonly landlock: readonly LandlockWall[];
  /**
   * Whether abstract sockets of the host's network may be open. Otherwise the init refuses to start the
   * command.
   */
  readonly openSockets: boolean;
  readonly limits: readonly ResourceLimit[];
  readonly terminal?: Parts<'terminal'>;
  readonly boot?: readonly ProcRule[];
  readonly unpacks?: boolean | undefined;
}

/**
 * The request for a command; stdin, stdout, stderr (or one socket for the terminal's master) travel with it.
 * Throws E_ARGUMENT.
 */
export function encodeExec(request: ExecRequest): Buffer {
  const { id, user, workdir, capabilities, umask, seccomp, verdicts, terminal } = request;
  const walls = [...request.landlock, ...(request.openSockets ? (['open-sockets'] as const) : [])];
  return encodeRequest('exec', [
    { op: 'id', id },
    ...request.argv.map((argument) => ({ op: 'argument', argument }) as const),
    ...request.environment.map((variable) => ({ op: 'variable', variable }) as const),
    { op: 'workdir', workdir },
    { op: 'user', user },
    { op: 'capabilities', capabilities },
    ...(seccomp === undefined ? [] : [{ op: 'seccomp', filter: seccomp } as const]),
    ...(verdicts === undefined ? [] : [{ op: 'verdicts', filter: verdicts } as const]),
    { op: 'landlock', walls },
    ...request.limits.map((limit) => ({ op: 'rlimit', ...limit }) as const),
    ...(terminal === undefined ? [] : [{ op: 'terminal', ...terminal } as const]),
    { op: 'umask', umask },
    ...(request.boot ?? []).map((rule) => ({ op: 'boot', ...rule }) as const),
    ...(request.unpacks === true ? [{ op: 'unpack' } as const] : []),
  ]);
}

const answers = new Map<number, readonly [string, Message]>(
  Object.entries(ANSWERS).map(([name, message]) => [message.type, [name, message]]),
);
const fieldNames = new Map<number, FieldName>(
  Object.entries(FIELDS).map(([name, { tag }]) => [tag, name as FieldName]),
);

/** Reads the answers of an init. They are hostile until they match the wire's table. */
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
