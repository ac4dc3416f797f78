import { defined } from '../../defined.ts';
import { ISOLATION_RULE, type PathKind } from '../../options/rules.ts';
import { type CallerUser, forbiddenError } from '../../users/configuration.ts';
import { NO_PATHS } from '../caller/no-paths.ts';
import { check, fetchPath } from '../users/user-guard.ts';
import { type CommandLine, commandLine } from './command-line.ts';
import { MODES, type ModeRow, type Refusal } from './modes.ts';
import { OPTIONS } from './option-table.ts';

function refuse(name: string, { why, instead }: Refusal): never {
  throw forbiddenError(`kiln-mock --${name}`, why, defined({ hint: instead }));
}

/** The name of a configuration, which may lie in a folder of its own: `koji/f44-build-1-2`. */
function isConfigName(text: string): boolean {
  const isName = (part: string) =>
    /^[A-Za-z0-9][\w.+-]*$/.test(part) && !/\.(?:ya?ml|json|cfg)$/.test(part);
  return text.split('/').every(isName);
}

/** @throws KilnError E_FORBIDDEN */
function checkOption(name: string, value: string): void {
  const { users, noEffect, mode } = OPTIONS.get(name) ?? {};
  if (users === 'open' || (noEffect ?? mode) !== undefined) return;
  if (users === undefined) refuse(name, { why: 'it says what only root may' });
  if ('why' in users) refuse(name, users);
  if (!users.fits.test(value)) throw forbiddenError(`--${name} ${value}`, users.rule);
}

/**
 * The command line with copies in place of the user's files, and a root of the user's own.
 * @throws KilnError E_FORBIDDEN, E_CALLER_FILE, E_RESULTDIR
 */
export async function userLine(line: CommandLine, user: CallerUser): Promise<CommandLine> {
  const { mode } = line;
  const { mockConfigs: configdir } = user.policy;
  const { takes, results, users } = MODES[mode];
  if (users !== undefined) refuse(mode, users);
  const given: { name: string; value: string | undefined }[] = [];
  for (const { name, value = '' } of line.given) {
    checkOption(name, value);
    if (name === 'isolation' && value === 'vm') check(name, ISOLATION_RULE, value, user, {});
    if (name === 'root' && !isConfigName(value)) {
      throw forbiddenError(
        `the configuration ${value}`,
        'users can use configurations of root’s only',
        {
          hint: `name one that root has in ${configdir}, without .cfg, or an image recipe`,
        },
      );
    }
    const path = OPTIONS.get(name)?.opens;
    given.push({ name, value: path === undefined ? value : await fetched(path, value, user) });
  }
  given.push({ name: 'configdir', value: configdir });
  // A configuration's own folder of results is root's. mock refuses several packages without --resultdir.
  const isRefused = mode === 'rebuild' && line.args.length > 1;
  if (results !== undefined && line.value(results) === undefined && !isRefused) {
    given.push({ name: results, value: await fetched('lone results', 'result', user) });
  }
  const args: string[] = [];
  for (const [index, word] of line.args.entries()) {
    const isLast = index === line.args.length - 1;
    args.push(await argument(takes, word, isLast, user));
  }
  return commandLine(mode, args, given);
}

async function argument(
  kind: ModeRow['takes'],
  word: string,
  isLast: boolean,
  user: CallerUser,
): Promise<string> {
  if (kind === 'files') return await fetched('file', word, user);
  if (kind === 'copyin' && !isLast) return await fetched('tree', word, user);
  if (kind === 'copyout' && isLast) return await fetched('results', word, user);
  if (kind === 'packages' && word.includes('/')) {
    throw forbiddenError(`the package ${word}`, 'users name packages, not files');
  }
  return word;
}

async function fetched(kind: PathKind, path: string, user: CallerUser): Promise<string> {
  return await fetchPath(kind, path, user.files ?? NO_PATHS);
}
