import type { Cache } from '../cache.ts';
import type { Reach } from './reach.ts';

/** How patient a download is. Times in milliseconds, rates in bytes a second. */
export interface TransferOptions {
  readonly answerTimeout: number;
  readonly idleTimeout: number;
  /** A transfer slower than this over a whole `rateWindow` is given up (dnf's minrate, 1000). */
  readonly minimumRate: number;
  readonly rateWindow: number;
  /** Tries of one file with one mirror; all mirrors together get three times as many. */
  readonly attempts: number;
  /** Pause before a mirror is asked again; doubles each time, up to thirty seconds. */
  readonly backoff: number;
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

export type RepositoryProgress =
  | {
      readonly kind: 'download';
      readonly repository: string;
      readonly item: string;
      readonly received: number;
      readonly total: number | undefined;
    }
  | {
      readonly kind: 'retry';
      readonly repository: string;
      readonly item: string;
      readonly reason: string;
    }
  /** Packages that are on this machine so far. */
  | { readonly kind: 'packages'; readonly done: number; readonly count: number }
  | { readonly kind: 'load'; readonly repository: string };

export type OnProgress = (progress: RepositoryProgress) => void;

export interface DownloadContext {
  readonly cache: Cache;
  readonly transfer: TransferOptions;
  readonly reach: Reach;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnProgress | undefined;
}
