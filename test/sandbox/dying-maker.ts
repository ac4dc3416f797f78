/** Starts a sandbox, and kills itself as soon as that has a folder, which says nothing yet of what it is. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { startDomain } from '../../src/sandbox/box.ts';
import { boxFiles, findBoxRecord } from '../../src/sandbox/box-record.ts';
import { openKiln } from '../support/kiln.ts';

const { engine } = openKiln();
const { paths } = engine;
const connection = await engine.connect();
const look = () => {
  for (const id of readdirSync(paths.boxes)) {
    const directory = join(paths.boxes, id);
    const locked = readdirSync(directory).includes('owner.lock');
    const { value } = findBoxRecord(directory);
    console.log(JSON.stringify({ lock: locked ? boxFiles.lock(directory) : '', known: value }));
    process.kill(process.pid, 'SIGKILL');
  }
  setImmediate(look);
};
setImmediate(look);
const { domain } = await startDomain(paths, connection, {
  network: 'private',
  label: { kind: 'auto' },
  autodestroy: true,
});
await domain;
