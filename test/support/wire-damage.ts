import { encodeMessage } from '../../src/sandbox/wire/codec.ts';
import {
  FIELDS,
  type FieldName,
  type Message,
  type Part,
  type Times,
  WIRE,
} from '../../src/sandbox/wire/table.ts';

/** A message as it must not be. */
export interface Damage {
  /** What is wrong with it. */
  readonly name: string;
  readonly bytes: Buffer;
  readonly descriptors: number;
}

interface Built {
  readonly tag: number;
  readonly bytes: Buffer;
}

/** A value that a part may have. */
function sample(part: Part): unknown {
  switch (part.kind) {
    case 'choice':
      return Object.keys(part.of)[0];
    case 'set':
      return Object.keys(part.of).slice(0, 1);
    case 'flag':
      return true;
    case 'mask':
      return 1n;
    case 'ipv4':
      return '10.0.0.1';
    case 'descriptor':
      return 0;
    case 'text':
    case 'name':
      return 'x';
    case 'path':
      return '/x';
    case 'bytes':
      return Buffer.alloc(Math.max(8, part.unit), 0x41);
    default:
      return 1;
  }
}

function fieldNames(message: Message): FieldName[] {
  return Object.keys(message.fields) as FieldName[];
}

function partsOf(field: FieldName): (readonly [string, Part])[] {
  return Object.entries(FIELDS[field].parts);
}

/** A field of a message as it must be. */
function field(name: FieldName): Built {
  const parts = Object.fromEntries(partsOf(name).map(([key, part]) => [key, sample(part)]));
  const alone = { type: 0, fields: { [name]: [0, 1] } } as const;
  const whole = encodeMessage(alone, [{ op: name, ...parts }]);
  return { tag: FIELDS[name].tag, bytes: whole.subarray(16) };
}

function message(type: number, fields: readonly Built[]): Buffer {
  const head = (first: number, second: number) => Buffer.from(Uint32Array.of(first, second).buffer);
  const payload = Buffer.concat(
    fields.flatMap(({ tag, bytes }) => [head(tag, bytes.length), bytes]),
  );
  return Buffer.concat([head(payload.length, type), payload]);
}

/** A message with every field that it may have, as it must be. */
export function wholeMessage(wanted: Message): Damage {
  const bytes = message(wanted.type, fieldNames(wanted).map(field));
  return { name: 'whole', bytes, descriptors: wanted.descriptors?.[0] ?? 0 };
}

function u32(value: number): Buffer {
  return Buffer.from(Uint32Array.of(value).buffer);
}

/** Bytes that a part must not be, with what is wrong with them; `last`: no other part comes after it. */
function wrongParts(part: Part, last: boolean): (readonly [string, Buffer])[] {
  const nul = (text: string) => Buffer.from(`${text}\0`);
  switch (part.kind) {
    case 'u32':
      return part.most === 0xffff_ffff ? [] : [['too high', u32(part.most + 1)]];
    case 'size':
      return [0n, 2n ** 53n + 1n, 2n ** 64n - 1n].map((n) => {
        return [`${n} bytes`, Buffer.from(BigUint64Array.of(n).buffer)] as const;
      });
    case 'flag':
      return [['2', u32(2)]];
    case 'choice': {
      const known = new Set(Object.values(part.of));
      const unknown = Array.from({ length: 130 }, (_, value) => value).find((it) => !known.has(it));
      return [unknown ?? 0, 64, 2 ** 32 - 1]
        .filter((value) => !known.has(value))
        .map((value) => [`unknown ${value}`, u32(value)] as const);
    }
    case 'set':
      return [['an unknown bit', u32(0x8000_0000)]];
    case 'descriptor':
      return [WIRE.descriptors - 1, 2 ** 32 - 1].map((n) => [`descriptor ${n}`, u32(n)]);
    case 'text':
      return [
        ...(last ? [['no end', Buffer.from('x')] as const] : []),
        ...(part.most < 8192 ? [['too long', nul('x'.repeat(part.most + 1))] as const] : []),
      ];
    case 'path':
      return [
        ['relative', nul('x')],
        ['empty', nul('')],
        ['too long', nul(`/${'x'.repeat(part.most)}`)],
      ];
    case 'name':
      return [
        ['empty', nul('')],
        ['a slash', nul('a/b')],
        ['a dot', nul('.x')],
        ['too long', nul('x'.repeat(part.most + 1))],
      ];
    case 'bytes':
      return [
        ...(part.unit > 1 ? [['no whole unit', Buffer.alloc(part.unit + 1)] as const] : []),
        ...(part.most < 65536 ? [['too long', Buffer.alloc(part.most + part.unit)] as const] : []),
      ];
    default:
      return [];
  }
}

/** The bytes of a field with one part replaced. */
function withPart(name: FieldName, replaced: string, bytes: Buffer): Buffer {
  let at = 0;
  const whole = field(name).bytes;
  const pieces = partsOf(name).map(([key, part], index, all) => {
    const fixed: Partial<Record<Part['kind'], number>> = { u64: 8, size: 8, mask: 8 };
    const isText = part.kind === 'text' || part.kind === 'path' || part.kind === 'name';
    const end = isText
      ? whole.indexOf(0, at) + 1
      : part.kind === 'bytes' || index === all.length - 1
        ? whole.length
        : at + (fixed[part.kind] ?? 4);
    const piece = key === replaced ? bytes : whole.subarray(at, end);
    at = end;
    return piece;
  });
  return Buffer.concat(pieces);
}

/** What can be wrong with the bytes of one field. */
function wrongFields(name: FieldName): (readonly [string, Buffer])[] {
  const { bytes } = field(name);
  const parts = partsOf(name);
  const last = parts.at(-1)?.[1];
  const open = last?.kind === 'bytes' && last.unit === 1;
  const cuts = open ? bytes.length - 8 : bytes.length;
  return [
    ...Array.from(
      { length: cuts },
      (_, length) => [`cut to ${length}`, bytes.subarray(0, length)] as const,
    ),
    ...(open ? [] : [['a byte more', Buffer.concat([bytes, Buffer.of(0)])] as const]),
    ...parts.flatMap(([key, part], index) =>
      wrongParts(part, index === parts.length - 1).map(
        ([what, wrong]) => [`${key}: ${what}`, withPart(name, key, wrong)] as const,
      ),
    ),
  ];
}

/** Every way in which a message can be wrong, from what the table says of it. */
export function* damagedMessages(wanted: Message): Generator<Damage> {
  const names = fieldNames(wanted);
  const fields = names.map(field);
  const [least, most] = wanted.descriptors ?? [0, 0];
  const good = message(wanted.type, fields);
  const damage = (name: string, bytes: Buffer, descriptors: number = least): Damage => ({
    name,
    bytes,
    descriptors,
  });
  for (const type of [0, 99, 100, 150, 2 ** 32 - 1]) {
    yield damage(`type ${type}`, message(type, fields));
  }
  for (const [index, name] of names.entries()) {
    const [atLeast, atMost] = wanted.fields[name] as Times;
    const others = fields.filter((_, other) => other !== index);
    const here = fields[index] as Built;
    if (atLeast > 0) yield damage(`without ${name}`, message(wanted.type, others));
    if (atMost < 1000) {
      const many = Array.from({ length: atMost + 1 }, () => here);
      yield damage(`${atMost + 1} × ${name}`, message(wanted.type, [...others, ...many]));
    }
    for (const [what, bytes] of wrongFields(name)) {
      yield damage(`${name}: ${what}`, message(wanted.type, [...others, { tag: here.tag, bytes }]));
    }
    // Its length says more than there is.
    for (const length of [here.bytes.length + 1, 2 ** 31, 2 ** 32 - 8, 2 ** 32 - 1]) {
      const bytes = message(wanted.type, [...others, here]);
      bytes.writeUInt32LE(length, bytes.length - here.bytes.length - 4);
      yield damage(`${name}: length ${length}`, bytes);
    }
  }
  for (const name of Object.keys(FIELDS) as FieldName[]) {
    if (names.includes(name)) continue;
    yield damage(`with ${name}`, message(wanted.type, [...fields, field(name)]));
  }
  yield damage('an unknown field', message(wanted.type, [...fields, { tag: 9999, bytes: u32(0) }]));
  for (let more = 1; more < 8; more++) {
    const bytes = Buffer.concat([good, Buffer.alloc(more)]);
    bytes.writeUInt32LE(good.length - 8 + more, 0);
    yield damage(`${more} bytes more`, bytes);
  }
  const endless = Buffer.from(good);
  endless.writeUInt32LE(2 ** 32 - 1, 0);
  yield damage('endless', endless);
  if (least > 0) yield damage('too few descriptors', good, least - 1);
  if (most < WIRE.descriptors) yield damage('too many descriptors', good, most + 1);
}
