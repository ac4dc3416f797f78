import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readdirSync, realpathSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const SIGNALS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

const SWEEP = join(import.meta.dirname, 'testing/sweep.ts');

/**
 * A folder for temporary files, those of the programs that are run as well. At the end of this process, also by ^C,
 * whatever is below it goes: sandboxes and daemons of states there, processes, mounts, control groups, files.
 */
export function scratchFolder(name: string): string {
  const folder = mkdtempSync(join(realpathSync(tmpdir()), `kiln-${name}-`));
  // Sandboxes and users pass through it to states.
  chmodSync(folder, 0o755);
  process.env.TMPDIR = folder;
  sweepAtEnd(folder);
  return folder;
}

/** The same for a folder that is there, or will be. */
export function sweepAtEnd(folder: string): void {
  endBySignals();
  process.once('exit', () => {
    if (!existsSync(folder)) return;
    if (readdirSync(folder).length === 0) return rmdirSync(folder);
    // In a session of its own: the terminal's next ^C is not for it.
    spawnSync('setsid', ['--wait', process.execPath, SWEEP, folder], { stdio: 'inherit' });
  });
}

let interrupted: ((status: number) => void) | undefined;

/**
 * In place of ending at once, ^C aborts this: for what leaves nothing by its own end. The second ^C does not wait for
 * that.
 */
export function interruption(): AbortSignal {
  const controller = new AbortController();
  interrupted = (status) => {
    process.exitCode = status;
    controller.abort(new Error('interrupted'));
  };
  endBySignals();
  return controller.signal;
}

let isListening = false;

function endBySignals(): void {
  if (isListening) return;
  isListening = true;
  for (const [signal, status] of Object.entries(SIGNALS)) {
    // Not once: execa, whose children end with this process, else takes itself for the only listener.
    process.on(signal, () => {
      const act = interrupted;
      interrupted = undefined;
      if (act === undefined) process.exit(status);
      else act(status);
    });
  }
}
