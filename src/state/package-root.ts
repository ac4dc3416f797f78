import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { KilnError } from '../errors.ts';

/**
 * The folder of kiln's own package.json, whether kiln runs from src/ or from dist/: where recipes/,
 * dist/ and scripts/ are found.
 */
export function packageRoot(): string {
  for (let folder = import.meta.dirname; folder !== '/'; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder;
  }
  throw new KilnError('E_INSTALLATION', 'kiln cannot find its own files', {
    hint: 'run kiln from a checkout or from its installed package, with all of it in place',
  });
}

/** The version of kiln; package.json has the same (a test compares them). */
export const KILN_VERSION = '0.1.0';
