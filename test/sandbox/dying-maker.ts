/** Starts a sandbox, and kills itself as soon as that has a folder, which says nothing yet of what it is. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { findSandboxRecord, sandboxFiles } from '../../src/sandbox/domain/sandbox-record.ts';
import { startDomain } from '../../src/sandbox/domain/start-domain.ts';
import { openKiln } from '../support/kiln.ts';

const { engine } = openKiln();
const { paths } = engine;
const connection = await engine.connect();
const look = () => {
  for (const id of readdirSync(paths.sandboxes)) {
    const directory = join(paths.sandboxes, id);
    const locked = readdirSync(directory).includes('owner.lock');
    const { value } = findSandboxRecord(directory);
    console.log(JSON.stringify({ lock: locked ? sandboxFiles.lock(directory) : '', known: value }));
    process.kill(process.pid, 'SIGKILL');
  }
  setImmediate(look);
};
setImmediate(look);
const { domain } = await startDomain(paths, connection, {
  network: 'private',
  label: { kind: 'auto' },
});
await domain;
