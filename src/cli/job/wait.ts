import { Command } from 'commander';
import { endOf, Follower } from '../../detached/follow.ts';
import { jobCalled, type ListedJob, listJobs, titleOf } from '../../detached/record.ts';
import { KilnError } from '../../errors.ts';
import { type StatePaths, statePaths } from '../../host/state/paths.ts';
import { deferred } from '../../promise.ts';
import type { Caller } from '../caller/caller.ts';
import { listenForInterruption } from '../caller/interruption.ts';

/** Jobs that one call waits for: each has a connection. */
const MOST = 64;

/** `kiln wait`. */
export function command(caller: Caller): Command {
  return new Command('wait')
    .description(
      'Wait until detached jobs have ended; exit with the status of the job, of several with the first that is not 0.',
    )
    .argument('<id...>', 'ids or names, as `kiln ps` shows them; the first digits are enough')
    .addHelpText(
      'after',
      '\nExamples:\n  id=$(kiln run -r debian-build --detach -- make) && kiln wait $id',
    )
    .action(async (ids: string[]) => {
      const paths = statePaths(caller.env);
      if (ids.length > MOST) {
        throw new KilnError('E_ARGUMENT', `wait: ${ids.length} jobs are more than ${MOST}`, {
          hint: 'wait for some of them first',
        });
      }
      const listed = await listJobs(paths, caller.user);
      // A name that is wrong is told before anybody waits.
      const jobs = [...new Set(ids.map((id) => jobCalled(listed, id)))];
      using interruption = listenForInterruption(caller);
      const statuses = await Promise.all(
        jobs.map(async (job) => {
          const status = await endOfJob(job, paths, interruption.signal);
          if (jobs.length > 1) caller.stdout.say(`${titleOf(job.record)} ${status}\n`);
          return status;
        }),
      );
      caller.exitStatus = statuses.find((status) => status !== 0) ?? 0;
    });
}

/** Waits for a job's end; its exit status. @throws KilnError E_JOB_LOST; the signal's reason */
async function endOfJob(job: ListedJob, paths: StatePaths, signal: AbortSignal): Promise<number> {
  if (job.record.ended !== undefined) return job.record.ended.status;
  using follower = await Follower.open(paths, job.record.id);
  // Whoever waits may be gone long before.
  const given = deferred<never>();
  signal.addEventListener('abort', () => given.reject(signal.reason));
  const over = follower && (await Promise.race([follower.over, given.promise]));
  return over ?? (await endOf(paths, job));
}
