// Loaded into every test process before anything else (`nodeArguments` in ava.config.js): what ava and kiln's sources
// are compiled to is kept in the run's own temporary folder, since most files load the same. It is JavaScript, because
// what strips types takes as long to load as all of ava.
'use strict';
if (process.env.KILN_TEST_TIMES !== undefined) require('node:module').enableCompileCache();
