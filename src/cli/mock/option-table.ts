/** mock's command line, from mock(1): one entry for each option. */
import { exitStatusHelp } from '../options/exit-statuses.ts';

export const MODES = [
  ...(['rebuild', 'buildsrpm', 'chain', 'calculate-build-dependencies', 'init', 'clean'] as const),
  ...(['shell', 'chroot', 'install', 'installdeps', 'remove', 'update', 'copyin'] as const),
  ...(['copyout', 'orphanskill', 'scrub-all-chroots', 'pm-cmd', 'list-chroots'] as const),
  ...(['debug-config', 'debug-config-expanded'] as const),
] as const;
export type Mode = (typeof MODES)[number];

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
  readonly refused?: string;
}

const SNAPSHOTS = 'kiln has no snapshots: name roots with --uniqueext';
const SCM =
  'no version control runs on the host: get the sources first, then give --spec and --sources';
const MOUNTS = 'nothing stays mounted between commands: use --copyin, --copyout and --chroot';

function mode(name: Mode, help: string, more: OptionEntry = {}): Record<string, OptionEntry> {
  return { [name]: { mode: name, help, ...more } };
}

/** The same entry for several options. */
function each(names: string, entry: OptionEntry): Record<string, OptionEntry> {
  return Object.fromEntries(names.split(' ').map((name) => [name, entry]));
}

const modes: Record<string, OptionEntry> = {
  ...mode('rebuild', 'build source packages (the default), or a spec with --spec and --sources'),
  ...mode('buildsrpm', 'make a source package from --spec and --sources'),
  ...mode('chain', 'build source packages; each can use the results of the ones before'),
  ...mode(
    'calculate-build-dependencies',
    'write which packages a source package would be built with: buildroot_lock.json',
  ),
  ...mode('init', 'make the root again and build nothing'),
  ...mode('clean', 'remove the root'),
  scrub: {
    value: 'WHAT',
    choices: SCRUB_CHOICES,
    help: 'remove the root (chroot, all); the caches belong to kiln and stay',
  },
  ...mode('shell', 'open a shell in the root, or run a command line in one'),
  ...mode('chroot', 'run a command in the root: one argument through a shell, several as they are'),
  ...mode('install', 'install packages (names or files) into the root', { short: 'i' }),
  ...mode('installdeps', 'install what source packages, specs or packages require'),
  ...mode('update', 'update packages of the root, all if none is named'),
  ...mode('remove', 'remove packages from the root'),
  ...mode('copyin', 'copy files into the root: SOURCE… DESTINATION'),
  ...mode('copyout', 'copy files out of the root: SOURCE… DESTINATION'),
  ...mode('orphanskill', 'end all processes in the root'),
  ...mode('scrub-all-chroots', 'remove all roots'),
  ...mode(
    'pm-cmd',
    'install, remove or update packages with the command line of a package manager',
  ),
  ...each('dnf-cmd yum-cmd', { mode: 'pm-cmd', help: 'do the same as --pm-cmd' }),
  ...mode('list-chroots', 'list configurations and recipes'),
  ...mode('debug-config', 'print all options of the configuration'),
  ...mode('debug-config-expanded', 'print all options with their templates filled in'),
};

const building: Record<string, OptionEntry> = {
  define: { short: 'D', value: 'MACRO EXPR', help: 'define an rpm macro' },
  with: { value: 'OPTION', help: 'enable a condition (%bcond) of the spec' },
  without: { value: 'OPTION', help: 'disable a condition (%bcond) of the spec' },
  nocheck: { help: 'skip %check' },
  target: { value: 'ARCH', help: 'build for this architecture (rpmbuild --target)' },
  spec: {
    value: 'FILE',
    onlyFor: ['buildsrpm', 'rebuild'],
    help: 'use this spec, also in place of that of a source package',
  },
  sources: {
    value: 'PATH',
    onlyFor: ['buildsrpm', 'rebuild'],
    help: 'take its sources from this file or directory',
  },
  resultdir: { value: 'DIR', help: 'write results to this directory' },
  'rpmbuild-opts': { value: 'OPTIONS', help: 'pass more options to rpmbuild' },
  rpmbuild_timeout: { value: 'SECONDS', help: 'end rpmbuild after this time' },
  'short-circuit': {
    value: 'STAGE',
    choices: ['prep', 'build', 'install', 'binary'],
    help: 'continue in the root at build, install or binary; implies --no-clean',
  },
  'additional-package': {
    value: 'PACKAGE',
    onlyFor: ['rebuild', 'chain', 'installdeps', 'calculate-build-dependencies'],
    help: 'install this package, too',
  },
  postinstall: { help: 'install the built packages in the root' },
  'enable-network': { help: 'allow builds and commands to use the network of the host' },
  continue: { short: 'c', onlyFor: ['chain'], help: 'chain: continue after a failed build' },
  recurse: {
    onlyFor: ['chain'],
    help: 'chain: try failed builds again until no more succeed',
  },
  localrepo: {
    value: 'DIR',
    onlyFor: ['chain'],
    help: 'chain: write results and their repository to this directory',
  },
};

const root: Record<string, OptionEntry> = {
  root: {
    short: 'r',
    value: 'CONFIG',
    help: 'use this configuration (NAME or FILE.cfg), or this recipe of kiln',
  },
  configdir: { value: 'DIR', help: 'read configurations from this directory instead of /etc/mock' },
  'config-opts': { value: 'KEY=VALUE', help: 'override an option of the configuration' },
  'macro-file': {
    value: 'FILE',
    help: 'read macros for rpmbuild from this file, which is written like ~/.rpmmacros',
  },
  'enable-plugin': {
    value: 'NAME',
    help: 'enable a plugin; kiln has ccache, sign and chroot_scan',
  },
  'disable-plugin': { value: 'NAME', help: 'disable a plugin' },
  'plugin-option': { value: 'PLUGIN:KEY=VALUE', help: 'set an option of a plugin' },
  uniqueext: { value: 'TEXT', help: 'use a root of its own, beside others of this configuration' },
  addrepo: { short: 'a', value: 'URL', help: 'use one more repository' },
  'allow-host': {
    help: 'let a recipe (-r FILE.yaml) name files of the host outside of its folder; not an option of mock',
  },
  enablerepo: { value: 'REPO', help: 'use a repository that the configuration disables' },
  disablerepo: { value: 'REPO', help: 'do not use a repository' },
  offline: { help: 'use only what was downloaded before' },
  'no-clean': { short: 'n', help: 'build in the root as it is' },
  'cleanup-after': { help: 'remove the root after the build' },
  'no-cleanup-after': { short: 'N', help: 'keep the root after the build' },
  unpriv: { help: '--shell, --chroot: run as the build user instead of root' },
  cwd: { value: 'DIR', help: '--shell, --chroot: start in this directory' },
  arch: { value: 'ARCH', help: 'build for this architecture, which this host must run' },
  verbose: { short: 'v', help: 'show logs while they are written' },
  quiet: { short: 'q', help: 'show only warnings and errors' },
  help: { short: 'h', help: 'show this help' },
  version: { help: 'show the version' },
};

const BOOTSTRAP = 'packages are solved and unpacked on the host, without a bootstrap root';
const ISOLATION = 'every command runs in a libvirt-lxc sandbox';
const MANAGER = 'no package manager runs: kiln solves and installs by itself';

const withoutEffect: Record<string, OptionEntry> = {
  ...each('bootstrap-chroot no-bootstrap-chroot', { noEffect: BOOTSTRAP }),
  ...each('use-bootstrap-image no-bootstrap-image', { noEffect: BOOTSTRAP }),
  ...each('old-chroot new-chroot', { noEffect: ISOLATION }),
  isolation: { value: 'HOW', choices: ['auto', 'simple', 'nspawn'], noEffect: ISOLATION },
  'cache-alterations': { noEffect: 'a root keeps what was changed in it, and images are cached' },
  trace: { noEffect: 'mock traces its Python functions' },
  tmp_prefix: { value: 'TEXT', noEffect: 'results of a chain go to --localrepo, or a new folder' },
  ...each('yum dnf dnf4 dnf5', { noEffect: MANAGER }),
};

const refused: Record<string, OptionEntry> = {
  forcearch: { value: 'ARCH', refused: 'use a machine of that architecture: none is emulated' },
  'print-root-path': {
    short: 'p',
    refused: 'a root is mounted in a sandbox only: use --copyin, --copyout and --chroot',
  },
  rootdir: { value: 'DIR', refused: 'roots are kept in KILN_STATE: set that instead' },
  'symlink-dereference': {
    refused: 'no link out of the sources is followed: copy them to a folder without links first',
  },
  'hermetic-build': {
    value: 'LOCK',
    refused:
      'mock’s lock knows packages by MD5 only: use `kiln build --lock lock.json --offline`; each build and --calculate-build-dependencies write lock.json',
  },
  ...each('snapshot remove-snapshot rollback-to', { refused: SNAPSHOTS }),
  'list-snapshots': { short: 'l', refused: SNAPSHOTS },
  ...each('mount umount', { refused: MOUNTS }),
  'scm-enable': { refused: SCM },
  'scm-option': { value: 'KEY=VALUE', refused: SCM },
  'separate-check': {
    value: 'MODE',
    refused:
      'rpmbuild runs %check with the rest: use --nocheck, and test what was built with `kiln run`',
  },
  'buildroot-image': {
    value: 'IMAGE',
    refused:
      'a root is made of packages: `kiln image import ARCHIVE --name NAME`, then `kiln build -r NAME`',
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
       kiln-mock [options] {--install | --remove | --update | --installdeps} PACKAGE…
       kiln-mock [options] {--copyin | --copyout} SOURCE… DESTINATION
`;

export const MOCK_ABOUT = `
Builds packages in kiln's sandboxes with the command line of mock, for scripts that call mock. CONFIG
is a mock configuration or a recipe of kiln.
`;

export const MOCK_AFTER = `
kiln-mock accepts mock's options about bootstrap, isolation and package manager, but they have no effect.
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
  return MOCK_USAGE + MOCK_ABOUT + groups.join('') + MOCK_AFTER;
}

function optionLine(name: string, { short, value, help = '' }: OptionEntry): string {
  const flags = `${short === undefined ? '' : `-${short}, `}--${name}`;
  const left = `  ${value === undefined ? flags : `${flags} ${value}`}`;
  return left.length < 30 ? `${left.padEnd(30)}${help}` : `${left}\n${' '.repeat(30)}${help}`;
}
