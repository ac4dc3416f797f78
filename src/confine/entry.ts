/**
 * Where the confined child's program is: the one place that knows how the source and the bundle
 * are laid out (scripts/build.ts makes dist/confined.cjs from src/confined.ts).
 */
import { fileURLToPath } from 'node:url';

/** Absolute path of the module that the child runs. */
export function confinedEntry(): string {
  const here = import.meta.url;
  const entry = here.endsWith('.ts') ? '../confined.ts' : './confined.cjs';
  return fileURLToPath(new URL(entry, here));
}
