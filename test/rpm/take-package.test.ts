/** The form in which a confined child sends a package, and the store keeps it. */
import test from 'ava';
import { takePackage } from '../../src/packages/rpm/package.ts';
import { readRpms } from '../../src/packages/rpm/read.ts';
import { packages } from './fixtures.ts';

test('a package is unchanged when it was sent as JSON and checked', async (t) => {
  let files = 0;
  for await (const result of readRpms(packages)) {
    if (result.package === undefined) continue;
    t.deepEqual(takePackage(JSON.parse(JSON.stringify(result.package))), result.package);
    files += result.package.files.length;
  }
  t.true(files > 10);
});
