import { configError } from './problem.ts';
import type { Token } from './tokens.ts';

/** A place in the tokens of a file, which moves on as they are understood. */
export class TokenCursor {
  readonly tokens: readonly Token[];
  readonly file: string;
  at = 0;

  constructor(tokens: readonly Token[], file: string) {
    this.tokens = tokens;
    this.file = file;
  }

  /** The token that comes next; at the end, the end. */
  peek(): Token {
    return this.tokens[this.at] ?? this.tokens.at(-1)!;
  }

  /** Whether this word or operator comes next. */
  is(text: string): boolean {
    const token = this.peek();
    return (token.kind === 'operator' || token.kind === 'name') && token.text === text;
  }

  /** Goes past it if it comes next. */
  take(text: string): boolean {
    if (!this.is(text)) return false;
    this.at++;
    return true;
  }

  expect(text: string): void {
    if (!this.take(text)) throw this.unexpected(` where ${text} was expected`);
  }

  /** The error for what comes next and should not. */
  unexpected(more = '') {
    const { kind, text } = this.peek();
    const what = kind === 'newline' || kind === 'end' ? 'the end of the line' : `\`${text}\``;
    return this.error(`${what} is not understood${more}`);
  }

  error(message: string, more: { readonly hint?: string } = {}) {
    return configError(message, { file: this.file, line: this.peek().line }, more);
  }
}
