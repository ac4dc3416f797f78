import { constants } from 'node:os';
import { signalName } from '../../host/process/signals.ts';

export type ExitStatusSet = ReadonlySet<number | string>;

export interface UnitSetting {
  readonly section: string;
  readonly key: string;
  readonly value: string;
  readonly file: string;
  readonly line: number;
}

/** Continued lines are joined; comments are dropped, even between continued lines. */
function* logicalLines(text: string): Generator<{ readonly line: number; readonly text: string }> {
  let pending = '';
  let start = 0;
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.replace(/^[ \t]+/, '').replace(/\r$/, '');
    if (line.startsWith('#') || line.startsWith(';')) continue;
    if (pending === '') start = index + 1;
    if (/\\$/.test(line)) {
      pending += `${line.slice(0, -1)} `;
      continue;
    }
    const whole = pending + line;
    pending = '';
    if (whole.trim() !== '') yield { line: start, text: whole.trim() };
  }
  if (pending.trim() !== '') yield { line: start, text: pending.trim() };
}

export function parseUnitFile(file: string, text: string) {
  const settings: UnitSetting[] = [];
  const complaints: string[] = [];
  let section: string | undefined;
  for (const { line, text: content } of logicalLines(text)) {
    if (content.startsWith('[')) {
      section = content.endsWith(']') ? content.slice(1, -1) : undefined;
      if (section === undefined) complaints.push(`${file}:${line}: no section: ${content}`);
      continue;
    }
    const equals = content.indexOf('=');
    if (equals < 1) {
      complaints.push(`${file}:${line}: no setting: ${content.slice(0, 60)}`);
      continue;
    }
    if (section === undefined) {
      complaints.push(`${file}:${line}: a setting outside of a section: ${content}`);
      continue;
    }
    const key = content.slice(0, equals).trimEnd();
    const value = content.slice(equals + 1).trimStart();
    settings.push({ section, key, value, file, line });
  }
  return { settings, complaints };
}

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

/** C escapes of systemd.syntax(7): x, u, U, octal, or a letter. Anything else stays. */
const ESCAPE = /\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([0-7]{3})|([\s\S]))/y;

/**
 * As systemd splits: with quotes around words or parts of them, and C escapes in and outside of quotes.
 * Undefined if a quote is not closed.
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

export function plainWords(text: string): string[] {
  return (splitWords(text) ?? []).map((word) => word.text);
}

export function withoutPrefix(capability: string): string {
  return capability.toUpperCase().replace(/^CAP_/, '');
}

export function signalOf(text: string): NodeJS.Signals | undefined {
  if (/^\d+$/.test(text)) return signalName(Number(text));
  const name = `SIG${text.toUpperCase().replace(/^SIG/, '')}`;
  return name in constants.signals ? (name as NodeJS.Signals) : undefined;
}

export function exitStatusSet(values: readonly string[]): ExitStatusSet {
  const words = values.flatMap(plainWords);
  return new Set(
    words.map((word) => (/^\d+$/.test(word) ? Number(word) : (signalOf(word) ?? word))),
  );
}

const TRUE = new Set(['1', 'yes', 'y', 'true', 't', 'on']);
const FALSE = new Set(['0', 'no', 'n', 'false', 'f', 'off']);

export class SettingList {
  readonly #settings: readonly UnitSetting[];

  constructor(settings: readonly UnitSetting[]) {
    this.#settings = settings;
  }

  last(...keys: readonly string[]): string | undefined {
    return this.#settings.findLast(({ key }) => keys.includes(key))?.value || undefined;
  }

  /** An empty value discards those before it. */
  all(...keys: readonly string[]): string[] {
    let values: string[] = [];
    for (const { key, value } of this.#settings) {
      if (!keys.includes(key)) continue;
      if (value === '') values = [];
      else values.push(value);
    }
    return values;
  }

  has(key: string): boolean {
    return this.#settings.some((setting) => setting.key === key);
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.last(key)?.toLowerCase() ?? '';
    if (TRUE.has(value)) return true;
    return FALSE.has(value) ? false : fallback;
  }
}
