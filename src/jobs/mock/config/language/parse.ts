import { type Token, tokenize, unescapeText } from './tokens.ts';
import { configError } from './values.ts';

export type Expression = Readonly<
  | { kind: 'constant'; value: string | number | boolean | null }
  | { kind: 'name'; name: string; line: number }
  | { kind: 'list'; items: readonly Expression[] }
  | { kind: 'dict'; entries: readonly (readonly [Expression, Expression])[] }
  | { kind: 'join'; parts: readonly Expression[] }
  | { kind: 'item'; of: Expression; key: Expression; line: number }
  | { kind: 'attribute'; of: Expression; name: string; line: number }
  | { kind: 'call'; callee: Expression; arguments: readonly Expression[]; line: number }
  | { kind: 'not'; of: Expression }
  | { kind: 'negative'; of: Expression; line: number }
  | { kind: 'binary'; operator: BinaryOperator; left: Expression; right: Expression; line: number }
  | { kind: 'choice'; condition: Expression; then: Expression; otherwise: Expression }
>;

export type BinaryOperator =
  | ('and' | 'or' | 'in' | 'not in')
  | ('==' | '!=' | '<' | '<=' | '>' | '>=')
  | ('+' | '%');

export type Statement = Readonly<
  | { kind: 'assign'; target: Expression; value: Expression; add: boolean; line: number }
  | { kind: 'expression'; expression: Expression; line: number }
  | { kind: 'delete'; target: Expression; line: number }
  /** An import: ignored, and its uses are reported. */
  | { kind: 'import'; text: string; line: number }
>;

/** Deeper nesting is not written by a person. */
const MAX_DEPTH = 64;

/** Statements that branch or repeat: kiln does not execute them, so they are refused. */
const CONTROL = new Set(
  `if elif else for while def class try except finally with return raise lambda global assert
  exec`.split(/\s+/),
);

/** From the weakest; `not`, which has one side, stands between the second and the third. */
const OPERATORS: readonly (readonly string[])[] = [
  ['or'],
  ['and'],
  ['==', '!=', '<', '<=', '>', '>=', 'in', 'not in'],
  ['+', '%'],
];
const COMPARISON = 2;

const CONSTANTS = new Map(Object.entries({ True: true, False: false, None: null }));

/**
 * Parses a configuration file: assignments, calls and expressions. Executes nothing.
 * @throws KilnError E_MOCK_CONFIG with file and line for everything else
 */
export function parse(text: string, file: string): Statement[] {
  return new Parser(tokenize(text, file), file).statements();
}

class Parser {
  readonly #tokens: readonly Token[];
  readonly #file: string;
  #at = 0;
  #depth = 0;

  constructor(tokens: readonly Token[], file: string) {
    this.#tokens = tokens;
    this.#file = file;
  }

  statements(): Statement[] {
    const statements: Statement[] = [];
    for (;;) {
      while (this.#peek().kind === 'newline' || this.#is(';')) this.#at++;
      if (this.#peek().kind === 'end') return statements;
      if (this.#peek().column > 0 && this.#tokens[this.#at - 1]?.kind !== 'operator') {
        throw this.#error('indented statements are not understood');
      }
      const statement = this.#statement();
      if (statement !== undefined) statements.push(statement);
      if (this.#peek().kind !== 'newline' && !this.#is(';')) throw this.#unexpected();
    }
  }

  whole(): Expression {
    const expression = this.#expression();
    if (this.#peek().kind !== 'newline') throw this.#unexpected();
    return expression;
  }

  #statement(): Statement | undefined {
    const { kind, text, line } = this.#peek();
    if (kind === 'name' && CONTROL.has(text)) {
      throw this.#error(`\`${text}\` is not understood: kiln reads configurations, it runs none`, {
        hint: 'write the values that it comes to, or use a Jinja template in the value',
      });
    }
    if (kind === 'name' && (text === 'import' || text === 'from')) {
      const words: string[] = [];
      for (; this.#peek().kind !== 'newline'; this.#at++) words.push(this.#peek().text);
      return { kind: 'import', text: words.join(' '), line };
    }
    if (this.#take('pass')) return undefined;
    if (this.#take('del')) {
      return { kind: 'delete', target: this.#target(this.#expression()), line };
    }
    const expression = this.#expression();
    for (const operator of ['=', '+=']) {
      if (!this.#take(operator)) continue;
      const value = this.#expression();
      const target = this.#target(expression);
      return { kind: 'assign', target, value, add: operator === '+=', line };
    }
    return { kind: 'expression', expression, line };
  }

  #target(expression: Expression): Expression {
    if (['name', 'item', 'attribute'].includes(expression.kind)) return expression;
    throw this.#error('only names and items can be assigned to');
  }

  #expression(): Expression {
    return this.#nested(() => {
      const then = this.#binary(0);
      if (!this.#take('if')) return then;
      const condition = this.#binary(0);
      if (!this.#take('else')) throw this.#unexpected();
      return { kind: 'choice', condition, then, otherwise: this.#expression() };
    });
  }

  #binary(level: number): Expression {
    if (level === COMPARISON && this.#take('not')) {
      return { kind: 'not', of: this.#nested(() => this.#binary(COMPARISON)) };
    }
    if (level === OPERATORS.length) return this.#unary();
    let left = this.#binary(level + 1);
    for (;;) {
      const operator = this.#operatorAt(level);
      if (operator === undefined) return left;
      const { line } = this.#peek();
      this.#at += operator === 'not in' ? 2 : 1;
      left = { kind: 'binary', operator, left, right: this.#binary(level + 1), line };
      if (level === COMPARISON && this.#operatorAt(level) !== undefined) {
        throw this.#error('chained comparisons are not understood');
      }
    }
  }

  #operatorAt(level: number): BinaryOperator | undefined {
    const { kind, text } = this.#peek();
    if (kind !== 'name' && kind !== 'operator') return undefined;
    const next = this.#tokens[this.#at + 1]?.text;
    const operator = text === 'not' && next === 'in' ? 'not in' : text;
    return OPERATORS[level]?.includes(operator) ? (operator as BinaryOperator) : undefined;
  }

  #unary(): Expression {
    const { line } = this.#peek();
    if (this.#take('-')) return { kind: 'negative', of: this.#nested(() => this.#unary()), line };
    return this.#trailers(this.#atom());
  }

  #nested(parse: () => Expression): Expression {
    if (++this.#depth > MAX_DEPTH) throw this.#error('this is nested too deeply');
    const result = parse();
    this.#depth--;
    return result;
  }

  #trailers(start: Expression): Expression {
    let it = start;
    for (;;) {
      const { line } = this.#peek();
      if (this.#take('[')) {
        it = { kind: 'item', of: it, key: this.#expression(), line };
        this.#expect(']');
      } else if (this.#take('.')) {
        const name = this.#peek();
        if (name.kind !== 'name') throw this.#unexpected();
        this.#at++;
        it = { kind: 'attribute', of: it, name: name.text, line };
      } else if (this.#take('(')) {
        it = { kind: 'call', callee: it, arguments: this.#list(')'), line };
      } else return it;
    }
  }

  #atom(): Expression {
    const { kind, text, line } = this.#peek();
    if (kind === 'string' || kind === 'format') return this.#strings();
    if (this.#take('[')) return { kind: 'list', items: this.#list(']') };
    if (this.#take('(')) return this.#parenthesis();
    if (this.#take('{')) return { kind: 'dict', entries: this.#items('}', () => this.#entry()) };
    if (kind !== 'number' && (kind !== 'name' || CONTROL.has(text))) throw this.#unexpected();
    this.#at++;
    const value = kind === 'number' ? this.#number(text) : CONSTANTS.get(text);
    return value === undefined ? { kind: 'name', name: text, line } : { kind: 'constant', value };
  }

  #number(text: string): number {
    return /^0[0-7]+$/.test(text) ? Number.parseInt(text, 8) : Number(text);
  }

  /** `(a)` is a, `(a,)` and `()` are tuples, which count as lists. */
  #parenthesis(): Expression {
    if (this.#take(')')) return { kind: 'list', items: [] };
    const first = this.#expression();
    if (this.#take(')')) return first;
    if (!this.#take(',')) throw this.#unexpected();
    return { kind: 'list', items: [first, ...this.#list(')')] };
  }

  #list(closing: string): Expression[] {
    return this.#items(closing, () => this.#expression());
  }

  #entry(): [Expression, Expression] {
    const key = this.#expression();
    this.#expect(':');
    return [key, this.#expression()];
  }

  #items<Item>(closing: string, read: () => Item): Item[] {
    const items: Item[] = [];
    while (!this.#take(closing)) {
      items.push(read());
      if (this.#take(',')) continue;
      this.#expect(closing);
      break;
    }
    return items;
  }

  #strings(): Expression {
    const parts: Expression[] = [];
    for (;;) {
      const token = this.#peek();
      if (token.kind === 'string') parts.push({ kind: 'constant', value: token.text });
      else if (token.kind === 'format') parts.push(...this.#formatString(token));
      else break;
      this.#at++;
    }
    const [only] = parts;
    return parts.length === 1 && only?.kind === 'constant' ? only : { kind: 'join', parts };
  }

  #formatString(token: Token): Expression[] {
    const parts: Expression[] = [];
    let plain = '';
    const endText = () => {
      const value = token.raw ? plain : unescapeText(plain);
      parts.push({ kind: 'constant', value });
      plain = '';
    };
    for (const [piece, inner] of token.text.matchAll(/\{\{|\}\}|\{([^{}]*)\}|[^{}]+|[{}]/g)) {
      if (piece === '{{' || piece === '}}') plain += piece[0];
      else if (inner === undefined) plain += piece;
      else {
        endText();
        const tokens = tokenize(inner, this.#file).map((t) => ({ ...t, line: token.line }));
        parts.push(new Parser(tokens, this.#file).whole());
      }
    }
    endText();
    return parts;
  }

  #peek(): Token {
    return this.#tokens[this.#at] ?? this.#tokens.at(-1)!;
  }

  #is(text: string): boolean {
    const token = this.#peek();
    return (token.kind === 'operator' || token.kind === 'name') && token.text === text;
  }

  #take(text: string): boolean {
    if (!this.#is(text)) return false;
    this.#at++;
    return true;
  }

  #expect(text: string): void {
    if (!this.#take(text)) throw this.#unexpected(` where ${text} was expected`);
  }

  #unexpected(more = '') {
    const { kind, text } = this.#peek();
    const what = kind === 'newline' || kind === 'end' ? 'the end of the line' : `\`${text}\``;
    return this.#error(`${what} is not understood${more}`);
  }

  #error(message: string, more: { readonly hint?: string } = {}) {
    return configError(message, { file: this.#file, line: this.#peek().line }, more);
  }
}
