import { chownSync, constants, mkdirSync, openSync } from 'node:fs';
import { resolve } from 'node:path';
import { checkName } from '../../detached/names.ts';
import { jobFiles, keptBytes } from '../../detached/record.ts';
import { KilnError } from '../../errors.ts';
import { currentAction } from '../../events/action.ts';
import { type StatePaths, statePaths } from '../../host/state/paths.ts';
import { LEAVE_KEYS, shownKeys } from '../../options/leave-keys.ts';
import type { DetachOptions } from '../../options/sandbox.ts';
import { type CallerUser, forbiddenError } from '../../users/configuration.ts';
import { type Caller, hasTerminal } from '../caller/caller.ts';
import type { KilnCommand } from '../options/command.ts';

type Detachable = DetachOptions & {
  readonly resultDirectory?: string;
  readonly tty?: boolean;
  readonly keep?: number;
  readonly detachKeys?: string;
};

interface Detaching<Options> {
  readonly options: Options;
  /** `sandbox`: the one whose command it is. */
  readonly begin: (sandbox?: string) => void;
}

/**
 * Prepares that a command goes on without its caller, where its options say so. Without --resultdir its results wait
 * for `kiln results`.
 * @throws KilnError E_ARGUMENT, E_JOB_NAME, E_NO_DAEMON
 */
export async function detach<Options extends Detachable>(
  options: Options,
  command: KilnCommand,
  caller: Caller,
): Promise<Detaching<Options>> {
  const { name, tty = false } = options;
  if (options.detach !== true) {
    if (name !== undefined) {
      if (command.name() === 'build') {
        throw new KilnError('E_ARGUMENT', '--name of a build needs --detach', {
          hint: 'nothing enters the sandbox of a build that you wait for',
        });
      }
      checkName(name);
    }
    return { options, begin: await leaving(options, command, caller) };
  }
  if (command.isGiven('detachKeys')) {
    throw new KilnError('E_ARGUMENT', '--detach-keys leaves a terminal, and --detach has none', {
      hint: 'give it to `kiln attach`, or leave --detach out',
    });
  }
  if (caller.detach === undefined) throw noDaemonError('--detach');
  const given = command.isGiven('resultDirectory') ? options.resultDirectory : undefined;
  if (caller.user !== undefined) await checkRoom(caller.user, statePaths(caller.env));
  const job = await caller.detach({
    name,
    tty,
    resultDirectory: given && resolve(caller.cwd(), given),
  });
  currentAction()?.isJob(job.record.id);
  const begin = (sandbox?: string) => {
    if (!job.hasBegun) job.begin(sandbox);
  };
  if (given !== undefined) return { options, begin };
  const folder = jobFiles.results(job.folder);
  mkdirSync(folder, { mode: 0o700 });
  // Written with a user's rights; nobody but root comes by its path.
  if (caller.user !== undefined) chownSync(folder, caller.user.uid, caller.user.gid);
  const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  return { options: { ...options, resultDirectory: caller.paths.resultsTo(fd, 'results') }, begin };
}

/** What leaves a terminal to the daemon by keys: nothing is a job before. */
async function leaving(
  { tty, keep, detachKeys = keep === undefined ? '' : LEAVE_KEYS }: Detachable,
  command: KilnCommand,
  caller: Caller,
): Promise<Detaching<unknown>['begin']> {
  if (tty !== true || detachKeys === '' || !hasTerminal(caller)) return () => undefined;
  if (caller.detach === undefined) {
    if (command.isGiven('detachKeys')) throw noDaemonError('--detach-keys');
    return () => undefined;
  }
  const about = { name: undefined, tty, resultDirectory: undefined, leaveBy: detachKeys };
  const job = await caller.detach(about);
  return (sandbox) => {
    job.stays(sandbox);
    caller.stderr.say(`kiln: ${shownKeys(detachKeys)} leaves, and it goes on\n`);
  };
}

function noDaemonError(option: string): KilnError {
  const what = `${option} leaves a job to the daemon, which does not serve this call`;
  return new KilnError('E_NO_DAEMON', what, {
    hint: 'call kiln without KILN_FROM_SOURCE, in the mount namespace of the daemon',
  });
}

/** What is kept of a user's jobs counts together as what one of them may write. @throws KilnError E_FORBIDDEN */
async function checkRoom(user: CallerUser, paths: StatePaths): Promise<void> {
  const { disk } = user.policy.limits;
  if ((await keptBytes(paths, user, disk)) <= disk) return;
  throw forbiddenError(
    'a further detached job',
    'what is kept of others is as large as your share',
    {
      hint: '`kiln gc` removes those that have ended; root sets users.limits.disk',
    },
  );
}
