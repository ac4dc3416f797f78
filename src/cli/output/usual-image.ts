import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Engine } from '../../engine.ts';
import { attempt } from '../../host/calls/libc.ts';
import { writeRecord } from '../../host/state/checked-file.ts';
import type { Caller } from '../caller/caller.ts';

const DAY = 24 * 3_600_000;

/** Says, once a day to each caller, what a command runs in where no image is named. */
export function tellUsualImage({ paths, owner }: Engine, caller: Caller): void {
  if (caller.isQuiet) return;
  const folder = join(paths.root, 'told');
  const file = join(folder, `host-${owner?.uid ?? 0}.json`);
  if (Date.now() - (attempt(() => statSync(file).mtimeMs) ?? 0) < DAY) return;
  attempt(() => {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeRecord(file, {});
  });
  caller.stderr.say(
    'kiln: no image is named, so this runs on the host’s own /usr, read-only; -r IMAGE names one\n',
  );
}
