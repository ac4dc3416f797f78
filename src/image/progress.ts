import type { RepositoryProgress } from '../packages/repository/transport/progress.ts';

/** What kiln does while it makes an image. */
export type ImageProgress =
  | RepositoryProgress
  /** Another process makes this image, and this one waits. */
  | { readonly kind: 'wait'; readonly image: string }
  /** How many of the missing packages are unpacked. */
  | { readonly kind: 'unpack'; readonly done: number; readonly count: number }
  | { readonly kind: 'compose'; readonly packages: number }
  /** A scriptlet starts, or rpm itself. */
  | { readonly kind: 'script'; readonly label: string }
  /** rpm itself installs the packages, because unpacking payloads first would give another result. */
  | { readonly kind: 'exact'; readonly reasons: readonly string[] };

export type OnImageProgress = (progress: ImageProgress) => void;

/** A step without its counts: a log gets each of these once. */
export function describeProgress(progress: ImageProgress): string {
  switch (progress.kind) {
    case 'download':
      return `downloading ${progress.item} from ${progress.repository}`;
    case 'retry':
      return `trying again: ${progress.item} from ${progress.repository}: ${progress.reason}`;
    case 'packages':
      return `fetching ${progress.count} packages`;
    case 'load':
      return `reading the metadata of ${progress.repository}`;
    case 'wait':
      return `waiting for another kiln that makes image ${progress.image.slice(0, 12)}`;
    case 'unpack':
      return `unpacking ${progress.count} packages`;
    case 'compose':
      return `composing a tree of ${progress.packages} packages`;
    case 'script':
      return `running ${progress.label}`;
    case 'exact':
      return `installing with the image’s own rpm: ${progress.reasons.join(', ')}`;
  }
}
