import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * What sandboxes of tests stand on that name nothing. With `KILN_TEST_PART=machines` it is machines, emulated, for the
 * files of scripts/testing/machines.ts.
 */
export const ISOLATION = process.env.KILN_TEST_PART === 'machines' ? 'vm' : 'container';

/** The environment of a caller whose own kiln.yaml, in a folder made for it, has sandboxes on {@link ISOLATION}. */
export async function callerOn(folder: string): Promise<NodeJS.ProcessEnv> {
  if (ISOLATION === 'container') return {};
  await mkdir(folder);
  await writeFile(join(folder, 'kiln.yaml'), 'defaults:\n  isolation: vm\n', { mode: 0o644 });
  return { XDG_CONFIG_HOME: folder, KILN_ALLOW_MISSING: 'kvm' };
}
