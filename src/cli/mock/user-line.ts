/** mock's command line of a user who is not root: the allowed options, and the user's files. */
import type { CallerUser } from '../../users/user.ts';
import { forbidden } from '../../users/user.ts';
import { fetchPath } from '../users/user-guard.ts';
import { isImageName, type PathKind } from '../users/user-rules.ts';
import { type CommandLine, commandLine } from './command-line.ts';
import { type Mode, OPTIONS } from './option-table.ts';

/** Modes that build and leave nothing in a shared root. */
const OPEN_MODES: ReadonlySet<Mode> = new Set([
  'rebuild',
  'buildsrpm',
  'calculate-build-dependencies',
  'list-chroots',
]);

const OPEN: ReadonlySet<string> = new Set([
  ...['define', 'with', 'without', 'nocheck', 'target', 'rpmbuild-opts', 'rpmbuild_timeout'],
  ...['postinstall', 'arch', 'verbose', 'quiet', 'help', 'version', 'offline'],
  ...['cleanup-after', 'uniqueext', 'root', 'additional-package'],
]);

const PATHS: ReadonlyMap<string, PathKind> = new Map([
  ['spec', 'file'],
  ['sources', 'sources'],
  ['resultdir', 'results'],
]);

/** The default result directory of a user; mock's own belongs to root. */
const RESULTS = 'result';

/** The name of a package, not of a file. */
const PACKAGE = /^[^/-][^/]*$/;

/**
 * The command line with copies in place of the user's files, and a root of the user's own.
 * @throws KilnError E_FORBIDDEN, E_CALLER_FILE, E_RESULTDIR
 */
export async function userLine(line: CommandLine, user: CallerUser): Promise<CommandLine> {
  const { mode } = line;
  if (!OPEN_MODES.has(mode)) throw forbidden(`kiln-mock --${mode}`, 'it is not made for users yet');
  const given: { name: string; value: string | undefined }[] = [];
  for (const { name, value = '' } of line.given) {
    const { noEffect, mode: isMode } = OPTIONS.get(name) ?? {};
    const kind = PATHS.get(name);
    const isOpen =
      OPEN.has(name) || kind !== undefined || noEffect !== undefined || isMode !== undefined;
    if (!isOpen) throw forbidden(`--${name}`, 'it says what only root may');
    if (name === 'root' && !isImageName(value)) {
      throw forbidden(`the configuration ${value}`, 'users name those that root has in /etc/mock');
    }
    if (name === 'additional-package' && !PACKAGE.test(value)) {
      throw forbidden(`--additional-package ${value}`, 'users name packages, not files');
    }
    if (name === 'uniqueext' && !/^[\w.-]*$/.test(value)) {
      throw forbidden(`--uniqueext ${value}`, 'it is letters, digits and _ . -');
    }
    // In a configuration the value is a template, which could read everything in root's configuration.
    if ((name === 'arch' || name === 'target') && !/^\w[\w.+-]*$/.test(value)) {
      throw forbidden(`--${name} ${value}`, 'it is letters, digits and _ . + -');
    }
    if (name === 'uniqueext') continue;
    given.push({ name, value: kind === undefined ? value : await fetched(kind, value, user) });
  }
  const extension = line.value('uniqueext');
  const own = `user-${user.uid}${extension === undefined ? '' : `-${extension}`}`;
  given.push({ name: 'uniqueext', value: own });
  const builds = mode !== 'list-chroots';
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
