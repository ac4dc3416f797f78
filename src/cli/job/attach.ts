import { Command } from 'commander';
import { endOf, Follower } from '../../detached/follow.ts';
import { findJob, type ListedJob, titleOf } from '../../detached/record.ts';
import { statePaths } from '../../host/state/paths.ts';
import { deferred } from '../../promise.ts';
import type { Caller } from '../caller/caller.ts';
import { JobOutput } from './logs.ts';

/** ^], which leaves a terminal of a job's, as it leaves `virsh console`. */
const LEAVE = 0x1d;

/** `kiln attach`. */
export function command(caller: Caller): Command {
  return new Command('attach')
    .description(
      'Show what a detached job writes from now on, and exit with its status when it ends.',
    )
    .argument('<id>', 'an id or name, as `kiln ps` shows it; the first digits are enough')
    .addHelpText(
      'after',
      `
A job that was started with --tty takes what is typed; ^] leaves it. Of others ^C leaves: the job goes on,
\`kiln kill\` ends it.

Examples:
  kiln attach 3fa9
  kiln attach nightly`,
    )
    .action(async (id: string) => {
      const paths = statePaths(caller.env);
      const job = await findJob(paths, caller.user, id);
      caller.exitStatus = await attachTo(job, caller);
    });
}

/** Attaches the caller until the job ends, whose exit status is given, or until it leaves: 0. */
async function attachTo(job: ListedJob, caller: Caller): Promise<number> {
  const paths = statePaths(caller.env);
  const { tty, id } = job.record;
  using output = new JobOutput(caller);
  using follower =
    job.state === 'running'
      ? await Follower.open(paths, id, {
          follows: () => undefined,
          // The terminal of a command is for whoever is attached to it, with all that it does to one.
          output: (fd, bytes) => {
            if (tty) caller.stdout.write(bytes);
            else output.pass(fd, bytes, follower);
          },
          omitted: (bytes) => caller.stderr.say(`kiln: ${bytes} bytes are left out here\n`),
        })
      : undefined;
  if (follower === undefined) return await endOf(paths, job);
  const left = deferred<'left'>();
  const leave = () => left.resolve('left');
  using _leaving = caller.onSignal(['SIGINT', 'SIGTERM', 'SIGHUP'], leave);
  using _typing = tty ? typeTo(follower, leave, caller) : undefined;
  const end = await Promise.race([follower.over, left.promise]);
  if (end !== 'left') return end ?? (await endOf(paths, job));
  caller.stderr.say(
    `kiln: the job ${titleOf(job.record)} goes on: \`kiln attach ${id}\` comes back, \`kiln kill ${id}\` ends it\n`,
  );
  return 0;
}

/** Gives what is typed, and the window's size, to a job's terminal. */
function typeTo(follower: Follower, leave: () => void, caller: Caller): Disposable {
  const input = caller.readInput({ raw: caller.inputIsTTY });
  input.stream.on('data', (bytes: Buffer) => {
    const end = caller.inputIsTTY ? bytes.indexOf(LEAVE) : -1;
    const typed = end === -1 ? bytes : bytes.subarray(0, end);
    if (typed.length > 0) follower.type(typed);
    if (end !== -1) leave();
  });
  const resize = () => follower.control({ do: 'resize', ...caller.windowSize });
  const resizing = caller.onSignal(['SIGWINCH'], resize);
  if (caller.stdout.isTTY) resize();
  return {
    [Symbol.dispose]: () => {
      resizing[Symbol.dispose]();
      input[Symbol.dispose]();
    },
  };
}
