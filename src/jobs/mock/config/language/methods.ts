import { equal, joinTexts, Unfit } from './operators.ts';
import type { Place } from './problem.ts';
import {
  asText,
  type ConfigDict,
  ConfigOptions,
  type ConfigValue,
  isDict,
  isList,
  isTrue,
} from './values.ts';

/** Methods that change an option. */
export const CHANGING = new Set([
  'append',
  'extend',
  'insert',
  'remove',
  'update',
  'setdefault',
  'pop',
]);

/** Undefined if there is no such method with these arguments. */
type MethodResult = { readonly value: ConfigValue } | undefined;

/** Calls one of Python's functions that compute a value from one value. */
export function callFunction(name: string, values: readonly ConfigValue[]): ConfigValue | Unfit {
  const [value] = values;
  if (values.length !== 1 || !['int', 'str', 'bool', 'len'].includes(name)) {
    return new Unfit(`${name}() is not understood`);
  }
  if (name === 'str') return asText(value);
  if (name === 'bool') return isTrue(value);
  if (name === 'int') return integer(value);
  if (typeof value === 'string' || isList(value)) return value.length;
  return isDict(value) ? value.size : new Unfit(`len() of ${asText(value)}`);
}

function integer(value: ConfigValue): number | Unfit {
  if (typeof value === 'number') return Math.trunc(value);
  if (typeof value === 'boolean') return Number(value);
  const text = typeof value === 'string' ? value.trim() : '';
  if (/^[-+]?\d+$/.test(text)) return Number(text);
  return new Unfit(`int() of ${JSON.stringify(value)}: this is no whole number`);
}

/** A method of str. */
export function textMethod(
  text: string,
  method: string,
  values: readonly ConfigValue[],
): MethodResult {
  const [first, second] = values;
  if (values.length === 0) {
    if (method === 'strip') return { value: text.trim() };
    if (method === 'lower') return { value: text.toLowerCase() };
    if (method === 'upper') return { value: text.toUpperCase() };
    if (method === 'split') return { value: text.split(/\s+/).filter(Boolean) };
  }
  if (method === 'split' && typeof first === 'string' && first !== '') {
    return { value: text.split(first) };
  }
  if (method === 'join' && isList(first)) return { value: joinTexts(first.map(asText), text) };
  if (method === 'startswith' && typeof first === 'string')
    return { value: text.startsWith(first) };
  if (method === 'endswith' && typeof first === 'string') return { value: text.endsWith(first) };
  if (method === 'replace' && typeof first === 'string' && typeof second === 'string') {
    return { value: joinTexts(text.split(first), second) };
  }
  return undefined;
}

/** A method of list; it changes the list. */
export function listMethod(
  list: ConfigValue[],
  method: string,
  values: readonly ConfigValue[],
): MethodResult {
  const [first, second] = values;
  if (method === 'append' && values.length === 1) list.push(first);
  else if (method === 'extend' && isList(first)) list.push(...first);
  else if (method === 'insert' && typeof first === 'number') list.splice(first, 0, second);
  else if (method === 'remove' && values.length === 1) {
    const at = list.findIndex((item) => equal(item, first));
    if (at !== -1) list.splice(at, 1);
  } else return undefined;
  return { value: null };
}

/** A method of dict; it changes the dict. */
export function dictMethod(
  owner: ConfigOptions | ConfigDict,
  method: string,
  values: readonly ConfigValue[],
  place: Place,
): MethodResult {
  const [first, second = null] = values;
  const set = (key: string, value: ConfigValue) =>
    owner instanceof ConfigOptions ? owner.set(key, value, place) : owner.set(key, value);
  if (method === 'update' && isDict(first)) {
    for (const [key, value] of first) set(key, value);
    return { value: null };
  }
  if (typeof first !== 'string') return undefined;
  if (method === 'get') return { value: owner.has(first) ? owner.get(first) : second };
  if (method === 'setdefault') {
    if (!owner.has(first)) set(first, second);
    return { value: owner.get(first) };
  }
  if (method === 'pop') {
    const value = owner.has(first) ? owner.get(first) : second;
    owner.delete(first);
    return { value };
  }
  return undefined;
}
