import { z } from 'zod';
import { parseLockText } from './lock-file.ts';

/** mock's buildroot_lock.json, versions 1.x (its docs/buildroot-lock-schema-1.1.0.json). */

const rpmSchema = z.object({
  name: z.string().min(1),
  arch: z.string().min(1),
  epoch: z.string().regex(/^\d+$/).nullable(),
  version: z.string().min(1),
  release: z.string().min(1),
  license: z.string(),
  sigmd5: z.string().regex(/^[0-9a-f]{32}$/),
  /** The last eight digits of the id of the key that signed it. */
  signature: z.string().nullable(),
  /** Of the package itself. */
  url: z.string().regex(/^(https?|file):\/\//),
});

const buildrootLockSchema = z.looseObject({
  version: z.string().regex(/^1\.\d+\.\d+$/, 'a version 1.x of the format'),
  buildroot: z.looseObject({ rpms: z.array(rpmSchema) }),
  bootstrap: z.looseObject({}).optional(),
  config: z.looseObject({ target_arch: z.string().optional() }),
});

export type BuildrootLock = z.output<typeof buildrootLockSchema>;
export type BuildrootRpm = BuildrootLock['buildroot']['rpms'][number];

/** The version that {@link serializeBuildrootLock}'s callers write. */
export const buildrootLockVersion = '1.1.0';

/**
 * Reads a buildroot_lock.json.
 * @param origin what messages call it: the file's path.
 * @throws KilnError E_LOCK_INVALID
 */
export function parseBuildrootLock(text: string, origin: string): BuildrootLock {
  return parseLockText(text, origin, {
    schema: buildrootLockSchema,
    name: "mock's lock of a buildroot",
    hint: 'mock --calculate-build-dependencies makes one',
  });
}

/** The text mock would write: keys sorted, four spaces, all else than ASCII escaped. */
export function serializeBuildrootLock(lock: BuildrootLock): string {
  const text = JSON.stringify(sorted(lock), undefined, 4);
  const escaped = text.replace(
    /[\u0080-\uffff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return `${escaped}\n`;
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, inner]) => [key, sorted(inner)]));
}
