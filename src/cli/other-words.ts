/** What podman and docker have and kiln calls otherwise, or does otherwise: for hints. */

/** Commands that are kiln's by another name. */
const COMMANDS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    ...{ images: 'image ls', pull: 'image pull', rmi: 'image rm', tag: 'image tag' },
    ...{ save: 'image export', import: 'image import', rm: 'kill', prune: 'gc' },
    ...{ list: 'ps', ls: 'ps', info: 'doctor', load: 'image import' },
    ...{ 'image inspect': 'image show', 'image list': 'image ls', 'image history': 'image show' },
    ...{ 'image save': 'image export', 'image load': 'image import', 'image remove': 'image rm' },
  }),
);

const PUSH = '`kiln image export -o layout NAME`, then `skopeo copy oci:layout docker://HOST/NAME`';
const SEARCH = '`skopeo list-tags docker://HOST/NAME` asks a registry';
const SNAPSHOT =
  '`kiln snapshot ID NAME` keeps the files of a sandbox, and `kiln run --from NAME` begins with them';
const ONCE =
  'a sandbox runs one command: `kiln run` makes a new one, `kiln shell ID` enters one that was kept';
const GROUP = 'leave that word out, as in `kiln ps`, `kiln inspect ID`, `kiln stop ID`, `kiln gc`';

/** What to do in place of commands that kiln does not have. */
const INSTEAD: ReadonlyMap<string, string> = new Map(
  Object.entries({
    login:
      '`skopeo login HOST` logs in, for `kiln image pull` as well; its --authfile takes another file of logins',
    logout: '`skopeo logout HOST` forgets a login',
    ...{ push: PUSH, 'image push': PUSH, search: SEARCH, 'image search': SEARCH },
    volume: '--bind DIR:PATH shows a folder of this host; services have volumes (docs/services.md)',
    network: '--network NAME is a network of libvirt’s, which `virsh net-list` lists',
    container: `${GROUP}; for checkpoint and restore, ${SNAPSHOT}: processes are not kept`,
    system:
      '`kiln df` shows what is used, `kiln gc` removes what nobody needs, `kiln doctor` checks the host',
    ...{ checkpoint: SNAPSHOT, restore: SNAPSHOT },
    commit: '`kiln image commit ID --name NAME` makes an image of a kept sandbox',
    start: `${ONCE}; \`kiln service start\` starts a service`,
    restart: `${ONCE}; \`kiln service restart\` starts a service again`,
    create: `${ONCE}; \`kiln service create\` makes a service`,
    export: '`kiln cp ID:/ DIR` copies the files of a sandbox, `kiln image export` writes an image',
    history: '`kiln image show NAME` tells what an image is made of',
    port: '`kiln service status NAME` has the ports of a service',
    ...{ pause: 'a sandbox runs until it ends: `kiln stop ID`', unpause: ONCE },
    rename: 'a sandbox has the --name that it was made with',
    update: '`kiln service set` changes limits of a service; a sandbox has those it was made with',
    secret: '--secret NAME=FILE of `kiln run` shows a file of this host as /run/secrets/NAME',
    healthcheck: 'services have health checks (docs/services.md)',
    ...{ pod: 'services reach each other by `peers` (docs/services.md)' },
    ...{ kube: 'services are service.yaml files (docs/services.md)', play: 'see docs/services.md' },
    generate: '`kiln service install` makes units of systemd’s',
    unshare: 'every sandbox has a user namespace: `kiln run -- COMMAND`',
    machine: '--isolation vm of `kiln run` gives a sandbox a kernel of its own (docs/machines.md)',
  }),
);

const DEVICES = 'a sandbox has none of the host’s devices';
const LATEST = 'name it: `kiln ps -q` lists ids, and --name of `kiln run` gives a name';
const OWN = 'every sandbox has its own, and cannot have the host’s';
const SERVICES = 'it is for services: docs/services.md';
const ADDRESS = 'write --network NAME,address=IP/PREFIX,gateway=IP,mac=MAC';
const HOSTS =
  '/etc/hosts and resolv.conf are made (docs/sandboxes.md): bind files of yours over them';
const LABELS = 'sandboxes have a --name and no labels; `kiln ps --json` tells all else';

const PUBLISHES = 'it is an option of `kiln run`, `shell` and `exec`, and of services';

const OTHER_ARCHITECTURE =
  '-r NAME@aarch64 names the image of a recipe for another architecture, and --arch of `kiln image build` makes it';

/** By an option, or a command and an option. */
const OPTIONS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    '--privileged': 'no sandbox is privileged: --cap-add and --profile give what a command needs',
    '--entrypoint':
      'it is an option of `kiln run`: no other command runs the ENTRYPOINT of an image',
    '--read-only':
      'it is an option of `kiln run` and `kiln shell`; a build writes to a layer that is gone with it',
    '--cap-drop':
      'leave it out: a command has no capability but those of --cap-add, and root’s few',
    '--security-opt': '--seccomp, --label and --profile are what it stands for',
    ...{ '--device': DEVICES, '--gpus': DEVICES },
    ...{ '--net': 'did you mean --network?', '--volume': 'did you mean --bind?' },
    ...{ '-m': 'did you mean --memory?', '--pids-limit': 'did you mean --pids?' },
    ...{ '--memory-swap': 'did you mean --memory?', '--time': 'did you mean --timeout?' },
    ...{ '-c': 'did you mean --cpus?', '--cpu-shares': 'did you mean --cpus?' },
    ...{ '--cpu-quota': 'did you mean --cpus?', '--cpuset-cpus': 'did you mean --cpus?' },
    ...{
      '--device-read-bps': 'did you mean --io-read?',
      '--stop-timeout': '`kiln stop --time 10s`',
    },
    '--device-write-bps': 'did you mean --io-write?',
    '--shm-size': '/dev/shm may hold what --disk says',
    '--ulimit':
      '--pids and --memory bound a sandbox; `ulimit` in the command lowers its own limits',
    ...{ '--publish': PUBLISHES, '-p': PUBLISHES },
    ...{ '-P': 'name each port: --publish 8080:80', '-l': LABELS },
    '--publish-all': 'name each port: --publish 8080:80',
    '--restart': 'a service is started again: docs/services.md',
    '--init': 'leave it out: every sandbox has an init',
    '--userns': 'leave it out: every sandbox has a user namespace with ids of its own',
    ...{ '--ipc': OWN, '--pid': OWN, '--uts': OWN, '--cgroupns': OWN, '--cgroups': OWN },
    '--volumes-from': 'give the same --bind again',
    ...{ '--add-host': HOSTS, '--dns': HOSTS, '--dns-search': HOSTS, '--no-hosts': HOSTS },
    ...{ '--ip': ADDRESS, '--mac-address': ADDRESS },
    ...{ '--arch': OTHER_ARCHITECTURE, '--forcearch': OTHER_ARCHITECTURE },
    '--platform': OTHER_ARCHITECTURE,
    '--pull': '`kiln image pull docker://NAME` takes a newer one',
    ...{ '--annotation': LABELS, '--cidfile': '--detach prints the id of the job' },
    '--health-cmd': SERVICES,
    '--log-driver': '`kiln logs` has what a job of --detach wrote, the journal has services’',
    '--group-add': 'write --user UID:GID',
    '--sysctl': 'a sandbox sets none of the kernel’s settings',
    '--link': SERVICES,
    '--replace': '`kiln kill NAME` makes a name free',
    '--systemd': 'a service boots its own systemd: kiln service create --boot',
    '--expose': SERVICES,
    '--env-host': 'name the variables: --env NAME copies the caller’s',
    '--umask': 'write `umask 022` in the command',
    ...{ '--latest': LATEST, 'inspect -l': LATEST, 'logs -l': LATEST, 'top -l': LATEST },
    ...{ 'stop -l': LATEST, 'kill -l': LATEST, 'exec -l': LATEST, 'attach -l': LATEST },
    ...{ 'stop -a': '`kiln stop $(kiln ps -q)`', '--all': 'name them: `kiln ps -q` lists ids' },
    '--tail': 'pipe it: `kiln logs ID | tail -n 5`',
    ...{
      'kill -s': '`kiln exec ID -- kill -s SIGNAL PID`',
      '--signal': '`kiln exec ID -- kill PID`',
    },
    ...{ 'exec -d': '`kiln exec ID -- COMMAND &`', 'exec --detach': '`kiln exec ID -- COMMAND &`' },
    'build -t': 'images are made of recipes: `kiln image build RECIPE` (docs/recipes.md)',
    'build --tag': 'images are made of recipes: `kiln image build RECIPE` (docs/recipes.md)',
    'image build --isolation':
      'images are made in containers; a run of one may have a machine (docs/machines.md)',
    'image ls -a': 'leave it out: all images are listed',
  }),
);

/** A hint about a command that kiln does not know, with the words above it: `image prune`. */
export function commandHint(words: string): string | undefined {
  const known = COMMANDS.get(words);
  return known === undefined ? INSTEAD.get(words) : `did you mean kiln ${known}?`;
}

/** @param command its words, without the program's: `image ls` */
export function optionHint(command: string, option: string): string | undefined {
  return OPTIONS.get(`${command} ${option}`) ?? OPTIONS.get(option);
}
