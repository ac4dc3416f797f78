/** mock's command line, from mock(1): one entry for each option. */

/** The modes of mock. */
export const MODES = [
  'rebuild',
  'buildsrpm',
  'chain',
  'calculate-build-dependencies',
  'init',
  'clean',
  'shell',
  'chroot',
  'install',
  'installdeps',
  'remove',
  'update',
  'copyin',
  'copyout',
  'orphanskill',
  'scrub-all-chroots',
  'pm-cmd',
  'list-chroots',
  'debug-config',
  'debug-config-expanded',
] as const;
export type Mode = (typeof MODES)[number];

/** The values of `--scrub`. */
const SCRUB_CHOICES = [
  'all',
  'chroot',
  'cache',
  'root-cache',
  'c-cache',
  'yum-cache',
  'dnf-cache',
  'lvm',
  'overlayfs',
  'bootstrap',
] as const;

export interface OptionEntry {
  /** One letter. */
  readonly short?: string;
  /** The name of its value; an option without one is a flag. */
  readonly value?: string;
  readonly choices?: readonly string[];
  /** The help text; without it the option is hidden. */
  readonly help?: string;
  /** The mode that the option chooses. */
  readonly mode?: Mode;
  /** The modes that use it; all by default. */
  readonly onlyFor?: readonly Mode[];
  /** Why the option is accepted but has no effect. */
  readonly noEffect?: string;
  /** For a refused option: what to do instead. */
  readonly refused?: string;
}

const SNAPSHOTS = 'kiln has no snapshots: name roots with --uniqueext';
const SCM = 'get the sources first, then give --spec and --sources';

const modes: Record<string, OptionEntry> = {
  rebuild: {
    mode: 'rebuild',
    help: 'build source packages (the default), or a spec with --spec and --sources',
  },
  buildsrpm: { mode: 'buildsrpm', help: 'make a source package from --spec and --sources' },
  chain: {
    mode: 'chain',
    help: 'build source packages; each can use the results of the ones before',
  },
  'calculate-build-dependencies': {
    mode: 'calculate-build-dependencies',
    help: 'write which packages a source package would be built with: buildroot_lock.json',
  },
  init: { mode: 'init', help: 'make the root again and build nothing' },
  clean: { mode: 'clean', help: 'remove the root' },
  scrub: {
    value: 'WHAT',
    choices: SCRUB_CHOICES,
    help: 'remove the root (chroot, all); the caches belong to kiln and stay',
  },
  shell: { mode: 'shell', help: 'open a shell in the root, or run a command line in one' },
  chroot: {
    mode: 'chroot',
    help: 'run a command in the root: one argument through a shell, several as they are',
  },
  install: { short: 'i', mode: 'install', help: 'install packages (names or files) into the root' },
  installdeps: {
    mode: 'installdeps',
    help: 'install what source packages, specs or packages require',
  },
  update: { mode: 'update', help: 'update packages of the root, all if none is named' },
  remove: { mode: 'remove', help: 'remove packages from the root' },
  copyin: { mode: 'copyin', help: 'copy files into the root: SOURCE… DESTINATION' },
  copyout: { mode: 'copyout', help: 'copy files out of the root: SOURCE… DESTINATION' },
  orphanskill: { mode: 'orphanskill', help: 'end all processes in the root' },
  'scrub-all-chroots': { mode: 'scrub-all-chroots', help: 'remove all roots' },
  'pm-cmd': {
    mode: 'pm-cmd',
    help: 'install, remove or update packages with the command line of a package manager',
  },
  'dnf-cmd': { mode: 'pm-cmd', help: 'do the same as --pm-cmd' },
  'yum-cmd': { mode: 'pm-cmd', help: 'do the same as --pm-cmd' },
  'list-chroots': { mode: 'list-chroots', help: 'list configurations and recipes' },
  'debug-config': { mode: 'debug-config', help: 'print all options of the configuration' },
  'debug-config-expanded': {
    mode: 'debug-config-expanded',
    help: 'print all options with their templates filled in',
  },
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
  'enable-plugin': { value: 'NAME', help: 'enable a plugin; kiln has ccache and sign' },
  'disable-plugin': { value: 'NAME', help: 'disable a plugin' },
  'plugin-option': { value: 'PLUGIN:KEY=VALUE', help: 'set an option of a plugin' },
  uniqueext: { value: 'TEXT', help: 'use a root of its own, beside others of this configuration' },
  addrepo: { short: 'a', value: 'URL', help: 'use one more repository' },
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
  'bootstrap-chroot': { noEffect: BOOTSTRAP },
  'no-bootstrap-chroot': { noEffect: BOOTSTRAP },
  'use-bootstrap-image': { noEffect: BOOTSTRAP },
  'no-bootstrap-image': { noEffect: BOOTSTRAP },
  'old-chroot': { noEffect: ISOLATION },
  'new-chroot': { noEffect: ISOLATION },
  isolation: { value: 'HOW', choices: ['auto', 'simple', 'nspawn'], noEffect: ISOLATION },
  'cache-alterations': { noEffect: 'a root keeps what was changed in it, and images are cached' },
  trace: { noEffect: 'mock traces its Python functions' },
  tmp_prefix: { value: 'TEXT', noEffect: 'results of a chain go to --localrepo, or a new folder' },
  yum: { noEffect: MANAGER },
  dnf: { noEffect: MANAGER },
  dnf4: { noEffect: MANAGER },
  dnf5: { noEffect: MANAGER },
};

const refused: Record<string, OptionEntry> = {
  forcearch: { value: 'ARCH', refused: 'use a machine of that architecture: none is emulated' },
  'print-root-path': {
    short: 'p',
    refused: 'a root is mounted in a sandbox only: use --copyin, --copyout and --chroot',
  },
  rootdir: { value: 'DIR', refused: 'roots are kept in KILN_STATE: set that instead' },
  'symlink-dereference': { refused: 'copy the sources to a directory without links first' },
  'hermetic-build': { value: 'LOCK', refused: 'use kiln build --lock lock.json --offline' },
  snapshot: { refused: SNAPSHOTS },
  'remove-snapshot': { refused: SNAPSHOTS },
  'rollback-to': { refused: SNAPSHOTS },
  'list-snapshots': { short: 'l', refused: SNAPSHOTS },
  mount: { refused: 'nothing stays mounted between commands' },
  umount: { refused: 'nothing stays mounted between commands' },
  'scm-enable': { refused: SCM },
  'scm-option': { value: 'KEY=VALUE', refused: SCM },
  'separate-check': {
    value: 'MODE',
    refused: 'use --nocheck, and test what was built with kiln run',
  },
  'buildroot-image': { value: 'IMAGE', refused: 'kiln makes build roots of packages' },
};

/** Groups of options in the order of `--help`. */
export const OPTION_GROUPS: readonly (readonly [string, Readonly<Record<string, OptionEntry>>])[] =
  [
    ['What to do', modes],
    ['Builds', building],
    ['Roots and configuration', root],
  ];

/** All options by their long names. */
export const OPTIONS: ReadonlyMap<string, OptionEntry> = new Map([
  ...OPTION_GROUPS.flatMap(([, entries]) => Object.entries(entries)),
  ...Object.entries(withoutEffect),
  ...Object.entries(refused),
]);
