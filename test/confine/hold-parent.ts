/** A program that runs a confined child which never ends: the test kills it. */
import { runConfined } from '../../src/confine/run.ts';

const held = runConfined({
  task: 'hold',
  input: process.argv[2],
  validate: String,
  entry: new URL('probe-entry.ts', import.meta.url).pathname,
});
for await (const message of held) process.stdout.write(`${message}\n`);
