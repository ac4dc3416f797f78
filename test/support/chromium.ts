/** Pages as Debian's Chromium has them, without a window. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const PATIENCE = Number(process.env.KILN_TEST_PATIENCE ?? 1);

/** The document of a file after its scripts have run. @param hash of the address */
export async function inBrowser(path: string, hash = ''): Promise<string> {
  const profile = mkdtempSync(join(tmpdir(), 'kiln-chromium-'));
  try {
    const { stdout } = await promisify(execFile)(
      'chromium',
      [
        ...['--headless', '--no-sandbox', '--disable-gpu', `--user-data-dir=${profile}`],
        ...['--virtual-time-budget=20000', '--dump-dom', `file://${path}${hash}`],
      ],
      { maxBuffer: 2 ** 28, timeout: 120_000 * PATIENCE },
    );
    return stdout;
  } finally {
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
