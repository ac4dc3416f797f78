import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { packageRoot } from '../host/state/package-root.ts';

/** The type of a field of Varlink (https://varlink.org/Interface-Definition). */
export type Type =
  | { readonly kind: 'bool' | 'int' | 'float' | 'string' | 'object' }
  | { readonly kind: 'optional' | 'array' | 'map'; readonly of: Type }
  | { readonly kind: 'enum'; readonly values: readonly string[] }
  | Struct
  | { readonly kind: 'named'; readonly name: string };

export interface Struct {
  readonly kind: 'struct';
  readonly fields: readonly Field[];
}

export interface Field {
  readonly name: string;
  readonly doc: string;
  readonly type: Type;
}

interface Method {
  readonly doc: string;
  readonly input: Struct;
  readonly output: Struct;
}

export interface Interface {
  readonly name: string;
  readonly doc: string;
  readonly types: ReadonlyMap<string, { readonly doc: string; readonly type: Type }>;
  readonly methods: ReadonlyMap<string, Method>;
  readonly errors: ReadonlyMap<string, { readonly doc: string; readonly type: Struct }>;
}

const TOKEN = /[ \t\r\n]*(?:(#[^\n]*)|(->|\[string\]|\[\]|[?:,()])|([A-Za-z][\w.-]*)|$)/y;

const PLAIN = ['bool', 'int', 'float', 'string', 'object'] as const;

export function parseInterface(text: string): Interface {
  return new Parser(text).interface();
}

class Parser {
  readonly #text: string;
  #at = 0;
  #token = '';
  #doc = '';

  constructor(text: string) {
    this.#text = text;
    this.#next();
  }

  interface(): Interface {
    const doc = this.#doc;
    this.#expect('interface');
    const name = this.#name();
    const types = new Map<string, { doc: string; type: Type }>();
    const methods = new Map<string, Method>();
    const errors = new Map<string, { doc: string; type: Struct }>();
    while (this.#token !== '') {
      const of = this.#doc;
      const kind = this.#name();
      const member = this.#name();
      if (types.has(member) || methods.has(member) || errors.has(member)) this.#fail();
      if (kind === 'type') types.set(member, { doc: of, type: this.#braced() });
      else if (kind === 'error') errors.set(member, { doc: of, type: this.#struct() });
      else if (kind === 'method') {
        const input = this.#struct();
        this.#expect('->');
        methods.set(member, { doc: of, input, output: this.#struct() });
      } else this.#fail();
    }
    return { name, doc, types, methods, errors };
  }

  #type(): Type {
    if (this.#take('?')) return { kind: 'optional', of: this.#type() };
    if (this.#take('[]')) return { kind: 'array', of: this.#type() };
    if (this.#take('[string]')) return { kind: 'map', of: this.#type() };
    if (this.#token === '(') return this.#braced();
    const name = this.#name();
    const plain = PLAIN.find((kind) => kind === name);
    return plain === undefined ? { kind: 'named', name } : { kind: plain };
  }

  #struct(): Struct {
    const type = this.#braced();
    return type.kind === 'struct' ? type : this.#fail();
  }

  #braced(): Struct | { readonly kind: 'enum'; readonly values: readonly string[] } {
    const fields: Field[] = [];
    const values: string[] = [];
    this.#expect('(');
    while (!this.#take(')')) {
      if (fields.length + values.length > 0) this.#expect(',');
      const doc = this.#doc;
      const name = this.#name();
      if (this.#take(':')) fields.push({ name, doc, type: this.#type() });
      else values.push(name);
    }
    if (fields.length > 0 && values.length > 0) this.#fail();
    return values.length > 0 ? { kind: 'enum', values } : { kind: 'struct', fields };
  }

  #name(): string {
    const name = this.#token;
    if (!/^[A-Za-z]/.test(name)) this.#fail();
    this.#next();
    return name;
  }

  #take(token: string): boolean {
    if (this.#token !== token) return false;
    this.#next();
    return true;
  }

  #expect(token: string): void {
    if (!this.#take(token)) this.#fail();
  }

  #next(): void {
    let doc = '';
    for (;;) {
      TOKEN.lastIndex = this.#at;
      const found = TOKEN.exec(this.#text);
      if (found === null) this.#fail();
      const [whole, comment, mark, name] = found;
      this.#at += whole.length;
      if (comment === undefined) {
        this.#token = mark ?? name ?? '';
        this.#doc = doc.trim();
        return;
      }
      doc += `${comment.slice(1).replace(/^ /, '')}\n`;
    }
  }

  #fail(): never {
    const line = this.#text.slice(0, this.#at).split('\n').length;
    const what = this.#token || 'its end';
    throw new SyntaxError(`line ${line} of the interface: ${what} is not expected`);
  }
}

/** The one of every Varlink service is as https://varlink.org/Service has it. */
export function interfaceText(name: 'io.kiln' | 'org.varlink.service' = 'io.kiln'): string {
  return readFileSync(join(packageRoot(), `src/api/${name}.varlink`), 'utf8');
}

let parsed: Interface | undefined;

export function kilnInterface(): Interface {
  parsed ??= parseInterface(interfaceText());
  return parsed;
}

/** The version of the interface: its comment names it, too. */
export const INTERFACE_VERSION = 1;

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
  problem: ParameterProblem | 'is missing, unknown, or not of its type' = 'is not of its type',
): KilnError {
  const message = parameter === '' ? 'the parameters are no object' : `${parameter} ${problem}`;
  return new KilnError('E_ARGUMENT', message, {
    hint: 'docs/reference/api.md leads to the fields',
  });
}

/** What a program gives as parameters of a method. @throws KilnError E_ARGUMENT */
export function checkTypes(method: string, parameters: object): void {
  const all = kilnInterface();
  const input = all.methods.get(method)?.input;
  try {
    if (input !== undefined) checkParameters(input, parameters, all);
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
export function checkParameters(type: Struct, value: unknown, of: Interface): object {
  return checked(type, value, '', of) as object;
}

function checked(type: Type, value: unknown, place: string, of: Interface): unknown {
  switch (type.kind) {
    case 'optional':
      return value === undefined || value === null ? undefined : checked(type.of, value, place, of);
    case 'named':
      return checked(of.types.get(type.name)?.type ?? fail(place, value), value, place, of);
    case 'array':
      if (!Array.isArray(value)) return fail(place, value);
      return value.map((item) => checked(type.of, item, place, of));
    case 'map': {
      const entries = Object.entries(object(value, place)).map(([name, item]) => {
        return [name, checked(type.of, item, `${place}.${name}`, of)];
      });
      return defined(Object.fromEntries(entries));
    }
    case 'struct':
      return checkedFields(type, object(value, place), place, of);
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
  of: Interface,
): object {
  const inside = (name: string) => (place === '' ? name : `${place}.${name}`);
  const known = new Set(fields.map(({ name }) => name));
  const unknown = Object.keys(value).find((name) => !known.has(name));
  if (unknown !== undefined) throw new InvalidParameter(inside(unknown), 'is unknown');
  const entries = fields.map(({ name, type }) => {
    // No name has a special meaning to JavaScript.
    const given = Object.hasOwn(value, name) ? value[name] : undefined;
    return [name, checked(type, given, inside(name), of)];
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
