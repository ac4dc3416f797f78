import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { KilnError } from '../../errors.ts';

/** Kiln's own folder, with recipes/, dist/ and scripts/, whether kiln runs from src/ or from dist/. */
export function packageRoot(): string {
  for (let folder = import.meta.dirname; folder !== '/'; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder;
  }
  throw new KilnError('E_INSTALLATION', 'kiln cannot find its own files', {
    hint: 'run kiln from a checkout or from its installed package, with all of it in place',
  });
}
