/**
 * What becomes of the words of a command line that goes to another machine (`kiln --host`). What a path means is said
 * once, by the rules for users; here is what those leave open because it is root's, or not made for users.
 */
import { KilnError } from '../../errors.ts';
import { isImageName } from '../../image/find.ts';
import type { PathKind, Rule } from '../../options/rules.ts';
import { ruleOf, USER_COMMANDS } from '../users/user-rules.ts';

export type Way =
  | 'as it is'
  | { readonly path: Exclude<PathKind, 'place' | 'built'> }
  | { readonly refused: string };

const FILE: Way = { path: 'file' };
const CANNOT = (why: string): Way => ({ refused: why });

const BIND = CANNOT(
  'a bind shows files of the machine where the sandbox is: use --copy-in and --artifact',
);

/** What only a look at the value tells, and what the rules for users say nothing of. */
const OPTIONS: Readonly<Record<string, (value: unknown) => Way>> = {
  ci: () => CANNOT('what it writes for a CI service lies on the other machine'),
  repositories: (value) =>
    list(value).every((item) => /^https?:/.test(item))
      ? 'as it is'
      : CANNOT('a repository in a folder does not travel: name its URL'),
  packages: (value) =>
    list(value).some((item) => item.includes('/'))
      ? CANNOT('packages in files do not travel: name them, or build a chain')
      : 'as it is',
  maxSize: () => 'as it is',
};

function list(value: unknown): readonly string[] {
  return (Array.isArray(value) ? value : [value]).map(String);
}

const ROOT_COMMANDS: Readonly<Record<string, Way>> = {
  park: 'as it is',
  'image rm': 'as it is',
  'image import': { path: 'tree' },
};

const STAYS: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    Object.keys(USER_COMMANDS)
      .filter((words) => words.startsWith('ci '))
      .map((words) => [words, 'a runner’s files are on its own machine: start the runner there']),
  ),
  'image lock': 'call it there, or give the lock’s file to `image build`',
};

export function checkCommand(words: string): void {
  const isKnown = Object.hasOwn(USER_COMMANDS, words) || Object.hasOwn(ROOT_COMMANDS, words);
  if (isKnown && !Object.hasOwn(STAYS, words)) return;
  throw refusedError(`kiln ${words}`, STAYS[words] ?? 'log in there, and call it there');
}

export function wayOfOption(words: string, name: string, value: unknown): Way {
  const own = Object.hasOwn(OPTIONS, name) ? OPTIONS[name] : undefined;
  if (own !== undefined) return own(value);
  const rule = ruleOf(words, name);
  if (rule === undefined && Object.hasOwn(ROOT_COMMANDS, words)) return 'as it is';
  return wayOf(rule, String(value));
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

function wayOfImage(value: unknown): Way {
  return isImageName(String(value)) ? 'as it is' : FILE;
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
  return wayOf(USER_COMMANDS[words]?.arguments, value);
}

export function refusedError(what: string, why: string): KilnError {
  return new KilnError('E_REMOTE_OPTION', `${what} does not go to another machine`, { hint: why });
}
