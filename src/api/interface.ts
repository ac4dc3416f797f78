/** What calls of the API are given, checked by the interface. */
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { INTERFACE } from './io-kiln.ts';

/** The type of a field of Varlink (https://varlink.org/Interface-Definition). */
export type Type =
  | { readonly kind: 'bool' | 'int' | 'float' | 'string' | 'object' }
  | { readonly kind: 'optional' | 'array' | 'map'; readonly of: Type }
  | { readonly kind: 'enum'; readonly values: readonly string[] }
  | Struct
  | { readonly kind: 'named'; readonly name: string };

interface Struct {
  readonly kind: 'struct';
  readonly fields: readonly { readonly name: string; readonly type: Type }[];
}

export const METHODS: Readonly<Record<string, Readonly<Record<'input' | 'output', Struct>>>> =
  INTERFACE.methods;

export const TYPES: Readonly<Record<string, Type>> = INTERFACE.types;

type ParameterProblem = 'is missing' | 'is unknown' | 'is not of its type';

/** `parameter` is the field, such as `surroundings.binds`. */
export class InvalidParameter extends Error {
  readonly parameter: string;
  readonly problem: ParameterProblem;

  constructor(parameter: string, problem: ParameterProblem) {
    super(`the parameter ${parameter} ${problem}`);
    this.parameter = parameter;
    this.problem = problem;
  }
}

/** For the library: the daemon's answer, or what the library finds before it asks. */
export function parameterError(
  parameter: string,
  problem:
    | ParameterProblem
    | 'is refused by kilnd, which may be of another version' = 'is not of its type',
): KilnError {
  const message = parameter === '' ? 'the parameters are no object' : `${parameter} ${problem}`;
  return new KilnError('E_ARGUMENT', message, {
    hint: 'docs/reference/api.md leads to the fields',
  });
}

/** What a program gives as parameters of a method. @throws KilnError E_ARGUMENT */
export function checkTypes(method: string, parameters: object): void {
  try {
    checkParameters(method, parameters);
  } catch (error) {
    throw error instanceof InvalidParameter
      ? parameterError(error.parameter, error.problem)
      : error;
  }
}

/** What a program gives beside the parameters of a method, and is no JSON. @throws KilnError E_ARGUMENT */
export function checkOptions(options: unknown): void {
  if (typeof options !== 'object' || options === null) throw parameterError('options');
  for (const [name, value] of Object.entries(options)) {
    const fits =
      name === 'signal'
        ? value instanceof AbortSignal
        : name === 'input'
          ? isContent(value)
          : !/^on[A-Z]/.test(name) || typeof value === 'function';
    if (value !== undefined && !fits) throw parameterError(name);
  }
}

export function isContent(value: unknown): value is string | Uint8Array {
  return typeof value === 'string' || value instanceof Uint8Array;
}

/** A checked copy without null fields. @throws InvalidParameter */
export function checkParameters(method: string, value: unknown): object {
  const input = METHODS[method]?.input;
  if (input === undefined) throw new Error(`${method} is not in the interface`);
  return checked(input, value, '') as object;
}

function checked(type: Type, value: unknown, place: string): unknown {
  switch (type.kind) {
    case 'optional':
      return value === undefined || value === null ? undefined : checked(type.of, value, place);
    case 'named':
      return checked(TYPES[type.name] ?? fail(place, value), value, place);
    case 'array':
      if (!Array.isArray(value)) return fail(place, value);
      return value.map((item) => checked(type.of, item, place));
    case 'map': {
      const entries = Object.entries(object(value, place)).map(([name, item]) => {
        return [name, checked(type.of, item, `${place}.${name}`)];
      });
      return defined(Object.fromEntries(entries));
    }
    case 'struct':
      return checkedFields(type, object(value, place), place);
    case 'enum':
      return typeof value === 'string' && type.values.includes(value) ? value : fail(place, value);
    case 'object':
      return object(value, place);
    case 'int':
      return Number.isSafeInteger(value) ? value : fail(place, value);
    case 'float':
      return typeof value === 'number' ? value : fail(place, value);
    case 'bool':
      return typeof value === 'boolean' ? value : fail(place, value);
    case 'string':
      // No path, argument or variable can contain a NUL.
      return typeof value === 'string' && !value.includes('\0') ? value : fail(place, value);
  }
}

function checkedFields(
  { fields }: Struct,
  value: Readonly<Record<string, unknown>>,
  place: string,
): object {
  const inside = (name: string) => (place === '' ? name : `${place}.${name}`);
  const known = new Set(fields.map(({ name }) => name));
  const unknown = Object.keys(value).find((name) => !known.has(name));
  if (unknown !== undefined) throw new InvalidParameter(inside(unknown), 'is unknown');
  const entries = fields.map(({ name, type }) => {
    // No name has a special meaning to JavaScript.
    const given = Object.hasOwn(value, name) ? value[name] : undefined;
    return [name, checked(type, given, inside(name))];
  });
  return defined(Object.fromEntries(entries));
}

function object(value: unknown, place: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) fail(place, value);
  return value as Readonly<Record<string, unknown>>;
}

function fail(place: string, value: unknown): never {
  throw new InvalidParameter(place, value === undefined ? 'is missing' : 'is not of its type');
}
