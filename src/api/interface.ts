/** The interface io.kiln, from its definition file. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../host/state/paths.ts';
import { type Interface, parseInterface, type Struct, type Type } from './idl.ts';

/** Its text. @throws KilnError E_INSTALLATION, Node's own errors of the file system */
export function interfaceText(): string {
  return readFileSync(join(packageRoot(), 'src/api/io.kiln.varlink'), 'utf8');
}

let parsed: Interface | undefined;

/** The parsed interface, read once. */
export function kilnInterface(): Interface {
  parsed ??= parseInterface(interfaceText());
  return parsed;
}

/** The version that its comment names. */
export function interfaceVersion({ doc }: Interface): number {
  return Number(/^Version (\d+)$/m.exec(doc)?.[1]);
}

/** The error for a value of a wrong type: `parameter` is the field, such as `surroundings.binds`. */
export class InvalidParameter extends Error {
  readonly parameter: string;

  constructor(parameter: string) {
    super(`the parameter ${parameter} is missing, unknown, or not of its type`);
    this.parameter = parameter;
  }
}

/**
 * A copy of a call's parameters, checked against the interface, without null fields.
 * @throws InvalidParameter
 */
export function checkParameters(type: Struct, value: unknown, of: Interface): object {
  return checked(type, value, '', of) as object;
}

function checked(type: Type, value: unknown, place: string, of: Interface): unknown {
  switch (type.kind) {
    case 'optional':
      return value === undefined || value === null ? undefined : checked(type.of, value, place, of);
    case 'named':
      return checked(of.types.get(type.name)?.type ?? fail(place), value, place, of);
    case 'array':
      if (!Array.isArray(value)) return fail(place);
      return value.map((item) => checked(type.of, item, place, of));
    case 'map':
      return copied(isObject(value) ? Object.entries(value) : fail(place), (item, name) =>
        checked(type.of, item, `${place}.${name}`, of),
      );
    case 'struct':
      return checkedFields(type, isObject(value) ? value : fail(place), place, of);
    case 'enum':
      return typeof value === 'string' && type.values.includes(value) ? value : fail(place);
    case 'object':
      return isObject(value) ? value : fail(place);
    case 'int':
      return Number.isSafeInteger(value) ? value : fail(place);
    case 'float':
      return typeof value === 'number' ? value : fail(place);
    case 'bool':
      return typeof value === 'boolean' ? value : fail(place);
    case 'string':
      // No path, argument or variable can contain a NUL.
      return typeof value === 'string' && !value.includes('\0') ? value : fail(place);
  }
}

function checkedFields(
  { fields }: Struct,
  value: Readonly<Record<string, unknown>>,
  place: string,
  of: Interface,
): object {
  const inside = (name: string) => (place === '' ? name : `${place}.${name}`);
  const known = new Set(fields.map(({ name }) => name));
  const unknown = Object.keys(value).find((name) => !known.has(name));
  if (unknown !== undefined) fail(inside(unknown));
  return copied(
    fields.map((field) => [field.name, field] as const),
    ({ type }, name) =>
      checked(type, Object.hasOwn(value, name) ? value[name] : undefined, inside(name), of),
  );
}

/** An object of these entries without undefined ones; no name has a special meaning to JavaScript. */
function copied<Value>(
  entries: readonly (readonly [string, Value])[],
  copy: (value: Value, name: string) => unknown,
): object {
  return Object.fromEntries(
    entries.flatMap(([name, value]) => {
      const made = copy(value, name);
      return made === undefined ? [] : [[name, made] as const];
    }),
  );
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function fail(place: string): never {
  throw new InvalidParameter(place);
}
