/** A word of a setting, and whether any of it was quoted. */
export interface Word {
  readonly text: string;
  readonly quoted: boolean;
}

const SIMPLE: Readonly<Record<string, string>> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  s: ' ',
};

/** C escapes of systemd.syntax(7): one of x, u, U, octal, or a letter; what is none stays. */
const ESCAPE = /\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([0-7]{3})|([\s\S]))/y;

/**
 * Splits at white space as systemd does: quotes around words or parts of them, C escapes in and
 * outside of quotes. Undefined when a quote is not closed.
 */
export function splitWords(text: string): Word[] | undefined {
  const words: Word[] = [];
  let at = 0;
  while (at < text.length) {
    if (/\s/.test(text[at]!)) {
      at++;
      continue;
    }
    let word = '';
    let quoted = false;
    let quote = '';
    for (; at < text.length; at++) {
      const char = text[at]!;
      if (char === '\\') {
        ESCAPE.lastIndex = at;
        const match = ESCAPE.exec(text);
        if (match === null) {
          word += char;
          continue;
        }
        word += unescaped(match);
        at = ESCAPE.lastIndex - 1;
      } else if (quote !== '') {
        if (char === quote) quote = '';
        else word += char;
      } else if (char === '"' || char === "'") {
        quote = char;
        quoted = true;
      } else if (/\s/.test(char)) break;
      else word += char;
    }
    if (quote !== '') return undefined;
    words.push({ text: word, quoted });
  }
  return words;
}

function unescaped([whole, hex, short, long, octal, letter]: RegExpExecArray): string {
  const code = hex ?? short ?? long;
  if (code !== undefined) {
    const number = Number.parseInt(code, 16);
    return number <= 0x10ffff ? String.fromCodePoint(number) : whole;
  }
  if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8));
  if (letter === undefined) return whole;
  return SIMPLE[letter] ?? (/[\\"']/.test(letter) ? letter : whole);
}

/** Words without their quotes; a broken value has none. */
export function plainWords(text: string): string[] {
  return (splitWords(text) ?? []).map((word) => word.text);
}
