/** Reads an interface definition of Varlink (https://varlink.org/Interface-Definition). */

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

/** `doc` is its comment; empty without one. */
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

/** A whole interface, with its members in the order of the definition. */
export interface Interface {
  readonly name: string;
  readonly doc: string;
  readonly types: ReadonlyMap<string, { readonly doc: string; readonly type: Type }>;
  readonly methods: ReadonlyMap<string, Method>;
  readonly errors: ReadonlyMap<string, { readonly doc: string; readonly type: Struct }>;
}

const TOKEN = /[ \t\r\n]*(?:(#[^\n]*)|(->|\[string\]|\[\]|[?:,()])|([A-Za-z][\w.-]*)|$)/y;

const PLAIN = ['bool', 'int', 'float', 'string', 'object'] as const;

/** @throws SyntaxError with the line of the first mistake */
export function parseInterface(text: string): Interface {
  return new Parser(text).interface();
}

class Parser {
  readonly #text: string;
  #at = 0;
  /** The next token; empty at the end. */
  #token = '';
  /** The comment before the token. */
  #doc = '';

  constructor(text: string) {
    this.#text = text;
    this.#next();
  }

  interface(): Interface {
    const { doc } = this;
    this.#expect('interface');
    const name = this.#name();
    const types = new Map<string, { doc: string; type: Type }>();
    const methods = new Map<string, Method>();
    const errors = new Map<string, { doc: string; type: Struct }>();
    while (this.#token !== '') {
      const of = this.doc;
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

  get doc(): string {
    return this.#doc;
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

  /** The fields of a struct, or the values of an enum. */
  #braced(): Struct | { readonly kind: 'enum'; readonly values: readonly string[] } {
    const fields: Field[] = [];
    const values: string[] = [];
    this.#expect('(');
    while (!this.#take(')')) {
      if (fields.length + values.length > 0) this.#expect(',');
      const { doc } = this;
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
    throw new SyntaxError(
      `line ${line} of the interface: ${this.#token || 'its end'} is not expected`,
    );
  }
}
