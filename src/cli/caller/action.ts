/** Whose the events of a command or a call are. */
import type { ActionOptions } from '../../events/action.ts';
import type { Actor } from '../../events/event.ts';
import { attempt } from '../../host/calls/libc.ts';
import { type StatePaths, statePaths } from '../../host/state/paths.ts';
import { findAccount } from '../../users/account.ts';
import type { OptionCaller } from './caller.ts';

/** Undefined where no event can be kept: only root writes to the state. */
export function actionOf(
  { env, user, ids, paths: callers }: OptionCaller,
  by: ActionOptions['by'],
): ActionOptions | undefined {
  if (process.geteuid?.() !== 0) return undefined;
  // A state that cannot be used is told of by whatever the command needs it for.
  const paths = attempt(() => statePaths(env));
  return (
    paths && {
      ...{ paths, by, actor: () => actorOf(paths, user?.uid ?? 0, ids) },
      renamed: (text) => callers.renamed(text),
    }
  );
}

export function actorOf(paths: StatePaths, uid: number, ids: OptionCaller['ids']): Actor {
  const user = uid === 0 ? 'root' : findAccount(paths, uid).value?.name;
  return { uid, user, sudo: ids.uid === uid ? undefined : ids.uid };
}
