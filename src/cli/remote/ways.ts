/**
 * What becomes of the words of a command line that goes to another machine (`kiln --host`). What a path means is said
 * once, by the rows of options and the rules of arguments; here is what those leave open because it is root's.
 */
import { KilnError } from '../../errors.ts';
import { isImageName } from '../../image/find.ts';
import type { Row } from '../../options/row.ts';
import type { PathKind, Rule } from '../../options/rules.ts';
import { USER_COMMANDS } from '../users/user-rules.ts';

export type Way =
  | 'as it is'
  | { readonly path: Exclude<PathKind, 'place' | 'built'> }
  | { readonly refused: string };

const FILE: Way = { path: 'file' };
const CANNOT = (why: string): Way => ({ refused: why });

const BIND = CANNOT(
  'a bind shows files of the machine where the sandbox is: use --copy-in and --artifact',
);

const ROOT_COMMANDS: Readonly<Record<string, Way>> = {
  park: 'as it is',
  'image rm': 'as it is',
  'image import': { path: 'tree' },
};

const BOUND = 'folders are bound on the machine of the sandbox: call it there';

const STAYS: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    Object.keys(USER_COMMANDS)
      .filter((words) => words.startsWith('ci '))
      .map((words) => [words, 'a runner’s files are on its own machine: start the runner there']),
  ),
  ...{ apply: BOUND, discard: BOUND },
  cp: 'it copies files of the machine that it is called on: use --copy-in, and --artifact',
  'image lock': 'call it there, or give the lock’s file to `image build`',
};

export function checkCommand(words: string): void {
  const isKnown = Object.hasOwn(USER_COMMANDS, words) || Object.hasOwn(ROOT_COMMANDS, words);
  if (isKnown && !Object.hasOwn(STAYS, words)) return;
  throw refusedError(`kiln ${words}`, STAYS[words] ?? 'log in there, and call it there');
}

/** What is opened travels, whoever may give it. */
export function wayOfOption({ kind, users, stays }: Row, value: unknown): Way {
  if (stays === undefined) return wayOf(kind.opens ?? users, String(value));
  const why = stays(value);
  return why === undefined ? 'as it is' : CANNOT(why);
}

/** Whether every value of it goes as it is. The client, which has no tables, sends runs with such options by itself. */
export function alwaysTravels({ kind, users, stays }: Row): boolean {
  const rule = kind.opens ?? users;
  if (stays !== undefined || rule === 'image') return false;
  return rule === 'open' || rule.kind === 'setting' || (rule.kind === 'root' && rule.travels);
}

function wayOf(rule: Rule | undefined, value: string): Way {
  if (rule === undefined) return CANNOT('it is not known whether it names files');
  if (rule === 'image') return wayOfImage(value);
  if (rule === 'open' || rule.kind === 'setting') return 'as it is';
  if (rule.kind === 'root')
    return rule.travels ? 'as it is' : CANNOT('it is not made for other machines');
  if (rule.path === 'place') return BIND;
  if (rule.where?.(value) === false) return 'as it is';
  return { path: rule.path === 'built' ? 'file' : rule.path };
}

export function wayOfImage(image: string): Way {
  return isImageName(image) ? 'as it is' : FILE;
}

export function wayOfArgument(words: string, index: number, value: string): Way {
  if (words === 'build') {
    if (/\.(?:rpm|spec|ya?ml)$/.test(value)) return FILE;
    if (/[/.]/.test(value))
      return CANNOT('recipes in TypeScript run on the machine they are called on');
    return 'as it is';
  }
  if (words === 'results') return index === 1 ? { path: 'results' } : 'as it is';
  const own = ROOT_COMMANDS[words];
  if (own !== undefined) return own;
  return wayOf(USER_COMMANDS[words], value);
}

export function refusedError(what: string, why: string): KilnError {
  return new KilnError('E_REMOTE_OPTION', `${what} does not go to another machine`, { hint: why });
}
