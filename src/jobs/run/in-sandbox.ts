import type { CopyInItem } from '../../artifacts/copy-in.ts';
import type { Warning } from '../../artifacts/warning.ts';
import { withWaits } from '../../host/process/wait-for.ts';
import type { KeptCommand } from '../../sandbox/door/plan.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { Timeline } from './timeline.ts';

interface SandboxJob<Opened> {
  readonly open: () => Promise<Opened>;
  /** The sandbox is open, and files come next. */
  readonly entered?: (sandbox: string) => void;
  readonly copyIn: readonly CopyInItem[];
  /** How long one process may keep the sandbox from its start, ms. */
  readonly endAfter?: number | undefined;
  /** How long a sandbox is kept of which the steps say so, ms. */
  readonly keep: number | undefined;
  readonly timeline: Timeline;
  readonly warn: (warning: Warning) => void;
  readonly signal: AbortSignal | undefined;
}

/**
 * The way of every job through its sandbox: it is opened and gets files; then come the job's steps, which collect
 * what is wanted; then it is kept, or the caller removes it. After an error nothing is left of it.
 */
export async function inSandbox<
  Opened extends { readonly sandbox: PlannedSandbox },
  End extends { readonly kept: KeptCommand | undefined },
>(
  { open, entered, copyIn, endAfter, keep = 0, timeline, warn, signal }: SandboxJob<Opened>,
  steps: (opened: Opened) => Promise<End>,
): Promise<End & { readonly remove: () => Promise<void> }> {
  let remove: () => Promise<void> = async () => undefined;
  try {
    const opened = await timeline.phase('sandbox', async () => {
      const job = await withWaits({ endAfter, signal }, open);
      const { sandbox } = job;
      remove = () => timeline.phase('destroy', () => sandbox.close());
      entered?.(sandbox.id);
      signal?.throwIfAborted();
      if (copyIn.length > 0) await sandbox.tree.copyIn(copyIn, warn, signal);
      return job;
    });
    const end = await steps(opened);
    if (end.kept === undefined) return { ...end, remove };
    await opened.sandbox.keep(keep, end.kept);
    return { ...end, remove: async () => undefined };
  } catch (error) {
    timeline.fail();
    await remove();
    throw error;
  }
}
