/** The keys that leave a terminal: what runs there goes on. */
import { InvalidArgumentError } from 'commander';
import type { Kind } from './kind.ts';

/** podman's and docker's. */
export const LEAVE_KEYS = 'ctrl-p,ctrl-q';

const HOW = 'write keys as letters or ctrl-LETTER, with commas: ctrl-p,ctrl-q; "" is none.';

/** ASCII: @, A to Z, [, \, ], ^ and _ with 64 less are the control characters. */
function byteOf(key: string): number {
  const [, letter] = /^ctrl-([a-z@[\\\]^_])$/i.exec(key) ?? [];
  if (letter !== undefined) return letter.toUpperCase().charCodeAt(0) - 64;
  if (/^[!-~]$/.test(key)) return key.charCodeAt(0);
  throw new InvalidArgumentError(HOW);
}

/** Several keys, one after the other. @throws InvalidArgumentError */
export function keyBytes(words: string): Buffer {
  return Buffer.from(words === '' ? [] : words.split(',').map(byteOf));
}

export const leaveKeys: Kind<string> = {
  term: 'keys',
  read: (word) => {
    keyBytes(word);
    return word;
  },
};

/** `^P^Q` */
export function shownKeys(words: string): string {
  const shown = [...keyBytes(words)].map((byte) =>
    byte < 32 ? `^${String.fromCharCode(byte + 64)}` : String.fromCharCode(byte),
  );
  return shown.join('');
}

/** Finds the keys in what is typed. The first of several are held back until the next key says what they are. */
export class LeaveKeys {
  readonly #keys: Buffer;
  #matched = 0;

  constructor(words: string) {
    this.#keys = keyBytes(words);
  }

  /** What goes to the terminal, and whether all keys have come; nothing behind them counts. */
  take(bytes: Buffer): { readonly typed: Buffer; readonly hasLeft: boolean } {
    if (this.#keys.length === 0) return { typed: bytes, hasLeft: false };
    const typed: number[] = [];
    for (const byte of bytes) {
      if (byte !== this.#keys[this.#matched]) {
        typed.push(...this.#keys.subarray(0, this.#matched));
        this.#matched = 0;
      }
      if (byte !== this.#keys[this.#matched]) typed.push(byte);
      else if (++this.#matched === this.#keys.length) {
        this.#matched = 0;
        return { typed: Buffer.from(typed), hasLeft: true };
      }
    }
    return { typed: Buffer.from(typed), hasLeft: false };
  }
}
