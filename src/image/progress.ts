import type { RepositoryProgress } from '../repository/progress.ts';

/** What making an image is busy with. */
export type ImageProgress =
  | RepositoryProgress
  /** Another process makes this very image; this one waits for it. */
  | { readonly kind: 'wait'; readonly image: string }
  /** Packages that are unpacked so far, of those that were not. */
  | { readonly kind: 'unpack'; readonly done: number; readonly count: number }
  | { readonly kind: 'compose'; readonly packages: number }
  /** A scriptlet starts, or rpm itself. */
  | { readonly kind: 'script'; readonly label: string }
  /** Payloads first would not give what rpm gives. */
  | { readonly kind: 'exact'; readonly reasons: readonly string[] };

export type OnImageProgress = (progress: ImageProgress) => void;
