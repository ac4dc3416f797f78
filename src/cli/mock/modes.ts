/** What mock's command line can ask to be done: one row for each mode. */

/** Why users who are not root may not have it, and what they have instead. */
export interface Refusal {
  readonly why: string;
  readonly instead?: string;
}

export interface ModeRow {
  readonly help: string;
  readonly short?: string;
  /** What its arguments are. */
  readonly takes: 'files' | 'packages' | 'words' | 'copyin' | 'copyout' | 'hermetic';
  /** The option that says where results go. */
  readonly results?: 'resultdir' | 'localrepo';
  /** It may be the first word, without dashes. */
  readonly bare?: true;
  /** It may leave something in the store. */
  readonly changes?: true;
  /** It prints an answer, and nothing of what it does. */
  readonly silent?: true;
  readonly users?: Refusal;
}

function mode(takes: ModeRow['takes'], help: string, more: Partial<ModeRow> = {}): ModeRow {
  return { takes, help, ...more };
}

const OF_ROOT = { bare: true, changes: true } as const;
const BUILDS = { results: 'resultdir' } as const;

const HERMETIC = 'build with the packages of a buildroot_lock.json, from a folder: LOCK REPO SRPM';
const INPUTS = 'write which packages a source package would be built with: buildroot_lock.json';

export const MAKING = {
  rebuild: mode(
    'files',
    'build source packages (the default), or a spec with --spec and --sources',
    { ...BUILDS, ...OF_ROOT },
  ),
  buildsrpm: mode('files', 'make a source package from --spec and --sources', BUILDS),
  chain: mode('files', 'build source packages; each can use the results of the ones before', {
    results: 'localrepo',
  }),
  'calculate-build-dependencies': mode('files', INPUTS, BUILDS),
  'hermetic-build': mode('hermetic', HERMETIC, {
    ...BUILDS,
    users: {
      why: 'kilnd, which is root, would read the folder of packages',
      instead: '`kiln build --lock lock.json --offline`',
    },
  }),
  init: mode('words', 'make the root again and build nothing', OF_ROOT),
  clean: mode('words', 'remove the root', { bare: true }),
};

const SNAPSHOTS: Partial<ModeRow> = {
  changes: true,
  users: {
    why: 'each build of a user has a fresh root',
    instead: '`kiln snapshot` keeps the state of a sandbox',
  },
};

const COMMAND = 'run a command in the root: one argument through a shell, several as they are';
const MANAGER = 'install, remove or update packages with the command line of a package manager';

export const WORKING = {
  shell: mode('words', 'open a shell in the root, or run a command line in one', OF_ROOT),
  chroot: mode('words', COMMAND, OF_ROOT),
  install: mode('packages', 'install packages (names or files) into the root', {
    ...OF_ROOT,
    short: 'i',
  }),
  installdeps: mode('files', 'install what source packages, specs or packages require', OF_ROOT),
  update: mode('packages', 'update packages of the root, all if none is named', { changes: true }),
  remove: mode('packages', 'remove packages from the root', OF_ROOT),
  copyin: mode('copyin', 'copy files into the root: SOURCE… DESTINATION', { changes: true }),
  copyout: mode('copyout', 'copy files out of the root: SOURCE… DESTINATION'),
  orphanskill: mode('words', 'end all processes in the root'),
  'scrub-all-chroots': mode('words', 'remove all roots'),
  'pm-cmd': mode('packages', MANAGER, { changes: true }),
  snapshot: mode('words', 'make the root a snapshot, which cleaning goes back to: NAME', SNAPSHOTS),
  'rollback-to': mode('words', 'make the root what it was at a snapshot: NAME', SNAPSHOTS),
  'remove-snapshot': mode('words', 'remove a snapshot of the root: NAME', SNAPSHOTS),
  'list-snapshots': mode('words', 'list the snapshots of the root', {
    ...SNAPSHOTS,
    short: 'l',
    silent: true,
  }),
};

const WHOLE: Partial<ModeRow> = {
  silent: true,
  users: { why: 'it prints what only root may read', instead: '--list-chroots' },
};

export const SHOWING = {
  'list-chroots': mode('words', 'list configurations and recipes', { silent: true }),
  'debug-config': mode('words', 'print all options of the configuration', WHOLE),
  'debug-config-expanded': mode('words', 'print all options with their templates filled in', WHOLE),
};

const ALL = { ...MAKING, ...WORKING, ...SHOWING };
export type Mode = keyof typeof ALL;
export const MODES: Readonly<Record<Mode, ModeRow>> = ALL;

export function isMode(word: string): word is Mode {
  return Object.hasOwn(MODES, word);
}
