#!/usr/bin/env node
import ms from 'ms';

/** How many milliseconds a nap of this length takes. */
export const nap = (length) => ms(length);

if (process.argv[1] === import.meta.filename) console.log(nap(process.argv[2] ?? '20 minutes'));
