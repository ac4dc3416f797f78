/** Package files on their way to the children that read them, and what came of each. */
import { closeSync } from 'node:fs';
import { rebuildError } from '../confine/flat-error.ts';
import type { HandedFile, Handout } from '../confine/handout.ts';
import { KilnError } from '../errors.ts';
import { openFile } from './open-files.ts';
import type { RpmPackage } from './package.ts';

/** Groups under way to all children together: the socket has room for them, the kernel's limits too. */
const GROUPS_AWAY = 25;

/** What came of one file. */
export type ReadResult<Read = RpmPackage> = { readonly file: string; readonly index: number } & (
  | { readonly package: Read; readonly error?: never }
  | { readonly error: KilnError; readonly package?: never }
);

/** A file that could not even be opened. */
export interface FailedFile {
  readonly file: string;
  readonly index: number;
  readonly error: KilnError;
}

/** Checks what a child sent. */
export type Take<Read> = (value: unknown) => Read;

/** Hands over the files of one call, a few at a time, and knows who has yet to be answered for. */
export class Feed {
  readonly #files: readonly string[];
  readonly #handout: Handout;
  readonly #group: number;
  readonly #away = new Set<number>();
  #next = 0;

  constructor(files: readonly string[], handout: Handout, group: number) {
    this.#files = files;
    this.#handout = handout;
    this.#group = group;
  }

  /** Opens and hands over as many as may be under way; those that cannot be opened are results. */
  more(): FailedFile[] {
    const failed: FailedFile[] = [];
    const most = this.#group * GROUPS_AWAY;
    while (this.#next < this.#files.length && this.#away.size + this.#group <= most) {
      this.#handGroup(failed);
    }
    if (this.#next === this.#files.length) this.#handout.end();
    return failed;
  }

  #handGroup(failed: FailedFile[]): void {
    const group: HandedFile[] = [];
    try {
      while (group.length < this.#group && this.#next < this.#files.length) {
        const index = this.#next;
        const file = this.#files[index]!;
        this.#next += 1;
        try {
          group.push({ index, fd: openFile(file).fd });
        } catch (error) {
          if (!(error instanceof KilnError)) throw error;
          failed.push({ file, index, error });
        }
      }
      if (group.length > 0) this.#handout.hand(group);
      for (const { index } of group) this.#away.add(index);
    } finally {
      for (const { fd } of group) closeSync(fd);
    }
  }

  /** Checks a child's answers: one for each file, and for no other. @throws for anything else. */
  answered<Read>(values: unknown, take: Take<Read>): ReadResult<Read>[] {
    if (!Array.isArray(values)) throw new TypeError('it is no list');
    return values.map((value: unknown) => {
      const message = value as { index?: unknown; package?: unknown; error?: unknown };
      const index = message.index as number;
      if (!this.#away.delete(index)) throw new TypeError(`there is no file ${index} to answer for`);
      const item = { index, file: this.#files[index]! };
      if (message.error !== undefined) {
        return { ...item, error: aboutFile(item.file, rebuildError(message.error)) };
      }
      return { ...item, package: take(message.package) };
    });
  }

  /** @throws KilnError E_CONFINE_PROTOCOL when a file has not been answered for. */
  assertDone(): void {
    const [index] = this.#away;
    if (index === undefined) return;
    const file = this.#files[index];
    throw new KilnError('E_CONFINE_PROTOCOL', `${file}: the confined child said nothing`);
  }
}

/** The same error with the file's name in front. */
export function aboutFile(file: string, error: KilnError): KilnError {
  return new KilnError(error.code, `${file}: ${error.message}`, {
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    ...(error.details === undefined ? {} : { details: error.details }),
    cause: error.cause,
  });
}
