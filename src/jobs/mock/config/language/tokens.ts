import { configError } from './values.ts';

export interface Token {
  /** `format` is an f-string, its value not yet unescaped; `newline` ends a statement. */
  readonly kind: 'name' | 'number' | 'string' | 'format' | 'operator' | 'newline' | 'end';
  readonly text: string;
  readonly line: number;
  /** The indentation of the statement: characters before the token in its line. */
  readonly column: number;
  readonly raw: boolean;
}

/** Bytes of a configuration file; mock's largest have 20 KB. */
export const CONFIG_SIZE_LIMIT = 1024 * 1024;

const STRING = /[rRbBuUfF]{0,2}(?:'''|"""|'|")/y;
const NUMBER = /0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?/y;
const NAME = /[A-Za-z_]\w*/y;
const OPERATOR = /\+=|\*\*|==|!=|<=|>=|[-+*/%=<>()[\]{},:.;]/y;
const SKIPPED = /(?:[ \t\f\r]|\\\r?\n)+|#[^\n]*/y;

/**
 * Splits a configuration file into tokens by Python's rules. A line end inside brackets does not end a statement.
 * @throws KilnError E_MOCK_CONFIG for text that is not Python
 */
export function tokenize(text: string, file: string): Token[] {
  return new Tokenizer(text, file).run();
}

class Tokenizer {
  readonly #text: string;
  readonly #file: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  #line = 1;
  #lineStart = 0;
  readonly #brackets: number[] = [];

  constructor(text: string, file: string) {
    this.#text = text.startsWith('\ufeff') ? text.slice(1) : text;
    this.#file = file;
  }

  run(): Token[] {
    while (this.#at < this.#text.length) this.#step();
    const open = this.#brackets.at(-1);
    if (open !== undefined) {
      const place = { file: this.#file, line: open };
      throw configError('a bracket that is opened here is never closed', place);
    }
    this.#push('newline', '');
    this.#push('end', '');
    return this.#tokens;
  }

  #step(): void {
    const skipped = this.#match(SKIPPED);
    const opening = this.#match(STRING);
    if (skipped !== undefined) this.#advance(skipped);
    else if (this.#text[this.#at] === '\n') {
      if (this.#brackets.length === 0) this.#push('newline', '');
      this.#advance('\n');
    } else if (opening !== undefined) this.#string(opening);
    else this.#word();
  }

  #word(): void {
    for (const [kind, pattern] of [
      ['number', NUMBER],
      ['name', NAME],
      ['operator', OPERATOR],
    ] as const) {
      const found = this.#match(pattern);
      if (found === undefined) continue;
      this.#push(kind, found);
      if ('([{'.includes(found)) this.#brackets.push(this.#line);
      if (')]}'.includes(found)) this.#brackets.pop();
      this.#advance(found);
      return;
    }
    throw this.#error(`unexpected ${JSON.stringify(this.#text[this.#at])}`);
  }

  #string(opening: string): void {
    const [quote = ''] = /['"]+$/.exec(opening) ?? [];
    const kinds = opening.toLowerCase();
    const start = this.#at + opening.length;
    let end = start;
    for (; !this.#text.startsWith(quote, end); end++) {
      if (end >= this.#text.length || (quote.length === 1 && this.#text[end] === '\n')) {
        throw this.#error(`the string that starts here has no end (${quote})`);
      }
      if (this.#text[end] === '\\') end++;
    }
    const body = this.#text.slice(start, end);
    const raw = kinds.includes('r');
    if (kinds.includes('f')) this.#push('format', body, raw);
    else this.#push('string', raw ? body : unescapeText(body));
    this.#advance(this.#text.slice(this.#at, end + quote.length));
  }

  #push(kind: Token['kind'], text: string, raw = false): void {
    const column = this.#at - this.#lineStart;
    this.#tokens.push({ kind, text, line: this.#line, column, raw });
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    return pattern.exec(this.#text)?.[0];
  }

  #advance(text: string): void {
    const end = this.#at + text.length;
    for (let at = text.indexOf('\n'); at !== -1; at = text.indexOf('\n', at + 1)) {
      this.#line++;
      this.#lineStart = this.#at + at + 1;
    }
    this.#at = end;
  }

  #error(message: string) {
    return configError(message, { file: this.#file, line: this.#line });
  }
}

/** Python's string literals, as the "Lexical analysis" chapter of its reference has them. */

const ESCAPES: Readonly<Record<string, string>> = {
  '\\': '\\',
  "'": "'",
  '"': '"',
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\n': '',
};

/** Unescapes a literal. Unknown escapes, and `\N{…}`, which is not looked up, stay as they are. */
export function unescapeText(text: string): string {
  return text.replace(
    /\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|([\s\S]))/g,
    (whole, x?: string, u?: string, long?: string, octal?: string, letter?: string) => {
      const hex = x ?? u ?? long;
      if (hex !== undefined) {
        const code = Number.parseInt(hex, 16);
        return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
      }
      if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8));
      return ESCAPES[letter ?? ''] ?? whole;
    },
  );
}
