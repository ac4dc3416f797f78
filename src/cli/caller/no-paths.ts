import type { CallerPaths } from '../../users/caller-paths.ts';
import { HeldPaths } from '../../users/held-paths.ts';

/** Of a user in kilnd's own process, which opens nothing: what names files is a worker's (src/serve/short.ts). */
export const NO_PATHS: CallerPaths = new HeldPaths({
  opener: { open: () => Promise.reject(new Error('this process opens nothing for this caller')) },
  cwd: () => '/',
  owner: { uid: 0, gid: 0 },
  makeFolder: undefined,
  warn: () => undefined,
});
