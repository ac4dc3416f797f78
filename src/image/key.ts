import { createHash } from 'node:crypto';
import type { RecipeUser } from '../recipe/image-recipe.ts';
import type { ScriptletPolicy } from '../recipe/load-image-recipe.ts';

/** Raised when the same inputs give another tree than before, so that images of an older kiln are not used. */
export const IMAGE_FORMAT = 1;

/** An extra file of an image, with the digest of its content. */
interface ImageFile {
  readonly path: string;
  /** sha256 of the content, hex. */
  readonly digest: string;
  readonly mode: number;
  readonly owner: string;
  readonly group: string;
}

/** Everything that decides an image, and nothing else: its digest is the image's id. */
export interface ImageInputs {
  readonly format: typeof IMAGE_FORMAT;
  readonly arch: string;
  /** `sha256:…` of each package file, in installation order. */
  readonly packages: readonly string[];
  /** For each package, the digest of the keys that must have signed it; null if none need. */
  readonly keys: readonly (string | null)[];
  /** The id of the base image, whose packages come first; null for none. */
  readonly base: string | null;
  readonly files: readonly ImageFile[];
  readonly users: readonly RecipeUser[];
  readonly environment: Readonly<Record<string, string>>;
  readonly user: string;
  readonly workdir: string | null;
  readonly scriptlets: ScriptletPolicy['mode'];
}

/** The id of the image that these inputs make: sha256 in hex. */
export function imageId(inputs: ImageInputs): string {
  return createHash('sha256').update(canonicalJson(inputs)).digest('hex');
}

/** JSON with sorted keys: equal values give equal text, whoever made them. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) => {
    if (typeof part !== 'object' || part === null || Array.isArray(part)) return part;
    return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}

/** This machine's architecture as rpm names it. */
export function hostArchitecture(): string {
  const names: Readonly<Record<string, string>> = {
    x64: 'x86_64',
    arm64: 'aarch64',
    ppc64: 'ppc64le',
    ia32: 'i686',
  };
  return names[process.arch] ?? process.arch;
}
