import { hash } from 'node:crypto';
import type { RecipeUser } from '../recipe/image-recipe.ts';
import type { ScriptletPolicy } from '../recipe/load-image-recipe.ts';
import type { FileFacts } from './tree/customize.ts';

/** Raised when the same inputs give another tree, so that images of an older kiln are not used. */
export const IMAGE_FORMAT = 1;

/** Everything that decides an image: its digest is the image's id. */
interface HashedFile extends FileFacts {
  readonly digest: string;
}

export interface ImageInputs {
  readonly format: typeof IMAGE_FORMAT;
  readonly arch: string;
  /** `sha256:…`, in installation order. */
  readonly packages: readonly string[];
  /** For each package, the digest of the keys that must have signed it; null if none need. */
  readonly keys: readonly (string | null)[];
  readonly base: string | null;
  readonly files: readonly HashedFile[];
  readonly folders?: readonly string[];
  readonly users: readonly RecipeUser[];
  readonly environment: Readonly<Record<string, string>>;
  readonly user: string;
  readonly workdir: string | null;
  readonly scriptlets: ScriptletPolicy['mode'];
  readonly kernel?: true;
}

/** Independent of the order of an object's keys. @returns sha256, 64 hex digits */
export function digestOf(value: unknown): string {
  return hash('sha256', canonicalJson(value), 'hex');
}

/** Sorts keys: equal values give equal text. */
function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) => {
    if (typeof part !== 'object' || part === null || Array.isArray(part)) return part;
    return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}
