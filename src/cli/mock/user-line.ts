import { defined } from '../../defined.ts';
import { type CallerUser, forbidden } from '../../users/configuration.ts';
import { fetchPath } from '../users/user-guard.ts';
import { isImageName, type PathKind } from '../users/user-rules.ts';
import { type CommandLine, commandLine } from './command-line.ts';
import { type Mode, OPTIONS } from './option-table.ts';

/** Modes that build and leave nothing in a root, and the one that removes what no user's root has. */
const OPEN_MODES: ReadonlySet<Mode> = new Set([
  'rebuild',
  'buildsrpm',
  'calculate-build-dependencies',
  'list-chroots',
  'clean',
]);

const NO_ROOTS = 'a root that stays has no quota; each build of a user has a fresh one';
const SHELL =
  '`kiln shell -r IMAGE` opens a shell in a sandbox of yours, `kiln run` runs a command';
const AS_WRITTEN = 'users take configurations as root has written them';

const REFUSED: readonly (readonly [names: readonly string[], why: string, instead: string])[] = [
  [
    ['no-clean', 'no-cleanup-after', 'short-circuit'],
    NO_ROOTS,
    '`kiln build --keep 1h` keeps the sandbox of a build that failed, for `kiln shell`',
  ],
  [['shell', 'chroot', 'cwd', 'unpriv'], NO_ROOTS, SHELL],
  [
    ['init', 'install', 'remove', 'update', 'pm-cmd', 'copyin', 'copyout', 'orphanskill'],
    NO_ROOTS,
    'name packages in BuildRequires or --additional-package; results come to --resultdir',
  ],
  [['scrub-all-chroots'], 'it removes roots of others', '--clean is for what is yours'],
  [['installdeps'], NO_ROOTS, '--calculate-build-dependencies lists what a build would have'],
  [
    ['chain', 'localrepo', 'continue', 'recurse'],
    'it goes on from what lies in the result directory, which kilnd does not read',
    '`kiln build --chain`',
  ],
  [
    ['addrepo'],
    'kilnd itself would ask whatever server it names',
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
    'root writes another one',
  ],
];

function refuse(name: string): never {
  const [, why = 'it says what only root may', hint] =
    REFUSED.find(([names]) => names.includes(name)) ?? [];
  throw forbidden(`kiln-mock --${name}`, why, defined({ hint }));
}

/** The name of a configuration, which may lie in a folder of its own: `koji/f44-build-1-2`. */
function isConfigName(text: string): boolean {
  return text.split('/').every(isImageName);
}

const OPEN: ReadonlySet<string> = new Set([
  ...['define', 'with', 'without', 'nocheck', 'target', 'rpmbuild-opts', 'rpmbuild_timeout'],
  ...['postinstall', 'arch', 'verbose', 'quiet', 'help', 'version', 'offline'],
  ...['cleanup-after', 'uniqueext', 'root', 'additional-package', 'scrub'],
]);

const PATHS: ReadonlyMap<string, PathKind> = new Map([
  ['spec', 'file'],
  ['macro-file', 'file'],
  ['sources', 'sources'],
  ['resultdir', 'results'],
]);

const RESULTS = 'result';

/** What values may be. In a configuration some are templates, which could read everything in root's configuration. */
const VALUES: ReadonlyMap<string, readonly [pattern: RegExp, rule: string]> = new Map([
  ['additional-package', [/^[^/-][^/]*$/, 'users name packages, not files']],
  ['uniqueext', [/^[\w.-]*$/, 'it is letters, digits and _ . -']],
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
  if (!OPEN_MODES.has(mode)) refuse(mode);
  const given: { name: string; value: string | undefined }[] = [];
  for (const { name, value = '' } of line.given) {
    const { noEffect, mode: isMode } = OPTIONS.get(name) ?? {};
    const kind = PATHS.get(name);
    const isOpen =
      OPEN.has(name) || kind !== undefined || noEffect !== undefined || isMode !== undefined;
    if (!isOpen) refuse(name);
    if (name === 'root' && !isConfigName(value)) {
      throw forbidden(`the configuration ${value}`, 'it is none of root’s', {
        hint: `name one that root has in ${configdir}, without .cfg, or an image recipe`,
      });
    }
    const [pattern, rule = ''] = VALUES.get(name) ?? [];
    if (pattern?.test(value) === false) throw forbidden(`--${name} ${value}`, rule);
    if (name === 'uniqueext') continue;
    given.push({ name, value: kind === undefined ? value : await fetched(kind, value, user) });
  }
  const extension = line.value('uniqueext');
  const own = `user-${user.uid}${extension === undefined ? '' : `-${extension}`}`;
  given.push({ name: 'uniqueext', value: own }, { name: 'configdir', value: configdir });
  const builds = mode !== 'list-chroots' && mode !== 'clean';
  if (builds && line.value('resultdir') === undefined && line.args.length < 2) {
    given.push({ name: 'resultdir', value: await fetched('results', RESULTS, user) });
  }
  const args: string[] = [];
  for (const path of line.args) args.push(builds ? await fetched('file', path, user) : path);
  return commandLine(mode, args, given);
}

async function fetched(kind: PathKind, path: string, user: CallerUser): Promise<string> {
  return String(await fetchPath(kind, path, user));
}
