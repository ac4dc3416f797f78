// dist/kiln.cjs: turns on Node's compile cache before the bundle is loaded, so that the bundle's own
// code is in it. The cache lies beside the bundle, never in the shared /tmp, where another user
// could put code for root to run; where it cannot be written Node goes on without it.
const { statSync } = require('node:fs');
const { enableCompileCache } = require('node:module');
const { join } = require('node:path');

const cache = join(__dirname, '.compile-cache');
const umask = process.umask(0o022);
const mode = statSync(cache, { throwIfNoEntry: false })?.mode ?? 0;
// One that others may write to was made by a kiln that left its mode to the umask.
if ((mode & 0o022) === 0) enableCompileCache(cache);
process.umask(umask);
require('./kiln-main.cjs');
