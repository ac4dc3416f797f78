import { chownSync, constants, mkdirSync, openSync } from 'node:fs';
import { resolve } from 'node:path';
import { checkName } from '../../detached/names.ts';
import { jobFiles, keptBytes } from '../../detached/record.ts';
import { KilnError } from '../../errors.ts';
import { currentAction } from '../../events/action.ts';
import { type StatePaths, statePaths } from '../../host/state/paths.ts';
import type { DetachOptions } from '../../options/sandbox.ts';
import { type CallerUser, forbiddenError } from '../../users/configuration.ts';
import type { Caller } from '../caller/caller.ts';
import type { KilnCommand } from '../options/command.ts';

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
export async function detach<
  Options extends DetachOptions & { readonly resultDirectory?: string; readonly tty?: boolean },
>(options: Options, command: KilnCommand, caller: Caller): Promise<Detaching<Options>> {
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
    return { options, begin: () => undefined };
  }
  if (caller.detach === undefined) {
    const what = '--detach leaves a job to the daemon, which does not serve this call';
    throw new KilnError('E_NO_DAEMON', what, {
      hint: 'call kiln without KILN_FROM_SOURCE, in the mount namespace of the daemon',
    });
  }
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
