import { counted } from '../counted.ts';
import type { RepositoryProgress } from '../packages/repository/transport/transfer.ts';

export type ImageProgress =
  | RepositoryProgress
  /** `meant`: the recipe that the name goes on to mean. */
  | {
      readonly kind: 'make';
      readonly name: string;
      readonly from: string;
      readonly meant: string | undefined;
    }
  | { readonly kind: 'rename'; readonly name: string; readonly before: string }
  | { readonly kind: 'wait'; readonly image: string }
  | { readonly kind: 'unpack'; readonly done: number; readonly count: number }
  | { readonly kind: 'compose'; readonly packages: number }
  | { readonly kind: 'script'; readonly label: string }
  /** rpm itself installs them, because unpacking payloads first would give another result. */
  | { readonly kind: 'exact'; readonly reasons: readonly string[] };

export type OnImageProgress = (progress: ImageProgress) => void;

export function describeProgress(progress: ImageProgress): string {
  switch (progress.kind) {
    case 'make':
      return progress.meant === undefined
        ? `making ${progress.name} from ${progress.from}`
        : `making an image from ${progress.from}; its name goes on to mean ${progress.meant}`;
    case 'rename':
      return `${progress.name} meant image ${progress.before.slice(0, 12)} before`;
    case 'download':
      return `downloading ${progress.item} from ${progress.repository}`;
    case 'retry':
      return `trying again: ${progress.item} from ${progress.repository}: ${progress.reason}`;
    case 'packages':
      return `fetching ${packageCount(progress.count)}`;
    case 'load':
      return `reading the metadata of ${progress.repository}`;
    case 'wait':
      return `waiting for another kiln that makes image ${progress.image.slice(0, 12)}`;
    case 'unpack':
      return `unpacking ${packageCount(progress.count)}`;
    case 'compose':
      return `composing a tree of ${packageCount(progress.packages)}`;
    case 'script':
      return `running ${progress.label}`;
    case 'exact':
      return `installing with the image’s own rpm: ${progress.reasons.join(', ')}`;
  }
}

export function packageCount(count: number): string {
  return counted(count, 'package');
}

export function progressCounts(progress: ImageProgress): {
  readonly done?: number;
  readonly total?: number;
} {
  if (progress.kind === 'packages' || progress.kind === 'unpack') {
    return { done: progress.done, total: progress.count };
  }
  if (progress.kind !== 'download') return {};
  return { done: progress.received, ...(progress.total ? { total: progress.total } : {}) };
}
