import { type ByteString, quoteName, reportName } from './names.ts';

/** Why something was not copied, or not copied exactly as it was. Stable, scripts may match. */
export type ArtifactWarningCode =
  /** A device, socket or fifo: skipped. */
  | 'special-file'
  /** A symbolic link to something that was not collected: skipped. */
  | 'link-outside'
  /** Something in /proc, /sys or the like: skipped. */
  | 'pseudo-filesystem'
  /** A setuid or setgid bit was taken off. */
  | 'mode-bits-dropped'
  /** It was listed, then gone before it could be opened: skipped. */
  | 'vanished'
  /** It changed while being read; the copy and its digest are what was read. */
  | 'changed'
  /** It could not be opened or read: skipped. */
  | 'unreadable'
  /** A pattern that nothing was collected for. */
  | 'no-match'
  /** More warnings than are kept one by one. */
  | 'more';

/** One thing a person should know about a collection. */
export interface ArtifactWarning {
  readonly code: ArtifactWarningCode;
  /** Where it is in the box (of `no-match`: the pattern); absent for `more`. */
  readonly path?: string;
  /** The exact bytes of `path` in base64, where it is not UTF-8. */
  readonly pathBytes?: string;
  /** A sentence. */
  readonly message: string;
}

/** A hostile tree can hold a million sockets: this many warnings are told, the rest counted. */
const MAX_WARNINGS = 200;

/** Gathers warnings, each passed on at once to `notify`. */
export class Warnings {
  readonly #notify: ((warning: ArtifactWarning) => void) | undefined;
  readonly #kept: ArtifactWarning[] = [];
  #dropped = 0;

  constructor(notify?: (warning: ArtifactWarning) => void) {
    this.#notify = notify;
  }

  /** @param what completes the sentence that starts with the quoted path */
  add(code: ArtifactWarningCode, path: ByteString, what: string): void {
    if (this.#kept.length >= MAX_WARNINGS) {
      this.#dropped += 1;
      return;
    }
    const name = reportName(path);
    this.#keep({
      code,
      path: name.text,
      ...(name.bytes === undefined ? {} : { pathBytes: name.bytes }),
      message: `${quoteName(path)} ${what}`,
    });
  }

  /** Those kept so far, in order. */
  get all(): readonly ArtifactWarning[] {
    return this.#kept;
  }

  /** All warnings in order; call once, at the end. */
  finish(): readonly ArtifactWarning[] {
    if (this.#dropped > 0) {
      this.#keep({ code: 'more', message: `${this.#dropped} more warnings are not listed` });
    }
    return this.#kept;
  }

  #keep(warning: ArtifactWarning): void {
    this.#kept.push(warning);
    this.#notify?.(warning);
  }
}
