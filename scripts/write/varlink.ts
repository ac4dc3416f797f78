/** Reads io.kiln.varlink (https://varlink.org/Interface-Definition), for what is written from it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export function interfaceText(): string {
  return readFileSync(join(import.meta.dirname, '../../src/api/io.kiln.varlink'), 'utf8');
}

/** The type of a field. */
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

/** The types, and what methods take and give, as a table for src/api/interface.ts. */
export function interfaceTable({ types, methods }: Interface): string {
  const table = {
    types: Object.fromEntries([...types].map(([name, { type }]) => [name, type])),
    methods: Object.fromEntries(methods),
  };
  return JSON.stringify(table, (key, value) => (key === 'doc' ? undefined : value), 2);
}

/** The number that the interface's comment names. */
export function versionOf({ doc }: Interface): number {
  return Number(/^Version (\d+)$/m.exec(doc)?.[1]);
}
