/**
 * A pool of HTCondor on one machine: the submitting machine is this host, and each worker is a network namespace
 * with a startd and a KILN_STATE of its own. All daemons are processes of one user who is made for it, as a personal
 * condor has them: nothing of the host's own HTCondor is used or changed.
 */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa, type Options, type ResultPromise } from 'execa';
import { removeTree } from '../../src/host/files/remove-tree.ts';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';

const TOP = join(import.meta.dirname, '../..');

/** Whose processes and jobs all are: made for the pool, and removed with it. HTCondor takes no jobs of root or condor. */
const USER = 'kiln-farm-demo';

/** userdel(8). */
const NO_SUCH_USER = 6;

export interface Worker {
  readonly name: string;
  /** What results call it: HTCondor makes it of the address where there is no DNS. */
  readonly machine: string;
  readonly address: string;
  readonly state: string;
  /** The network interface on the bridge's side. */
  readonly link: string;
}

export interface PoolOptions {
  /** A folder of root's that others can enter; everything is below it. */
  readonly directory: string;
  readonly fixtures: string;
  readonly workers: number;
  /** Ends the start: what it has made goes. */
  readonly signal?: AbortSignal | undefined;
}

/** The first folder above `path`, or itself, that other users cannot enter. */
export function closedFolder(path: string): string | undefined {
  const above = dirname(path) === path ? undefined : closedFolder(dirname(path));
  return above ?? ((statSync(path).mode & 0o001) === 0 ? path : undefined);
}

/** A pool that was killed has left it. */
async function removeUserOfBefore(): Promise<void> {
  const { exitCode, stderr } = await execa('userdel', [USER], { reject: false });
  if (exitCode === 0 || exitCode === NO_SUCH_USER) return;
  throw new Error(`another pool runs, or was killed: \`pkill -u ${USER}\` ends it (${stderr})`);
}

/** A pool; dispose of it to end its processes and remove its namespaces. */
export class Pool implements AsyncDisposable {
  readonly directory: string;
  readonly workers: readonly Worker[];
  /** The state of the submitting machine's kiln. */
  readonly state: string;
  /** A folder of the user's. */
  readonly home: string;
  readonly #ids: { readonly uid: number; readonly gid: number };
  readonly #network: string;
  readonly #bridge: string;
  readonly #fixtures: string;

  private constructor(
    { directory, fixtures, workers }: PoolOptions,
    ids: { uid: number; gid: number },
  ) {
    // Pools of two sessions on one host do not meet.
    const number = process.pid % 250;
    this.directory = directory;
    this.state = join(directory, 'state');
    this.home = join(directory, 'home');
    this.#ids = ids;
    this.#fixtures = fixtures;
    this.#network = `10.99.${number}`;
    this.#bridge = `kilnfarm${number}`;
    this.workers = Array.from({ length: workers }, (_, index) => {
      const address = `${this.#network}.${index + 11}`;
      return {
        name: `kilnfarm${number}-${index + 1}`,
        machine: address.replaceAll('.', '-'),
        address,
        state: join(directory, `state-${index + 1}`),
        link: `kf${number}w${index + 1}`,
      };
    });
  }

  static async start(options: PoolOptions): Promise<Pool> {
    if (!existsSync('/usr/sbin/condor_master')) {
      throw new Error('HTCondor is not installed: apt-get install condor');
    }
    const closed = closedFolder(TOP);
    if (closed !== undefined) {
      throw new Error(
        `other users cannot enter ${closed}, and HTCondor runs kiln as one: clone kiln elsewhere, as below /opt`,
      );
    }
    await removeUserOfBefore();
    await execa('useradd', ['--system', '--user-group', '--no-create-home', USER]);
    const [uid, gid] = await Promise.all(
      ['-u', '-g'].map(async (what) => Number((await execa('id', [what, USER])).stdout)),
    );
    const pool = new Pool(options, { uid: uid!, gid: gid! });
    try {
      await pool.#start(options.signal);
      return pool;
    } catch (error) {
      await pool[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(signal?: AbortSignal): Promise<void> {
    this.own(this.home);
    writeFileSync(
      this.#kilnYaml,
      `users:\n  group: ${this.#ids.gid}\n  farm: true\n  limits:\n    sandboxes: 8\n`,
    );
    const { workers } = this;
    for (const state of [this.state, ...workers.map((worker) => worker.state)]) {
      signal?.throwIfAborted();
      mkdirSync(state);
      symlinkSync(this.#fixtures, join(state, 'fixtures'));
      await this.startKiln(state);
    }
    await execa('ip', ['link', 'add', this.#bridge, 'type', 'bridge']);
    await execa('ip', ['addr', 'add', `${this.#network}.1/24`, 'dev', this.#bridge]);
    await execa('ip', ['link', 'set', this.#bridge, 'up']);
    this.#configure('submit', `${this.#network}.1`, SUBMIT);
    await this.#master('submit');
    for (const worker of workers) {
      signal?.throwIfAborted();
      await this.startWorker(worker, 'new');
    }
    await this.#ready(workers.length, signal);
  }

  /** Starts the daemons of a worker; `new`: its network as well. */
  async startWorker(worker: Worker, what: 'new' | 'again' = 'again'): Promise<void> {
    const { name, address, link } = worker;
    if (what === 'new') {
      await execa('ip', ['netns', 'add', name]);
      await execa('ip', [
        'link',
        'add',
        link,
        'type',
        'veth',
        'peer',
        'name',
        'eth0',
        'netns',
        name,
      ]);
      await execa('ip', ['link', 'set', link, 'master', this.#bridge, 'up']);
      const inside = (...argv: string[]) =>
        execa('nsenter', [`--net=/run/netns/${name}`, 'ip', ...argv]);
      await inside('addr', 'add', `${address}/24`, 'dev', 'eth0');
      await inside('link', 'set', 'eth0', 'up');
      await inside('link', 'set', 'lo', 'up');
      this.#configure(name, address, workerConfig(this, worker, this.kilnProgram));
    }
    await this.#master(name, name);
  }

  get kilnProgram(): string {
    return join(TOP, 'bin/kiln');
  }

  get #kilnYaml(): string {
    return join(this.directory, 'kiln.yaml');
  }

  /** Starts the daemon of a state, as root's first call does. */
  async startKiln(state: string): Promise<void> {
    await execa(this.kilnProgram, ['ps'], { env: this.rootEnvironment(state) });
  }

  /** What root's calls of a machine's kiln have. */
  rootEnvironment(state: string) {
    return {
      KILN_STATE: state,
      KILN_CONFIG: this.#kilnYaml,
      KILN_PARKED: '1',
      // Here root starts it once, where kiln.socket starts it on demand.
      KILN_IDLE: '6h',
      KILN_FROM_SOURCE: '',
    };
  }

  /** Runs a command as the user on the submitting machine. */
  as(argv: readonly string[], options: Options = {}): ResultPromise {
    const { uid, gid } = this.#ids;
    return execa('setpriv', [`--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', '--', ...argv], {
      cwd: this.home,
      env: this.#environment,
      extendEnv: false,
      reject: false,
      stdin: 'ignore',
      ...options,
    }) as ResultPromise;
  }

  /** How a person runs a command as the user, in the submitting machine's shell. */
  shown(): string {
    const { uid, gid } = this.#ids;
    const variables = Object.entries(this.#environment).map(([name, value]) => `${name}=${value}`);
    const drop = `setpriv --reuid=${uid} --regid=${gid} --clear-groups --`;
    return `cd ${this.home} && ${drop} env ${variables.join(' ')} ${this.kilnProgram} farm status`;
  }

  get #environment() {
    return {
      PATH: process.env.PATH ?? '/usr/bin:/bin',
      HOME: this.home,
      KILN_STATE: this.state,
      CONDOR_CONFIG: join(this.directory, 'submit', 'condor_config'),
    };
  }

  kiln(args: readonly string[], options: Options = {}): ResultPromise {
    return this.as([this.kilnProgram, ...args], options);
  }

  /** Makes a folder of the user's. */
  own(folder: string): void {
    mkdirSync(folder, { recursive: true });
    chownSync(folder, this.#ids.uid, this.#ids.gid);
    chmodSync(folder, 0o755);
  }

  #configure(name: string, address: string, rest: string): void {
    const folder = join(this.directory, name);
    for (const part of ['', 'log', 'spool', 'execute', 'run', 'lock']) this.own(join(folder, part));
    writeFileSync(
      join(folder, 'condor_config'),
      `${commonConfig(folder, address, this.#network)}${rest}`,
    );
  }

  async #master(name: string, namespace?: string): Promise<void> {
    const config = join(this.directory, name, 'condor_config');
    const { uid, gid } = this.#ids;
    const enter = namespace === undefined ? [] : ['nsenter', `--net=/run/netns/${namespace}`];
    const drop = ['setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', '--'];
    const argv = [
      ...enter,
      ...drop,
      'condor_master',
      '-pidfile',
      join(this.directory, name, 'run/master.pid'),
    ];
    const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', CONDOR_CONFIG: config, HOME: this.home };
    await execa(argv[0]!, argv.slice(1), {
      env,
      extendEnv: false,
      cwd: join(this.directory, name),
    });
  }

  /** Waits until so many machines with kiln are there. */
  async #ready(count: number, signal?: AbortSignal): Promise<void> {
    let said = '';
    for (let tries = 0; tries < 240; tries++) {
      signal?.throwIfAborted();
      const ended = await this.as([
        'condor_status',
        '-af',
        'Name',
        '-constraint',
        'KilnVersion =!= undefined',
      ]);
      said = `${ended.stdout}${ended.stderr}`;
      if (ended.exitCode === 0 && String(ended.stdout).split('\n').filter(Boolean).length >= count)
        return;
      await sleep(500);
    }
    throw new Error(`the pool has not come up: ${said}; its logs are below ${this.directory}`);
  }

  /** The processes of a worker: those in its network namespace. */
  async processes({ name }: Pick<Worker, 'name'>): Promise<number[]> {
    const { stdout } = await execa('ip', ['netns', 'pids', name], { reject: false });
    return String(stdout).split('\n').filter(Boolean).map(Number);
  }

  /** Their command lines, of those that are still there. */
  async commands(worker: Pick<Worker, 'name'>): Promise<string[]> {
    const lines = (await this.processes(worker)).map((pid) => proc(pid, 'cmdline'));
    return lines.map((line) => line.replaceAll('\0', ' ')).filter((line) => line !== '');
  }

  /** kill -9 of everything that runs there, kiln's daemons and libvirtd as well: as if its power were cut. */
  async kill(worker: Worker): Promise<void> {
    const { state } = worker;
    const engine = processesNaming(statePaths({ KILN_STATE: state }).run);
    for (const pid of [...(await this.processes(worker)), ...kilndOf(state), ...engine]) end(pid);
  }

  /** Ends the daemons of a worker, as its administrator does. */
  async stopWorker(worker: Worker): Promise<void> {
    for (const pid of await this.processes(worker)) {
      if (proc(pid, 'cmdline').startsWith('condor_master')) process.kill(pid, 'SIGTERM');
    }
    for (let tries = 0; (await this.processes(worker)).length > 0 && tries < 100; tries++)
      await sleep(200);
  }

  /** kill -9 of HTCondor on the submitting machine, and of all that looks on: as if its power were cut. */
  killSubmit(): void {
    for (const pid of submitters(this.directory)) end(pid);
  }

  /** Starts it again. */
  async startSubmit(): Promise<void> {
    await this.#master('submit');
  }

  /** Takes the cable out, or puts it in again. */
  async cut({ link }: Worker, how: 'down' | 'up'): Promise<void> {
    await execa('ip', ['link', 'set', link, how]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const worker of this.workers) {
      for (const pid of await this.processes(worker)) end(pid);
    }
    for (const pid of submitters(this.directory)) end(pid);
    for (const { name } of this.workers)
      await execa('ip', ['netns', 'del', name], { reject: false });
    await execa('ip', ['link', 'del', this.#bridge], { reject: false });
    for (const state of [this.state, ...this.workers.map((worker) => worker.state)])
      await endKiln(state);
    // Not before the last of its processes has been waited for.
    for (let tries = 0; tries < 50; tries++) {
      const { exitCode } = await execa('userdel', [USER], { reject: false });
      if (exitCode === 0 || exitCode === NO_SUCH_USER) break;
      await sleep(200);
    }
  }
}

function end(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

/** Ends the daemon and the libvirtd of a state. */
async function endKiln(state: string): Promise<void> {
  for (const pid of kilndOf(state)) process.kill(pid, 'SIGTERM');
  for (let tries = 0; kilndOf(state).length > 0 && tries < 100; tries++) await sleep(100);
  if (!existsSync(state)) return;
  const paths = statePaths({ KILN_STATE: state });
  await stopEmbeddedDaemon(paths);
  await removeTree(paths.run);
}

/** Processes with this variable in their environment, and this in their command line. */
function processesWith(variable: string, program: RegExp): number[] {
  return pids().filter(
    (pid) =>
      program.test(proc(pid, 'cmdline')) && proc(pid, 'environ').split('\0').includes(variable),
  );
}

/** Processes whose command line names a folder. */
function processesNaming(folder: string): number[] {
  return pids().filter((pid) => proc(pid, 'cmdline').includes(folder));
}

function pids(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** A file of a process; of one that has ended, nothing. */
function proc(pid: number, file: 'cmdline' | 'environ'): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}

function kilndOf(state: string): number[] {
  return processesWith(`KILN_STATE=${state}`, /kilnd/);
}

/** The daemons of the submitting machine's HTCondor, and what they and users have started. */
function submitters(directory: string): number[] {
  return processesWith(`CONDOR_CONFIG=${join(directory, 'submit', 'condor_config')}`, /./);
}

function commonConfig(folder: string, address: string, network: string): string {
  return `# Written by kiln's scripts/farm: a node of a pool in network namespaces.
RELEASE_DIR = /usr
LOCAL_DIR = ${folder}
LOG = $(LOCAL_DIR)/log
SPOOL = $(LOCAL_DIR)/spool
EXECUTE = $(LOCAL_DIR)/execute
RUN = $(LOCAL_DIR)/run
LOCK = $(LOCAL_DIR)/lock
BIN = /usr/bin
SBIN = /usr/sbin
LIB = /usr/lib/condor
LIBEXEC = /usr/libexec/condor
CONDOR_HOST = ${network}.1
COLLECTOR_HOST = ${network}.1:9618
NETWORK_INTERFACE = ${address}
NO_DNS = True
DEFAULT_DOMAIN_NAME = kiln-farm
ENABLE_IPV6 = False
USE_SHARED_PORT = False
UID_DOMAIN = kiln-farm
FILESYSTEM_DOMAIN = ${address}
use security:host_based
ALLOW_READ = *
ALLOW_WRITE = ${network}.*
ALLOW_ADMINISTRATOR = ${network}.*
ALLOW_DAEMON = ${network}.*
ALLOW_NEGOTIATOR = ${network}.*
SEC_USE_FAMILY_SESSION = False
BASE_CGROUP =
CGROUP_MEMORY_LIMIT_POLICY = none
MASTER_UPDATE_INTERVAL = 10
UPDATE_INTERVAL = 10
POLLING_INTERVAL = 2
JOB_DEFAULT_LEASE_DURATION = 20
MAX_CLAIM_ALIVES_MISSED = 2
ALIVE_INTERVAL = 10
NOT_RESPONDING_TIMEOUT = 60
`;
}

/** Of a machine that has said nothing for so long nothing is expected: it is in no list any more, seconds. */
const FORGOTTEN = 45;

const SUBMIT = `DAEMON_LIST = MASTER, COLLECTOR, NEGOTIATOR, SCHEDD
NEGOTIATOR_INTERVAL = 3
NEGOTIATOR_CYCLE_DELAY = 1
NEGOTIATOR_MIN_INTERVAL = 1
SCHEDD_INTERVAL = 3
SCHEDD_MIN_INTERVAL = 1
SCHEDD_NAME = submit
CLASSAD_LIFETIME = ${FORGOTTEN}
`;

function workerConfig(pool: Pool, { state }: Worker, kiln: string): string {
  return `DAEMON_LIST = MASTER, STARTD
NUM_CPUS = 1
NUM_SLOTS = 1
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = False
MEMORY = 4096
START = True
SUSPEND = False
PREEMPT = False
KILL = False
WANT_SUSPEND = False
RUNBENCHMARKS = False
STARTER_ALLOW_RUNAS_OWNER = False
STARTER_JOB_ENVIRONMENT = "KILN=${kiln} KILN_STATE=${state} PATH=${process.env.PATH ?? ''} HOME=${pool.home}"
STARTD_CRON_JOBLIST = KILN
STARTD_CRON_KILN_EXECUTABLE = ${kiln}
STARTD_CRON_KILN_ARGS = farm advertise
STARTD_CRON_KILN_ENV = "KILN_STATE=${state} PATH=${process.env.PATH ?? ''}"
STARTD_CRON_KILN_MODE = Periodic
STARTD_CRON_KILN_PERIOD = 15s
`;
}
