import type { BinaryOperator } from './parse.ts';
import {
  asText,
  type ConfigDict,
  ConfigOptions,
  type ConfigValue,
  isDict,
  isList,
  isTrue,
  type Place,
} from './values.ts';

/** Characters of a text: `x += x` doubles it. */
const TEXT_LIMIT = 16 * 1024 * 1024;

const LIST_LIMIT = 65536;

export function joinTexts(texts: readonly string[], between: string): string {
  const length = texts.reduce((sum, text) => sum + text.length + between.length, 0);
  if (length > TEXT_LIMIT + between.length) throw new RangeError('this is too long');
  return texts.join(between);
}

/** Something a configuration may not do; the evaluator knows the line. */
export class Unfit extends Error {}

/**
 * The result of `left operator right`, except `and` and `or`, which may not need the right side.
 * @throws Unfit, RangeError
 */
export function operate(
  operator: Exclude<BinaryOperator, 'and' | 'or'>,
  left: ConfigValue,
  right: ConfigValue,
): ConfigValue {
  switch (operator) {
    case '==':
      return equal(left, right);
    case '!=':
      return !equal(left, right);
    case 'in':
      return contains(right, left);
    case 'not in':
      return !contains(right, left);
    case '+':
      return add(left, right);
    case '%':
      return format(left, right);
    default:
      return compare(operator, left, right);
  }
}

/** Python's `==` for texts, numbers and lists of them; dicts are only equal to themselves. */
function equal(left: ConfigValue, right: ConfigValue): boolean {
  if (isList(left) && isList(right)) {
    return left.length === right.length && left.every((item, index) => equal(item, right[index]));
  }
  return left === right;
}

function contains(container: ConfigValue, value: ConfigValue): boolean {
  if (typeof container === 'string') return container.includes(asText(value));
  if (isDict(container)) return container.has(asText(value));
  if (isList(container)) return container.some((item) => equal(item, value));
  throw new Unfit('`in` needs a text, a list or a dict');
}

function add(left: ConfigValue, right: ConfigValue): ConfigValue {
  if (typeof left === 'number' && typeof right === 'number') return left + right;
  if (typeof left === 'string' && typeof right === 'string') {
    if (left.length + right.length <= TEXT_LIMIT) return left + right;
    throw new Unfit('this is too long');
  }
  if (isList(left) && isList(right)) {
    if (left.length + right.length <= LIST_LIMIT) return [...left, ...right];
    throw new Unfit('this is too long');
  }
  throw new Unfit('only two texts, numbers or lists can be added');
}

function compare(
  operator: '<' | '<=' | '>' | '>=',
  left: ConfigValue,
  right: ConfigValue,
): boolean {
  const comparable =
    (typeof left === 'number' && typeof right === 'number') ||
    (typeof left === 'string' && typeof right === 'string');
  if (!comparable) throw new Unfit('only numbers and texts can be compared');
  if (left === right) return operator.length === 2;
  return operator.startsWith('<') ? left < right : left > right;
}

/** `'%s/%s' % (a, b)` and `'%(name)s' % {…}`, with %s, %d, %r and %%. */
function format(left: ConfigValue, right: ConfigValue): string {
  if (typeof left !== 'string') throw new Unfit('% is only understood after a text');
  const values = isList(right) ? [...right] : [right];
  let length = left.length;
  const bounded = (text: string) => {
    length += text.length;
    if (length > TEXT_LIMIT) throw new RangeError('this is too long');
    return text;
  };
  return left.replace(
    /%(?:\((\w+)\))?([\s\S]?)/g,
    (whole, name: string | undefined, kind: string) => {
      if (kind === '%') return '%';
      if (!'sdr'.includes(kind) || kind === '') throw new Unfit(`${whole} is not understood`);
      if (name !== undefined) {
        if (isDict(right) && right.has(name)) return bounded(asText(right.get(name)));
        throw new Unfit(`there is nothing for ${whole}`);
      }
      if (values.length === 0) throw new Unfit('there are too few values for %');
      return bounded(asText(values.shift()));
    },
  );
}

export const CHANGING = new Set('append extend insert remove update setdefault pop'.split(' '));

export function callFunction(name: string, values: readonly ConfigValue[]): ConfigValue {
  const [value] = values;
  if (values.length !== 1 || !['int', 'str', 'bool', 'len'].includes(name)) {
    throw new Unfit(`${name}() is not understood`);
  }
  if (name === 'str') return asText(value);
  if (name === 'bool') return isTrue(value);
  if (name === 'int') return integer(value);
  if (typeof value === 'string' || isList(value)) return value.length;
  if (isDict(value)) return value.size;
  throw new Unfit(`len() of ${asText(value)}`);
}

function integer(value: ConfigValue): number {
  if (typeof value === 'number') return Math.trunc(value);
  if (typeof value === 'boolean') return Number(value);
  const text = typeof value === 'string' ? value.trim() : '';
  if (/^[-+]?\d+$/.test(text)) return Number(text);
  throw new Unfit(`int() of ${JSON.stringify(value)}: this is no whole number`);
}

/** The result of a method; undefined if kiln does not know it, or not with these arguments. */
export function textMethod(
  text: string,
  method: string,
  values: readonly ConfigValue[],
): ConfigValue {
  const [first, second] = values;
  if (values.length === 0) {
    if (method === 'strip') return text.trim();
    if (method === 'lower') return text.toLowerCase();
    if (method === 'upper') return text.toUpperCase();
    if (method === 'split') return text.split(/\s+/).filter(Boolean);
  }
  if (method === 'join' && isList(first)) return joinTexts(first.map(asText), text);
  if (typeof first !== 'string') return undefined;
  if (method === 'split' && first !== '') return text.split(first);
  if (method === 'startswith') return text.startsWith(first);
  if (method === 'endswith') return text.endsWith(first);
  if (method !== 'replace' || typeof second !== 'string') return undefined;
  return joinTexts(text.split(first), second);
}

/** As {@link textMethod}. */
export function listMethod(
  list: ConfigValue[],
  method: string,
  values: readonly ConfigValue[],
): ConfigValue {
  const [first, second] = values;
  if (method === 'append' && values.length === 1) list.push(first);
  else if (method === 'extend' && isList(first)) list.push(...first);
  else if (method === 'insert' && typeof first === 'number') list.splice(first, 0, second);
  else if (method === 'remove' && values.length === 1) {
    const at = list.findIndex((item) => equal(item, first));
    if (at !== -1) list.splice(at, 1);
  } else return undefined;
  return null;
}

/** As {@link textMethod}. */
export function dictMethod(
  owner: ConfigOptions | ConfigDict,
  method: string,
  values: readonly ConfigValue[],
  place: Place,
): ConfigValue {
  const [first, second = null] = values;
  const set = (key: string, value: ConfigValue) =>
    owner instanceof ConfigOptions ? owner.set(key, value, place) : owner.set(key, value);
  if (method === 'update' && isDict(first)) {
    for (const [key, value] of first) set(key, value);
    return null;
  }
  if (typeof first !== 'string') return undefined;
  const value = owner.has(first) ? owner.get(first) : second;
  if (method === 'setdefault' && !owner.has(first)) set(first, second);
  if (method === 'pop') owner.delete(first);
  return ['get', 'setdefault', 'pop'].includes(method) ? value : undefined;
}
