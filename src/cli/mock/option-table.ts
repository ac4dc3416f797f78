/** mock's command line, from mock(1): one entry for each option. */
import type { PathKind } from '../../options/rules.ts';
import { exitStatusHelp } from '../options/exit-statuses.ts';
import { filled, WIDTH, wrapped } from '../output/fill.ts';
import { MAKING, type Mode, type ModeRow, type Refusal, SHOWING, WORKING } from './modes.ts';

const SCRUB_CHOICES = [
  ...['all', 'chroot', 'cache', 'root-cache', 'c-cache', 'yum-cache', 'dnf-cache', 'lvm'],
  ...['overlayfs', 'bootstrap'],
];

export interface OptionEntry {
  readonly short?: string;
  readonly value?: string;
  readonly choices?: readonly string[];
  readonly help?: string;
  readonly mode?: Mode;
  readonly onlyFor?: readonly Mode[];
  readonly noEffect?: string;
  /** The only value with an effect, and why others have none. */
  readonly only?: { readonly value: string; readonly otherwise: string };
  readonly refused?: string;
  /** What users who are not root may give: any value, or one that fits. What says nothing of it is root's. */
  readonly users?: Users;
  /** What the path in its value is opened for. */
  readonly opens?: PathKind;
}

type Users = 'open' | Fit | Refusal;

/** In a configuration some values are templates, which could read everything in root's configuration. */
interface Fit {
  readonly fits: RegExp;
  readonly rule: string;
}

const SCM =
  'no version control runs on the host: get the sources first, then give --spec and --sources';
const MOUNTS = 'nothing stays mounted between commands: use --copyin, --copyout and --chroot';

/** Entries for modes: each is an option as well. */
function modesIn(rows: Readonly<Record<string, ModeRow>>): Record<string, OptionEntry> {
  const entries = Object.entries(rows);
  return Object.fromEntries(entries.map(([name, row]) => [name, { ...row, mode: name as Mode }]));
}

/** The same entry for several options. */
function each(names: string, entry: OptionEntry): Record<string, OptionEntry> {
  return Object.fromEntries(names.split(' ').map((name) => [name, entry]));
}

const modes: Record<string, OptionEntry> = {
  ...modesIn(MAKING),
  scrub: {
    value: 'WHAT',
    choices: SCRUB_CHOICES,
    help: 'remove the root (chroot), with its snapshots (all, overlayfs, lvm); the caches belong to kiln and stay',
    users: 'open',
  },
  ...modesIn(WORKING),
  ...each('dnf-cmd yum-cmd', { mode: 'pm-cmd', help: 'do the same as --pm-cmd' }),
  ...modesIn(SHOWING),
};

const ARCHITECTURE: Fit = { fits: /^\w[\w.+-]*$/, rule: 'it is letters, digits and _ . + -' };
const ENDING: Fit = { fits: /^[\w.-]{0,64}$/, rule: 'it is at most 64 letters, digits and _ . -' };
const IMAGE: Fit = { fits: /^\w[\w.+:@-]*$/, rule: 'users name an image of theirs, not a file' };
const NAMED: Fit = { fits: /^[^/-][^/]*$/, rule: 'users name packages, not files' };

const STAYS: Refusal = {
  why: 'a root that stays could grow beyond the user’s share of the disk; each build of a user has a fresh root',
  instead: '`kiln build --keep 1h` keeps the sandbox of a build that failed, for `kiln shell`',
};

const NETWORK: Refusal = {
  why: 'it is the network of the host',
  instead: '`kiln build --egress HOST`, where root allows it',
};

const SERVERS: Refusal = {
  why: 'kilnd, which is root, would fetch from whatever server the option names',
  instead: 'root adds it to the configuration',
};

const AS_WRITTEN: Refusal = {
  why: 'users can use root’s configurations, but not change what is in them',
  instead: 'ask root for a configuration that has it',
};

const DIR = { value: 'DIR' };
const NAME = { value: 'NAME' };
const REPO = { value: 'REPO' };
const RESULTS = { value: 'DIR', opens: 'lone results' } as const;

/** An option that does something. */
function option(users: Users, help: string, more: OptionEntry = {}): OptionEntry {
  return { users, help, ...more };
}

const OF_CHAINS = { onlyFor: ['chain'] } as const;
const OF_SPECS = { onlyFor: ['buildsrpm', 'rebuild'] } as const;

const ISOLATION = 'every command runs in a libvirt-lxc sandbox, unless --isolation=vm is given';

const building: Record<string, OptionEntry> = {
  define: option('open', 'define an rpm macro', { short: 'D', value: 'MACRO EXPR' }),
  with: option('open', 'enable a condition (%bcond) of the spec', { value: 'OPTION' }),
  without: option('open', 'disable a condition (%bcond) of the spec', { value: 'OPTION' }),
  nocheck: option('open', 'skip %check'),
  target: option(ARCHITECTURE, 'build for this architecture (rpmbuild --target)', {
    value: 'ARCH',
  }),
  spec: option('open', 'use this spec, also in place of that of a source package', {
    ...{ value: 'FILE', opens: 'text', ...OF_SPECS },
  }),
  sources: option('open', 'take its sources from this file or folder', {
    ...{ value: 'PATH', opens: 'sources', ...OF_SPECS },
  }),
  resultdir: option('open', 'write results to this folder', RESULTS),
  'rpmbuild-opts': option('open', 'pass more options to rpmbuild', { value: 'OPTIONS' }),
  rpmbuild_timeout: option('open', 'end rpmbuild after this time', { value: 'SECONDS' }),
  'short-circuit': {
    value: 'STAGE',
    choices: ['prep', 'build', 'install', 'binary'],
    help: 'continue in the root at build, install or binary; implies --no-clean',
    users: STAYS,
  },
  'additional-package': option(NAMED, 'install this package, too', {
    value: 'PACKAGE',
    onlyFor: ['rebuild', 'chain', 'installdeps', 'calculate-build-dependencies'],
  }),
  'buildroot-image': option(
    IMAGE,
    'build in this image of the store, which has what the build requires',
    {
      value: 'IMAGE',
      onlyFor: ['rebuild', 'buildsrpm'],
    },
  ),
  isolation: option(
    'open',
    'vm: build in a virtual machine, and keep no root; other values change nothing',
    {
      ...{ value: 'HOW', choices: ['auto', 'simple', 'nspawn', 'vm'] },
      only: { value: 'vm', otherwise: ISOLATION },
    },
  ),
  postinstall: option('open', 'install the built packages in the root'),
  'enable-network': option(NETWORK, 'allow builds and commands to use the network of the host'),
  continue: option('open', 'chain: continue after a failed build', { short: 'c', ...OF_CHAINS }),
  recurse: option('open', 'chain: try failed builds again until no more succeed', OF_CHAINS),
  localrepo: option('open', 'chain: write results and their repository to this folder', {
    ...{ ...RESULTS, ...OF_CHAINS },
  }),
};

const root: Record<string, OptionEntry> = {
  root: option('open', 'use this configuration (NAME or FILE.cfg), or this recipe of kiln', {
    ...{ short: 'r', value: 'CONFIG' },
  }),
  configdir: option(AS_WRITTEN, 'read configurations from this folder instead of /etc/mock', DIR),
  'config-opts': option(AS_WRITTEN, 'override an option of the configuration', {
    value: 'KEY=VALUE',
  }),
  'macro-file': {
    value: 'FILE',
    help: 'read macros for rpmbuild from this file, which is written like ~/.rpmmacros',
    users: 'open',
    opens: 'text',
  },
  'enable-plugin': option(
    AS_WRITTEN,
    'enable a plugin; kiln has ccache, sign and chroot_scan',
    NAME,
  ),
  'disable-plugin': option(AS_WRITTEN, 'disable a plugin', NAME),
  'plugin-option': option(AS_WRITTEN, 'set an option of a plugin', { value: 'PLUGIN:KEY=VALUE' }),
  uniqueext: option(ENDING, 'use a root of its own, beside others of this configuration', {
    value: 'TEXT',
  }),
  addrepo: option(SERVERS, 'use one more repository', { short: 'a', value: 'URL' }),
  'allow-host': {
    help: 'let a recipe (-r FILE.yaml) name files of the host outside of its folder; not an option of mock',
  },
  enablerepo: option(AS_WRITTEN, 'use a repository that the configuration disables', REPO),
  disablerepo: option(AS_WRITTEN, 'do not use a repository', REPO),
  offline: option('open', 'use only what was downloaded before'),
  'no-clean': option(STAYS, 'build in the root as it is', { short: 'n' }),
  'cleanup-after': option('open', 'remove the root after the build'),
  'no-cleanup-after': option(STAYS, 'keep the root after the build', { short: 'N' }),
  unpriv: option('open', '--shell, --chroot: run as the build user instead of root'),
  cwd: option('open', '--shell, --chroot: start in this folder', DIR),
  arch: option(ARCHITECTURE, 'build for this architecture, which this host must run', {
    value: 'ARCH',
  }),
  forcearch: option(ARCHITECTURE, 'build for this architecture, which an emulator runs', {
    value: 'ARCH',
  }),
  verbose: option('open', 'show logs while they are written', { short: 'v' }),
  quiet: option('open', 'show only warnings and errors', { short: 'q' }),
  help: option('open', 'show this help', { short: 'h' }),
  version: option('open', 'show the version'),
};

const BOOTSTRAP = 'packages are solved and unpacked on the host, without a bootstrap root';
const MANAGER = 'no package manager runs: kiln solves and installs by itself';

const withoutEffect: Record<string, OptionEntry> = {
  ...each('bootstrap-chroot no-bootstrap-chroot', { noEffect: BOOTSTRAP }),
  ...each('use-bootstrap-image no-bootstrap-image', { noEffect: BOOTSTRAP }),
  ...each('old-chroot new-chroot', { noEffect: ISOLATION }),
  'cache-alterations': { noEffect: 'a root keeps what was changed in it, and images are cached' },
  trace: { noEffect: 'mock traces its Python functions' },
  tmp_prefix: { value: 'TEXT', noEffect: 'results of a chain go to --localrepo, or a new folder' },
  ...each('yum dnf dnf4 dnf5', { noEffect: MANAGER }),
};

const refused: Record<string, OptionEntry> = {
  'print-root-path': {
    short: 'p',
    refused: 'a root is mounted in a sandbox only: use --copyin, --copyout and --chroot',
  },
  rootdir: { value: 'DIR', refused: 'roots are kept in KILN_STATE: set that instead' },
  'symlink-dereference': {
    refused: 'no link out of the sources is followed: copy them to a folder without links first',
  },
  ...each('mount umount', { refused: MOUNTS }),
  'scm-enable': { refused: SCM },
  'scm-option': { value: 'KEY=VALUE', refused: SCM },
  'separate-check': {
    value: 'MODE',
    refused:
      'rpmbuild runs %check with the rest: use --nocheck, and test what was built with `kiln run`',
  },
};

export const OPTION_GROUPS: readonly (readonly [string, Readonly<Record<string, OptionEntry>>])[] =
  [
    ['What to do', modes],
    ['Builds', building],
    ['Roots and configuration', root],
  ];

export const OPTIONS: ReadonlyMap<string, OptionEntry> = new Map([
  ...OPTION_GROUPS.flatMap(([, entries]) => Object.entries(entries)),
  ...Object.entries(withoutEffect),
  ...Object.entries(refused),
]);

export const MOCK_USAGE = `Usage: kiln-mock [options] [--rebuild] SRPM…
       kiln-mock [options] --buildsrpm --spec SPEC [--sources PATH]
       kiln-mock [options] --chain SRPM…
       kiln-mock [options] {--init | --clean | --scrub WHAT}
       kiln-mock [options] {--shell | --chroot} [COMMAND…]
       kiln-mock [options] {--install | --remove | --update} PACKAGE…
       kiln-mock [options] --installdeps {SRPM | SPEC | PACKAGE}…
       kiln-mock [options] {--copyin | --copyout} SOURCE… DESTINATION
`;

export const MOCK_ABOUT = `
Builds packages in kiln's sandboxes with the command line of mock, for scripts that call mock. CONFIG
is a mock configuration or a recipe of kiln.
`;

export const MOCK_AFTER = `
kiln-mock accepts mock's options about bootstrap, isolation (but for vm, which is kiln's own) and package manager,
but they have no effect.
${exitStatusHelp('kiln-mock')}
Examples:
  kiln-mock -r debian-build --rebuild hello-2.12-1.src.rpm --resultdir out
  kiln-mock -r fedora-44-x86_64 --buildsrpm --spec hello.spec --sources .
  kiln-mock -r ./my.cfg --init; kiln-mock -r ./my.cfg --install gdb; kiln-mock -r ./my.cfg --shell
  kiln-mock -r debian-build --chroot -- ls -l /builddir
`;

export function helpText(): string {
  const groups = OPTION_GROUPS.map(([title, entries]) => {
    const lines = Object.entries(entries).map(([name, entry]) => optionLine(name, entry));
    return `\n${title}:\n${lines.join('\n')}\n`;
  });
  return MOCK_USAGE + filled(MOCK_ABOUT) + groups.join('') + filled(MOCK_AFTER);
}

/** Columns of the names. */
const NAMES = 30;

function optionLine(name: string, { short, value, help = '' }: OptionEntry): string {
  const flags = `${short === undefined ? '' : `-${short}, `}--${name}`;
  const left = `  ${value === undefined ? flags : `${flags} ${value}`}`;
  const lines = wrapped(help.split(' '), WIDTH - NAMES).map((line) => ' '.repeat(NAMES) + line);
  if (left.length >= NAMES) return [left, ...lines].join('\n');
  return left + lines.join('\n').slice(left.length);
}
