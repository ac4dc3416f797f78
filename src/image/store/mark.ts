/** The record of damage in the folder of a package or an image. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { findRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';

export interface KnownDamage {
  readonly path: string;
  readonly why: string;
}

function markFile(directory: string): string {
  return join(directory, 'damaged.json');
}

const take = withFields<KnownDamage>({ path: 'string', why: 'string' });

/** One that cannot be read counts: it is there. */
export function knownDamage(directory: string): KnownDamage | undefined {
  const path = markFile(directory);
  // Looking is far cheaper than an error.
  if (!existsSync(path)) return undefined;
  const { value, damage } = findRecord(path, take);
  return damage === undefined ? value : { path: directory, why: 'it was found to be damaged' };
}

export function noteIn(directory: string, { path, why }: KnownDamage): void {
  writeRecord(markFile(directory), { path, why }, { flush: true });
}
