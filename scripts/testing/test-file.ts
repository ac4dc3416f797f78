/**
 * Loaded into every test process (`require` in ava.config.js), since TAP tells neither files nor
 * times: names the process after its file, for whoever looks for one that hangs, and writes how long
 * it lived to the folder named by KILN_TEST_TIMES.
 */
import './bundled-programs.ts';
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';

const file = relative(process.cwd(), fileURLToPath(test.meta.file));
process.title = `ava ${file}`;

const folder = process.env.KILN_TEST_TIMES;
if (folder !== undefined) {
  process.once('exit', () => {
    const record = { file, seconds: performance.now() / 1000 };
    writeFileSync(join(folder, `${randomUUID()}.json`), JSON.stringify(record));
  });
}
