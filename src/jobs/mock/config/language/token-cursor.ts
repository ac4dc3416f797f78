import { configError } from './problem.ts';
import type { Token } from './tokens.ts';

/** A position in the tokens of a file. */
export class TokenCursor {
  readonly tokens: readonly Token[];
  readonly file: string;
  at = 0;

  constructor(tokens: readonly Token[], file: string) {
    this.tokens = tokens;
    this.file = file;
  }

  /** The next token; at the end, the end token. */
  peek(): Token {
    return this.tokens[this.at] ?? this.tokens.at(-1)!;
  }

  /** Whether this word or operator is next. */
  is(text: string): boolean {
    const token = this.peek();
    return (token.kind === 'operator' || token.kind === 'name') && token.text === text;
  }

  /** Skips the word or operator if it is next. */
  take(text: string): boolean {
    if (!this.is(text)) return false;
    this.at++;
    return true;
  }

  expect(text: string): void {
    if (!this.take(text)) throw this.unexpected(` where ${text} was expected`);
  }

  /** The error for an unexpected next token. */
  unexpected(more = '') {
    const { kind, text } = this.peek();
    const what = kind === 'newline' || kind === 'end' ? 'the end of the line' : `\`${text}\``;
    return this.error(`${what} is not understood${more}`);
  }

  error(message: string, more: { readonly hint?: string } = {}) {
    return configError(message, { file: this.file, line: this.peek().line }, more);
  }
}
