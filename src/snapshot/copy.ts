import { z } from 'zod';
import { isKilnCode, KilnError } from '../errors.ts';
import { sizeInWords } from '../host/calls/system-error.ts';
import { askConfined } from '../host/confine/run.ts';
import { beginStage } from '../host/process/work.ts';
import { filesFor } from '../host/state/disk-watch.ts';
import type { IdRange } from '../host/state/reservation.ts';
import type { CopyInput, CopyOutput } from './copy-task.ts';

/** Names of one layer: as many as the child can keep in memory. */
export const MOST_NAMES = 2_000_000;

export const outputSchema: z.ZodType<CopyOutput> = z.strictObject({
  digest: z.string().regex(/^[0-9a-f]{64}$/),
  bytes: z.number().min(0),
  entries: z.number().min(0),
  leftOut: z.number().min(0),
});

export interface LayerCopy {
  readonly from: number;
  /** The folder that has the tree, and another one beside it for what is being made. */
  readonly home: number;
  readonly tree: string;
  readonly maxBytes: number;
  /** Of the sandbox, which the layer's files belong to. */
  readonly range: IdRange;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Makes the empty tree what `from` is, in a confined child: see copy-task.ts.
 * @throws KilnError E_SNAPSHOT, E_DISK_FULL, the signal's reason
 */
export async function copyLayer(copy: LayerCopy): Promise<CopyOutput> {
  const { from, home, tree, maxBytes, range, signal } = copy;
  // Files without content take a disk, too.
  const maxEntries = Math.min(MOST_NAMES, filesFor(maxBytes));
  const input: CopyInput = { to: tree, spare: 'spare', maxBytes, maxEntries };
  beginStage('copying files');
  try {
    return await askConfined({
      ...{ task: 'snapshot-copy', input, fds: [from, home] },
      ...{ ids: { base: range.base, count: range.count }, signal },
      validate: (value) => outputSchema.parse(value),
    });
  } catch (cause) {
    if (!isKilnCode(cause, 'E_ARTIFACT_LIMIT')) throw cause;
    const bytes = sizeInWords(maxBytes);
    throw new KilnError(
      'E_SNAPSHOT',
      `the sandbox has written more than ${bytes}, too many files, or too large holes`,
      {
        hint: '`kiln df` shows what takes space, which users.limits.storage bounds for users; remove files that need not be kept',
        cause,
      },
    );
  }
}
