/**
 * Loaded into every test process (`require` in ava.config.js): writes how long the process lived
 * to the folder named by KILN_TEST_TIMES, since TAP tells neither files nor times.
 */
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';

const folder = process.env.KILN_TEST_TIMES;
if (folder !== undefined) {
  process.once('exit', () => {
    const file = relative(process.cwd(), fileURLToPath(test.meta.file));
    const record = { file, seconds: performance.now() / 1000 };
    writeFileSync(join(folder, `${randomUUID()}.json`), JSON.stringify(record));
  });
}
