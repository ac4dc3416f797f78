/** How patient a download is. Times in milliseconds, rates in bytes a second. */
export interface TransferOptions {
  /** From the request to the answer's first line. */
  readonly answerTimeout: number;
  /** Without a single byte. */
  readonly idleTimeout: number;
  /** A transfer slower than this over a whole `rateWindow` is given up (dnf's minrate, 1000). */
  readonly minimumRate: number;
  readonly rateWindow: number;
  /** Tries of one file with one mirror; all mirrors together get three times as many. */
  readonly attempts: number;
  /** Pause before a mirror is asked again; doubles each time, up to thirty seconds. */
  readonly backoff: number;
  /** Files at once. */
  readonly parallel: number;
}

export const defaultTransfer: TransferOptions = {
  answerTimeout: 30_000,
  idleTimeout: 30_000,
  minimumRate: 1000,
  rateWindow: 30_000,
  attempts: 5,
  backoff: 500,
  parallel: 6,
};
