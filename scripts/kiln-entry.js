// dist/kiln.js: turns on Node's compile cache before the bundle is loaded, so that the bundle's own
// code is in it. The cache lies beside the bundle, never in the shared /tmp, where another user
// could put code for root to run; where it cannot be written Node goes on without it.
import { enableCompileCache } from 'node:module';
import { join } from 'node:path';

enableCompileCache(join(import.meta.dirname, '.compile-cache'));
await import('./kiln-main.js');
