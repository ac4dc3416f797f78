import type { BigIntStats } from 'node:fs';
import { counted } from '../counted.ts';
import { defined } from '../defined.ts';
import type { WarningCode } from '../error-codes.ts';
import { type ByteString, quoteName, reportName } from './byte-string.ts';

export interface Warning {
  readonly code: WarningCode;
  readonly path?: string;
  readonly pathBytes?: string;
  readonly message: string;
}

/** A hostile tree can hold a million sockets: this many warnings are told, the rest counted. */
const MAX_WARNINGS = 200;

/** Characters of all warnings: a path can have 4096 bytes, each of which may be escaped. */
const MAX_TEXT = 1 << 18;

export class Warnings {
  readonly #notify: ((warning: Warning) => void) | undefined;
  readonly #kept: Warning[] = [];
  #dropped = 0;
  #text = 0;

  constructor(notify?: (warning: Warning) => void) {
    this.#notify = notify;
  }

  addDroppedBits(path: ByteString, { mode }: BigIntStats): void {
    const bits = Number(mode) & 0o7777;
    if ((bits & 0o6000) === 0) return;
    const what = `was copied without its setuid or setgid bit (mode 0${bits.toString(8)})`;
    this.add('mode-bits-dropped', path, what);
  }

  add(code: WarningCode, path: ByteString, what: string): void {
    if (this.#kept.length >= MAX_WARNINGS || this.#text > MAX_TEXT) {
      this.#dropped += 1;
      return;
    }
    const name = reportName(path);
    this.#keep({
      code,
      path: name.text,
      ...defined({ pathBytes: name.bytes }),
      message: `${quoteName(path)} ${what}`,
    });
  }

  finish(): readonly Warning[] {
    if (this.#dropped > 0) {
      this.#keep({
        code: 'more',
        message: `${counted(this.#dropped, 'more warning is', 'more warnings are')} not listed`,
      });
    }
    return this.#kept;
  }

  #keep(warning: Warning): void {
    this.#text += warning.message.length;
    this.#kept.push(warning);
    this.#notify?.(warning);
  }
}
