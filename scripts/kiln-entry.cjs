// dist/kiln.cjs: turns on Node's compile cache before the bundle is loaded, so that the bundle's own
// code is in it. The cache lies beside the bundle, never in the shared /tmp, where another user
// could put code for root to run; where it cannot be written Node goes on without it.
const { enableCompileCache } = require('node:module');
const { join } = require('node:path');

enableCompileCache(join(__dirname, '.compile-cache'));
require('./kiln-main.cjs');
