import { defined } from '../../defined.ts';
import type { PathKind } from '../../options/rules.ts';
import { type CallerUser, forbiddenError } from '../../users/configuration.ts';
import { NO_PATHS } from '../caller/no-paths.ts';
import { fetchPath } from '../users/user-guard.ts';
import { type CommandLine, commandLine } from './command-line.ts';
import { type Mode, OPTIONS } from './option-table.ts';

type Arguments = 'files' | 'packages' | 'words' | 'copyin' | 'copyout';

/** What the arguments of each mode are. A mode that is not here is refused. */
export const MODES: Readonly<Partial<Record<Mode, Arguments>>> = {
  rebuild: 'files',
  buildsrpm: 'files',
  chain: 'files',
  'calculate-build-dependencies': 'files',
  installdeps: 'files',
  init: 'words',
  clean: 'words',
  orphanskill: 'words',
  'scrub-all-chroots': 'words',
  'list-chroots': 'words',
  shell: 'words',
  chroot: 'words',
  install: 'packages',
  remove: 'packages',
  update: 'packages',
  'pm-cmd': 'packages',
  copyin: 'copyin',
  copyout: 'copyout',
};

/** Where results go unless the option says so. */
const RESULTS: Readonly<Partial<Record<Mode, string>>> = {
  rebuild: 'resultdir',
  buildsrpm: 'resultdir',
  'calculate-build-dependencies': 'resultdir',
  chain: 'localrepo',
};

const AS_WRITTEN = 'users can use root’s configurations, but not change what is in them';

const REFUSED: readonly (readonly [names: readonly string[], why: string, instead: string])[] = [
  [
    ['no-clean', 'no-cleanup-after', 'short-circuit'],
    'a root that stays could grow beyond the user’s share of the disk; each build of a user has a fresh root',
    '`kiln build --keep 1h` keeps the sandbox of a build that failed, for `kiln shell`',
  ],
  [
    ['addrepo'],
    'kilnd, which is root, would fetch from whatever server the option names',
    'root adds it to the configuration',
  ],
  [
    ['enable-network'],
    'it is the network of the host',
    '`kiln build --egress HOST`, where root allows it',
  ],
  [
    ['debug-config', 'debug-config-expanded'],
    'it prints what only root may read',
    '--list-chroots',
  ],
  [
    [
      ...['config-opts', 'configdir', 'enablerepo', 'disablerepo'],
      ...['enable-plugin', 'disable-plugin', 'plugin-option'],
    ],
    AS_WRITTEN,
    'ask root for a configuration that has it',
  ],
];

function refuse(name: string): never {
  const [, why = 'it says what only root may', hint] =
    REFUSED.find(([names]) => names.includes(name)) ?? [];
  throw forbiddenError(`kiln-mock --${name}`, why, defined({ hint }));
}

/** The name of a configuration, which may lie in a folder of its own: `koji/f44-build-1-2`. */
function isConfigName(text: string): boolean {
  const isName = (part: string) =>
    /^[A-Za-z0-9][\w.+-]*$/.test(part) && !/\.(?:ya?ml|json|cfg)$/.test(part);
  return text.split('/').every(isName);
}

const OPEN: ReadonlySet<string> = new Set([
  ...['define', 'with', 'without', 'nocheck', 'target', 'rpmbuild-opts', 'rpmbuild_timeout'],
  ...['postinstall', 'arch', 'verbose', 'quiet', 'help', 'version', 'offline'],
  ...['cleanup-after', 'uniqueext', 'root', 'additional-package', 'scrub'],
  ...['continue', 'recurse', 'cwd', 'unpriv'],
]);

/** Options that name what is read. */
export const INPUTS: ReadonlyMap<string, PathKind> = new Map([
  ['spec', 'text'],
  ['macro-file', 'text'],
  ['sources', 'sources'],
]);

const PATHS: ReadonlyMap<string, PathKind> = new Map([
  ...INPUTS,
  ['resultdir', 'lone results'],
  ['localrepo', 'lone results'],
]);

/** What values may be. In a configuration some are templates, which could read everything in root's configuration. */
const VALUES: ReadonlyMap<string, readonly [pattern: RegExp, rule: string]> = new Map([
  ['additional-package', [/^[^/-][^/]*$/, 'users name packages, not files']],
  ['uniqueext', [/^[\w.-]{0,64}$/, 'it is at most 64 letters, digits and _ . -']],
  ['arch', [/^\w[\w.+-]*$/, 'it is letters, digits and _ . + -']],
  ['target', [/^\w[\w.+-]*$/, 'it is letters, digits and _ . + -']],
]);

/**
 * The command line with copies in place of the user's files, and a root of the user's own.
 * @throws KilnError E_FORBIDDEN, E_CALLER_FILE, E_RESULTDIR
 */
export async function userLine(line: CommandLine, user: CallerUser): Promise<CommandLine> {
  const { mode } = line;
  const { mockConfigs: configdir } = user.policy;
  const kind = MODES[mode] ?? refuse(mode);
  const given: { name: string; value: string | undefined }[] = [];
  for (const { name, value = '' } of line.given) {
    const { noEffect, mode: isMode } = OPTIONS.get(name) ?? {};
    const path = PATHS.get(name);
    const isOpen =
      OPEN.has(name) || path !== undefined || noEffect !== undefined || isMode !== undefined;
    if (!isOpen) refuse(name);
    if (name === 'root' && !isConfigName(value)) {
      throw forbiddenError(
        `the configuration ${value}`,
        'users can use configurations of root’s only',
        {
          hint: `name one that root has in ${configdir}, without .cfg, or an image recipe`,
        },
      );
    }
    const [pattern, rule = ''] = VALUES.get(name) ?? [];
    if (pattern?.test(value) === false) throw forbiddenError(`--${name} ${value}`, rule);
    given.push({ name, value: path === undefined ? value : await fetched(path, value, user) });
  }
  given.push({ name: 'configdir', value: configdir });
  const results = RESULTS[mode];
  // A configuration's own folder of results is root's. mock refuses several packages without --resultdir.
  const isRefused = mode === 'rebuild' && line.args.length > 1;
  if (results !== undefined && line.value(results) === undefined && !isRefused) {
    given.push({ name: results, value: await fetched('lone results', 'result', user) });
  }
  const args: string[] = [];
  for (const [index, word] of line.args.entries()) {
    const isLast = index === line.args.length - 1;
    args.push(await argument(kind, word, isLast, user));
  }
  return commandLine(mode, args, given);
}

async function argument(
  kind: Arguments,
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
