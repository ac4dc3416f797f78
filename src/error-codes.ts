/**
 * Every error code of kiln, under the page of docs/ that helps, with what it means for the person who gets
 * it. docs/errors.md is written from this table by scripts/write/errors.ts. It is long because it is complete:
 * {@link ErrorCode} takes nothing else.
 */
export const CODES_BY_PAGE = {
  'sandboxes.md': {
    E_ARGUMENT: 'An option or argument has a value that kiln cannot use.',
    E_BIND: 'A file or folder of the host cannot be mounted in the sandbox.',
    E_SANDBOX_BUSY: 'Another command enters or leaves the kept sandbox just now.',
    E_SANDBOX_GONE:
      'The sandbox ended while kiln still needed it, for example because somebody killed it.',
    E_COMMAND_NOT_EXECUTABLE: 'The command is in the image, but the kernel cannot execute it.',
    E_COMMAND_NOT_FOUND: 'The image does not have the command.',
    E_EXEC: 'The command could not be started.',
    E_INTERRUPTED: 'The work was interrupted, by Ctrl-C or a signal.',
    E_LIMIT: 'A limit (memory, CPUs, processes, disk speed) cannot be set to the wanted value.',
    E_NO_SANDBOX: 'No sandbox has this id, or it is not one that can be entered.',
    E_NO_DAEMON: 'The command needs the daemon, and none serves this call.',
    E_NO_USER: 'The image does not have the user that the command should run as.',
    E_OUTPUT: 'The place where the output goes cannot be written to.',
    E_PARK_ROOM: 'The host has too little free memory for so many parked sandboxes.',
    E_SECRET: 'The file of a --secret cannot be read, or is too long.',
    E_WORKDIR: 'The sandbox does not have the working directory of the command.',
  },
  'changes.md': {
    E_CHANGES: 'What a sandbox has changed cannot be read, or is too much.',
    E_CONFLICT:
      'Some of the changes of a sandbox were not written to the folder; the lines above say which, and why.',
  },
  'snapshots.md': {
    E_NO_SNAPSHOT: 'No snapshot has this id or name, or it is gone.',
    E_ROLLBACK: 'A sandbox cannot go back to a snapshot now, or not to that one.',
    E_SNAPSHOT:
      'The files of a sandbox cannot become a snapshot, or what a snapshot has cannot be taken.',
    E_SNAPSHOT_IN_USE: 'A sandbox or another snapshot stands on the snapshot.',
  },
  'jobs.md': {
    E_JOB_FILE:
      'The file of `kiln run --file` has mistakes; the message lists them with their lines.',
    E_JOB_LOST:
      'The daemon that a detached job was in has ended, and the job or its results with it.',
    E_JOB_NAME: 'Another sandbox, or a detached job that goes on, has the name.',
    E_NO_JOB: 'No detached job has this id or name; those that ended long ago are removed.',
    E_NO_RESULTS: 'A detached job has no results that can be copied, or not yet.',
  },
  'remote.md': {
    E_REMOTE_ARCHIVE:
      'What the other machine sent is not what was asked for, or cannot be written.',
    E_REMOTE_FILE: 'A file or folder that a command names cannot be sent to the other machine.',
    E_REMOTE_HOST_KEY: 'The other machine does not have the host key that ssh knows it by.',
    E_REMOTE_KILN: 'The other machine has no kiln that ssh finds.',
    E_REMOTE_LOST: 'The connection to the other machine ended before the command did.',
    E_REMOTE_OPTION: 'A command or option does not go to another machine.',
    E_REMOTE_SSH: 'ssh does not reach the other machine.',
    E_REMOTE_VERSION: 'The kiln of the other machine is of another version.',
  },
  'ci-runners.md': {
    E_CI_JOB: 'A job of a CI runner cannot be run as its service asks.',
  },
  'api.md': {
    E_INPUT: 'The command has closed its standard input, or has ended: it reads nothing more.',
    E_NO_PROCESS: 'No command that was started by the API has this name; it may have ended.',
    E_WORKER:
      'The process that worked for a command line or a call of the API, or wrote the results of a run, ended too early.',
  },
  'configuration.md': {
    E_CONFIGURATION: 'kiln.yaml has mistakes; the message lists them with their lines.',
  },
  'users.md': {
    E_ACCOUNT:
      'The number of a user is another account’s than before; root decides about what is kept.',
    E_CALLER_FILE:
      'A file or folder that the caller named is not one that kiln can use with the caller’s rights.',
    E_FORBIDDEN: 'Users who are not root may not do this here.',
  },
  'security.md': {
    E_CONFINE_DIED:
      'The confined process that reads an untrusted file crashed or reached its limits.',
    E_CONFINE_PROTOCOL:
      'A confined process sent something that kiln did not ask for; it was ended.',
    E_CONFINE_TIMEOUT: 'The confined process that reads an untrusted file took too long.',
    E_LAYER_MISSING:
      'A layer of protection cannot be put in force on this host, so nothing was run.',
    E_PROTOCOL: 'The other end of a connection (an init, a supervisor) broke the protocol.',
    E_SECCOMP: 'The seccomp filter of a sandbox cannot be made.',
    E_SECCOMP_PROFILE: 'The seccomp profile is missing, or is not a profile.',
    E_EGRESS: 'The list of allowed hosts is wrong, or the proxy that enforces it failed.',
  },
  'labels.md': {
    E_NO_MCS: 'No pair of MCS categories is free for another sandbox.',
    E_RELABEL: 'The SELinux label of a bound folder cannot be changed.',
  },
  'doctor.md': {
    E_CONFINE_START: 'The host does not let kiln confine the processes that read untrusted files.',
    E_IDMAP: 'The file system does not support ID-mapped mounts.',
    E_INIT_SILENT: 'The init of a sandbox does not answer.',
    E_INSTALLATION: 'A part of kiln itself is missing.',
    E_IO: 'The disk reports input/output errors.',
    E_NO_CHECK: '`kiln doctor` has no check with this name.',
    E_NO_GUEST_INIT: 'kiln-init, the init of every sandbox, has not been compiled.',
    E_NO_MEMORY: 'The host has no memory left.',
    E_NO_PROC: '/proc is not mounted.',
    E_NO_RANGE: 'No range of user ids is free for another sandbox.',
    E_NOT_ROOT: 'The command needs root.',
    E_PATH: 'A path on the host is missing, or is not what kiln needs there.',
    E_PERMISSION: 'The host refuses kiln an operation or a file.',
    E_PROGRAM_SILENT: 'A program of the host that kiln started does not answer.',
    E_READ_ONLY: 'The file system is mounted read-only.',
    E_SETUP: 'The init could not prepare the sandbox.',
    E_STATE: 'The state folder (KILN_STATE) cannot be used.',
    E_STATE_PRIVATE:
      'The path to the state folder is closed to other users; sandboxes must pass it.',
    E_SUBUID: "kiln's line in /etc/subuid or /etc/subgid gives it too few ids.",
    E_SYSCALL: 'A system call failed in a way that kiln does not expect.',
    E_TOO_MANY_FILES: 'kiln or the host has too many open files.',
    E_TOO_MANY_PROCESSES: 'The host allows no more processes.',
  },
  'containers.md': {
    E_NO_CGROUP2: 'The host has no cgroup v2 hierarchy that kiln can use for the sandbox.',
    E_NO_CGROUPS:
      'kiln can make no cgroups here, which is usual in a container without the privilege.',
  },
  'engine.md': {
    E_LIBVIRT: 'libvirt refused a call; the message says why.',
    E_LIBVIRT_CLOSED: 'The connection to libvirt was closed while it was needed.',
    E_LIBVIRT_CONNECT: 'kiln cannot connect to libvirt.',
    E_LIBVIRT_LEAK: 'kiln forgot to free an object of libvirt; this is a bug in kiln.',
    E_LIBVIRT_LOST: 'The libvirt daemon went away during a call.',
    E_LIBVIRT_MISSING: 'libvirt, or its LXC driver, is not installed.',
    E_LIBVIRT_NO_DOMAIN: 'libvirt does not know the domain of the sandbox any more.',
    E_LIBVIRT_NO_NETWORK: 'libvirt has no network with this name.',
    E_LIBVIRT_REMOTE: 'KILN_URI names a libvirt on another host; kiln works only with a local one.',
    E_LIBVIRT_SILENT: 'The libvirt daemon does not answer.',
    E_LIBVIRT_START: "kiln's own libvirtd cannot be started.",
    E_LIBVIRT_STOP: "kiln's own libvirtd cannot be stopped.",
    E_LIBVIRT_URI:
      'KILN_URI is no libvirt URI for the lxc or the qemu driver, or names another one than the sandbox needs.',
    E_LIBVIRT_XML: 'libvirt does not accept the description of a domain.',
    E_DESTROY:
      'A sandbox cannot be destroyed: libvirt refuses, or the kernel cannot end a process in it.',
  },
  'machines.md': {
    E_MACHINE: 'A virtual machine ended, or something in it cannot be done.',
    E_MACHINE_KERNEL: 'The host has no kernel that a virtual machine can boot.',
    E_MACHINE_MISSING: 'A program that virtual machines need is not installed.',
  },
  'images.md': {
    E_ARCHIVE: 'The file to import is not a tar archive or OCI layout, or it is damaged.',
    E_ARCHIVE_HOSTILE:
      'The archive would write outside its tree, or breaks another rule of safety.',
    E_DAMAGED: "A file of kiln's state is damaged; kiln makes it again where it can.",
    E_EXPORT: 'The exported image cannot be written.',
    E_FILE_CONFLICT: 'Packages of the image contain different files with the same path.',
    E_IMAGE_AMBIGUOUS: 'The name or the first digits of an id fit more than one image.',
    E_IMAGE_ARCH: 'The image is for an architecture whose programs this machine does not run.',
    E_IMAGE_IN_USE: 'The image cannot be removed while a sandbox, service or mock root uses it.',
    E_IMAGE_LARGE: 'What an image says of itself, such as its accounts and variables, is too long.',
    E_IMAGE_MISSING: 'There is no such image, recipe or lock.',
    E_IMAGE_MOUNT: 'The image of a file system cannot be mounted.',
    E_IMAGE_TREE: 'The image has something else where kiln must write a file or folder.',
    E_IMAGE_USER: 'A user or group that the recipe names is missing, or exists with other ids.',
    E_LOCKED: 'Another process holds a lock in the state folder and does not let go.',
    E_DIGEST: 'The image has another digest than the one that was asked for.',
    E_PULL: 'skopeo could not fetch the image.',
    E_OCI: 'The OCI layout is damaged, or has no image for this architecture.',
    E_REMOVE: 'A tree of files could not be removed completely.',
    E_RPM_MISSING: 'The packages need rpm in the image to be installed correctly.',
    E_SCRIPTLET: 'A scriptlet or trigger of a package failed.',
    E_STORE: 'A package of the store changed or was removed while it was needed.',
    E_DISK: 'The packages or scriptlets wrote more to the disk than they may.',
    E_DISK_FULL: 'The disk, or its quota, is full.',
    E_DISK_LOW: 'The disk of the host is nearly full, so kiln stopped what filled it.',
    E_DISK_WATCH: 'The process that watches the use of the disk failed.',
    E_FILE_TOO_BIG: 'A file would become larger than it may.',
    E_TREE_DEPTH: 'A tree has folders nested too deep.',
  },
  'rpm.md': {
    E_KEYRING: 'The file of keys cannot be read, or contains no public key.',
    E_LIBRPM: "rpm's library librpmio cannot be used, so signatures cannot be checked.",
    E_RPM_DIGEST: 'The content of the package differs from the checksum in it.',
    E_RPM_FORMAT: 'The file is not an RPM package, or is damaged.',
    E_RPM_HOSTILE: 'Unpacking the package would do harm.',
    E_RPM_SIGNATURE: 'The package is not signed by a trusted key.',
    E_RPM_UNSUPPORTED: 'The package uses a format or feature that kiln does not support.',
  },
  'repositories.md': {
    E_CACHE_WRITE: 'A downloaded file cannot be stored.',
    E_DOWNLOAD: 'A file cannot be downloaded.',
    E_KEY_MISSING: 'The file with the key of a repository is missing.',
    E_LOCK_EXPORT: "A package cannot be written into a lock of mock's format.",
    E_LOCK_INVALID: 'The file is not a lock that kiln can read.',
    E_LOCK_MISMATCH: 'A package is not the one that the lock names.',
    E_LOCK_READ: 'The lock cannot be read.',
    E_LOCK_STALE: 'The recipe changed after its lock was made.',
    E_PACKAGE_CHANGED: 'A locked package has been replaced by another one in its repository.',
    E_REPOSITORY_ACCESS: 'A password, token or certificate of a repository cannot be read.',
    E_REPOSITORY_COLLISION: 'Two different packages would get the same file name.',
    E_REPOSITORY_CONFIGURATION: 'The configuration of a repository is wrong.',
    E_REPOSITORY_KEYS: 'Signatures are to be checked, but the repository names no key.',
    E_REPOSITORY_METADATA: 'The metadata of a repository is damaged or hostile.',
    E_REPOSITORY_MISSING: 'A local repository, or a file of it, is missing.',
    E_REPOSITORY_OFFLINE: 'The repository must be fetched first, and --offline forbids it.',
    E_REPOSITORY_SIGNATURE: 'The metadata of the repository is not signed by a trusted key.',
    E_REPOSITORY_WRITE: 'The repository that kiln makes cannot be written.',
    E_SOLVER_CACHE: 'Converted metadata in the cache is damaged, or cannot be written.',
    E_SOLVER_MISSING: 'libsolv 0.7 is not installed.',
    E_SOLVER_MODULE: 'No such module or stream, or they cannot be enabled together.',
    E_SOLVER_NO_MATCH: 'No repository has the wanted package or group.',
    E_SOLVER_PROBLEM: 'The wanted packages cannot be installed together.',
    E_SOLVER_REQUEST: 'A dependency is not written as rpm writes them, or asks for nothing.',
  },
  'recipes.md': {
    E_HOST_NOT_ALLOWED: 'The recipe wants something of the host, and --allow-host was not given.',
    E_RECIPE: 'The recipe has mistakes; the message lists them with their lines.',
    E_RECIPE_MISSING: 'There is no build recipe with this name.',
    E_RECIPE_READ: 'The recipe, or a file that it names, cannot be read.',
    E_RECIPE_SCRIPT: 'The TypeScript recipe failed, or broke the rules for recipes.',
    E_RECIPE_TIMEOUT: 'The TypeScript recipe was not loaded within --timeout.',
    E_RECIPE_SHELL: 'A step needs a shell, and the image has none.',
    E_SOURCE: 'A source of the recipe is described wrongly, or is larger than it may be.',
    E_SOURCE_DIGEST: 'A source is not the file whose checksum the recipe names.',
    E_SOURCE_MISSING: 'A source is not on this machine, and cannot be fetched.',
    E_STEP_FAILED: 'A step of the recipe failed.',
  },
  'builds.md': {
    E_BUILD_ARCH: 'ExclusiveArch or ExcludeArch of the spec rule out this architecture.',
    E_BUILD_CACHE_FULL: 'The build filled a cache of its own (--cache).',
    E_BUILD_DIFFERS: '--verify built the package twice, and the results differ.',
    E_BUILD_FAILED: 'A section of the spec failed; build.log has its output.',
    E_BUILD_LOOP: '%generate_buildrequires asks for more packages each time.',
    E_BUILD_OFFLINE: 'Packages must be downloaded, and --offline forbids it.',
    E_BUILD_OUTPUT: 'rpmbuild made no package, too many, or something else.',
    E_BUILD_POSTINSTALL: '--postinstall: the built packages cannot be installed.',
    E_BUILD_REPOSITORIES: 'kiln does not know where to get the packages that the build requires.',
    E_BUILD_REQUIRES:
      'The image lacks what the source package requires, or has what BuildConflicts rule out.',
    E_BUILD_SOURCE: 'The file to build is not a source package, or cannot be read.',
    E_BUILD_SPEC: 'The spec cannot be read, or no source package can be made of it.',
    E_BUILD_SRPM: 'rpm cannot read or unpack the source package.',
    E_RESULTDIR_BUSY: 'Another build writes to the same result folder.',
  },
  'chains.md': {
    E_CHAIN_BUSY: 'Another chain works in the same result folder.',
    E_CHAIN_CYCLE: 'Packages of the chain need each other to be built.',
    E_CHAIN_DUPLICATE: 'Two files of the chain are the same package.',
    E_CHAIN_SCAN: 'rpm could not say what a source package of the chain requires.',
  },
  'farm.md': {
    E_FARM_CHAIN: 'There is no chain of this id or in this folder that was given to a pool.',
    E_FARM_IMAGE: 'This machine cannot make the image of a step as the submitting machine has it.',
    E_FARM_POOL: 'HTCondor is not installed, does not run, or does not take jobs of this user.',
    E_FARM_ROOT: 'Root gave a chain to a pool; HTCondor takes no jobs of root.',
    E_FARM_STEP: 'A file is not a step of a chain, or its source packages are not those it names.',
  },
  'kiln-mock.md': {
    E_MOCK_ARGUMENT: 'An argument of kiln-mock cannot be used.',
    E_MOCK_CONFIG: 'The mock configuration has a mistake.',
    E_MOCK_PACKAGES: 'Packages of a mock root cannot be listed, installed or removed.',
    E_MOCK_PYTHON: 'The host lacks what evaluates configurations of mock: Python and Jinja.',
    E_MOCK_ROOT_LOCKED: 'Another kiln-mock works in the root.',
    E_MOCK_ROOT_NAME: 'A mock root cannot have this name.',
    E_MOCK_USAGE: 'The command line of kiln-mock has a mistake.',
    E_SIGN_KEY: 'The key for signing packages is missing, locked, or cannot sign.',
  },
  'provenance.md': {
    E_PROVENANCE_KEY: 'The key for signing provenance cannot be read, or is of the wrong kind.',
  },
  'artifacts.md': {
    E_ARTIFACT_COLLISION: 'Two artifacts would get the same path in the result folder.',
    E_ARTIFACT_LIMIT: 'The artifacts are more, or larger, than may be copied.',
    E_ARTIFACT_MISSING:
      'No file matches an artifact pattern, or what matches was left out with a warning.',
    E_ARTIFACT_PATTERN: 'The artifact pattern is not written correctly.',
    E_ARTIFACT_TIMEOUT: 'Collecting the artifacts took too long.',
    E_ARTIFACT_WRITE: 'An artifact cannot be written to the result folder.',
    E_COPY_IN: 'A file cannot be copied into the sandbox (--copy-in).',
    E_RESULT: 'The result.json is missing, or is not one of this version of kiln.',
    E_RESULTDIR: 'The result folder cannot be used.',
  },
  'result.md': {
    E_INTERNAL: 'kiln met something that it does not expect; this is a bug in kiln.',
  },
  'services.md': {
    E_BOOT: 'systemd in the sandbox of the service did not start up.',
    E_IMAGE_SIZE: 'A volume of this size is too small for what it must hold.',
    E_NETWORK: 'libvirt cannot connect the sandbox to its network.',
    E_NO_LEASE: 'No DHCP server gave the sandbox an address.',
    E_NO_LOGROTATE: 'The image of the service has no logrotate.',
    E_NO_PACKAGE: 'The image of the service does not have the package.',
    E_NO_RELOAD: 'The unit has no ExecReload=, so it cannot be reloaded.',
    E_NO_SERVICE: 'There is no service with this name.',
    E_NO_SYSTEMD: 'systemd is needed, and the host or the image does not have it.',
    E_OLD_SANDBOX: 'The file is no configuration of virt-sandbox-service, or has what kiln lacks.',
    E_PUBLISH:
      'A port of the host cannot be published: a program has it, or the address is no address of the host.',
    E_CONFIRM: 'What the command deletes cannot come back, and nobody said that it is meant.',
    E_HOOK: 'The command that is to make the data of a service consistent failed.',
    E_SERVICE_EXISTS: 'A service with this name exists already.',
    E_SERVICE_FAILED: 'The service did not start.',
    E_SERVICE_IMAGE: 'kiln cannot read which image the service has.',
    E_SERVICE_NAME: 'A service cannot have this name.',
    E_SERVICE_READ: 'The definition of a service cannot be read.',
    E_SERVICE_RUNS: 'The service runs, and this needs it to be stopped.',
    E_SERVICE_SILENT: 'The supervisor of the service does not answer.',
    E_SERVICE_STOPPED: 'The service does not run, or was stopped meanwhile.',
    E_SYSTEMD: "The host's systemctl failed.",
    E_UNHEALTHY: 'The service did not become healthy after the upgrade.',
    E_UNIT: 'A unit is missing, or kiln cannot run it as it is written.',
    E_UNIT_FAILED: 'A unit of the service failed.',
    E_UNIT_LIMIT: 'A unit ended and was started again too often.',
    E_UNIT_TIMEOUT: 'A unit took too long to start or stop.',
    E_UPGRADE_ROLLED_BACK: 'The service did not work on its new image, and is back on the old one.',
  },
  'fixtures.md': {
    E_FIXTURE_APT: "apt cannot give the packages that kiln's tests need.",
    E_FIXTURE_RPMBUILD: "rpmbuild cannot make a package of kiln's tests.",
    E_FIXTURE_SET: 'There is no set of test packages with this name.',
    E_FIXTURE_SOURCE: 'A source archive for the tests has changed.',
    E_FIXTURE_TOOLS: 'Programs that make the test packages are not installed.',
  },
} as const satisfies Readonly<Record<string, Readonly<Record<`E_${string}`, string>>>>;

/**
 * Every code of a warning, likewise; docs/warnings.md is written from it. Warnings are told on stderr, end no work,
 * and are in result.json's `warnings`. Scripts match on the codes, which are older than errors' E_ names.
 */
export const WARNINGS_BY_PAGE = {
  'artifacts.md': {
    'no-match': 'A pattern gave nothing; this also is the failure `E_ARTIFACT_MISSING`.',
    'link-outside':
      'A symbolic link is not relative, leads above the artifacts, or to nothing that is copied: skipped.',
    'reserved-name': 'A file of kiln’s own has that name in the result folder: skipped.',
    'special-file': 'A device, socket or fifo: left out.',
    'pseudo-filesystem': 'Something in /proc, /sys or the like: skipped.',
    vanished: 'A file was listed, and gone before it could be read: skipped.',
    unreadable: 'A file cannot be read: skipped.',
    changed: 'A file changed while it was read; the copy is what was read.',
    'mode-bits-dropped': 'A setuid or setgid bit was taken off.',
    more: 'There are more warnings than are listed.',
    'results-moved':
      'The result folder was moved, or a link put in its place, while kiln worked: the results are in the folder that kiln had opened.',
  },
  'builds.md': {
    'no-lock': 'There is no lock.json: where packages of the base image came from is not known.',
    'no-buildroot-lock': 'There is no buildroot_lock.json.',
    'no-ccache': 'The build root has no ccache, so --ccache does nothing.',
    scan: 'Files of --scan cannot be copied.',
  },
  'chains.md': {
    'named-twice': 'A source of a chain is named more than once; it is built once.',
    killed:
      'The sandbox of a package was killed, which tells nothing of the package: it is built once more.',
  },
  'ci.md': {
    'no-summary': 'The summary of a CI step cannot be written.',
  },
  'images.md': {
    damaged: 'A file of kiln’s own was damaged; kiln set it aside or made it again.',
    image: 'A file, an account or a scriptlet of an image is not as its package wants it.',
    scriptlet: 'A scriptlet of a package failed, and rpm goes on.',
  },
  'performance.md': {
    'no-trace': 'The file of KILN_TRACE cannot be written.',
  },
  'repositories.md': {
    solver: 'A package, group or module that was asked for is not taken, or is out of date.',
  },
  'kiln-mock.md': {
    'mock-config': 'A setting of a mock configuration is left out.',
    'mock-root': 'A mock root is not kept, or cannot be used and is made again.',
  },
  'changes.md': {
    'changes-lost':
      'A command has written to a folder that is bound with cow, and nothing keeps what it wrote.',
  },
  'sandboxes.md': {
    'protected-changed':
      'A command has made something that your own tools may run, such as `.envrc`, where nothing was to be protected.',
  },
  'services.md': {
    restored:
      'A restored service asks for something of the host, or a file of the archive is left out.',
    'unit-setting': 'A setting of a unit is not supported, or has a value that is none.',
  },
  'users.md': {
    'no-group': 'The group of those who may use kiln does not exist.',
    'refused-default': 'A default of root’s is one that users may not have: they are refused.',
  },
} as const satisfies Readonly<Record<string, Readonly<Record<string, string>>>>;

type CodeOf<Pages> = { [Page in keyof Pages]: keyof Pages[Page] }[keyof Pages];

export type WarningCode = CodeOf<typeof WARNINGS_BY_PAGE>;

export type ErrorCode = CodeOf<typeof CODES_BY_PAGE>;

export const EXIT_STATUS: Readonly<Partial<Record<ErrorCode, number>>> = {
  E_COMMAND_NOT_EXECUTABLE: 126,
  E_COMMAND_NOT_FOUND: 127,
  E_INTERRUPTED: 130,
  E_RECIPE_TIMEOUT: 124,
};

const codes: ReadonlySet<unknown> = new Set(Object.values(CODES_BY_PAGE).flatMap(Object.keys));

export function isErrorCode(value: unknown): value is ErrorCode {
  return codes.has(value);
}
