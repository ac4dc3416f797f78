/** A program that runs a confined child which never ends: the test kills it. */
import { join } from 'node:path';
import { runConfined } from '../../src/host/confine/run.ts';

const held = runConfined({
  task: 'hold',
  input: process.argv[2],
  validate: String,
  entry: join(import.meta.dirname, 'probe-entry.ts'),
});
for await (const message of held) process.stdout.write(`${message}\n`);
