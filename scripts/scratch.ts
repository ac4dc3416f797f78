import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const SIGNALS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

/** A folder that goes with this process, also by ^C. execa ends the programs that it runs then. */
export function scratchFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `kiln-${name}-`));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  for (const [signal, status] of Object.entries(SIGNALS)) {
    process.once(signal, () => process.exit(status));
  }
  return folder;
}
