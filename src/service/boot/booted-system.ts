import { isKilnCode, KilnError, reasonOf } from '../../errors.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import { Output } from '../../sandbox/command/output.ts';
import { endOf, type ProcessEnd, type SandboxProcess } from '../../sandbox/command/process.ts';
import {
  BOOT_CAPABILITIES,
  ROOT_CAPABILITIES,
  type SandboxSpecification,
} from '../../sandbox/policy/specification.ts';
import { endText, LOGS_HINT } from '../failure.ts';
import type { Tree } from '../lifecycle/tree.ts';
import { LineSplitter } from '../log-file.ts';
import { UNIT_STATES, type UnitState, type UnitStatus } from '../status.ts';
import {
  NOTIFY_SOCKET,
  ROOT_POLICY,
  type RunningUnit,
  timeoutError,
  type UnitHost,
  type UnitManager,
  within,
} from '../supervisor/unit-host.ts';

/** systemd gives up a unit that hangs after 90 s, and units wait for one another, ms. */
const BOOT_PATIENCE = 5 * 60_000;
const SHUTDOWN_PATIENCE = 2 * 60_000;

/** SIGRTMIN+n of the C library: the signals that ask a systemd to end (systemd(1), "Signals"). */
const SIGRTMIN = 34;
const HALT = SIGRTMIN + 3;
const REBOOT = SIGRTMIN + 5;

export class BootedSystem implements UnitManager {
  readonly units: readonly BootedUnit[];
  idle = false;
  failure: string | undefined;
  readonly #lost = deferred<void>();
  readonly lost = this.#lost.promise;
  readonly #host: UnitHost;
  readonly #ready = deferred<void>();
  #process: SandboxProcess | undefined;
  #end: Promise<ProcessEnd> | undefined;
  #up = false;
  #stopping = false;

  constructor(host: UnitHost, units: readonly string[]) {
    this.#host = host;
    this.units = units.map((name) => new BootedUnit(host, name));
  }

  async start(): Promise<void> {
    try {
      await this.#boot();
    } catch (error) {
      // A running system may still come up; one that has ended would end again.
      this.failure = reasonOf(error);
      if (this.#process === undefined) this.idle = true;
      throw error;
    }
    await this.refresh();
    const failed = this.units.find(({ state }) => state === 'failed' || state === 'inactive');
    if (failed === undefined || failed.reason === '') return;
    throw new KilnError('E_UNIT_FAILED', `${failed.name} has failed: ${failed.reason}`, {
      hint: LOGS_HINT,
    });
  }

  async #boot(): Promise<void> {
    const { log, environment } = this.#host;
    const capabilities = [...this.#host.capabilities, ...ROOT_CAPABILITIES];
    const { process: started } = await this.#host.sandbox.start(
      {
        argv: bootCommand(this.#host.tree),
        policy: {
          user: '0:0',
          capabilities: [...capabilities, ...BOOT_CAPABILITIES],
          seccomp: 'boot',
          // With SYS_ADMIN a profile allows calls that the system does not need, such as bpf(2).
          seccompCapabilities: [...capabilities, 'SYS_BOOT'],
        },
        env: { ...environment, NOTIFY_SOCKET },
        ...{ workdir: '/', time: {}, leftovers: 'left', boot: true },
      },
      { terminal: { rows: 24, columns: 200 } },
    );
    this.#process = started;
    const lines = new LineSplitter((line) => log.write('console', line));
    started.stdout.on('data', (chunk: Buffer) => lines.push(chunk));
    this.#end = awaitedLater(endOf(started));
    const ended = awaitedLater(
      this.#end
        .finally(() => {
          this.idle = true;
        })
        .then((end) => this.#onEnd(end)),
    );
    try {
      await within(Promise.race([this.#ready.promise, ended.then(failedBoot)]), BOOT_PATIENCE);
    } catch (cause) {
      if (!isKilnCode(cause, 'E_UNIT_TIMEOUT')) throw cause;
      throw new KilnError('E_BOOT', `systemd was not up after ${BOOT_PATIENCE / 1000} s`, {
        cause,
        hint: '`kiln service logs` shows what it waited for',
      });
    }
    this.#up = true;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    if (this.#process === undefined || this.#end === undefined || this.idle) return;
    this.#process.kill(HALT);
    await within(this.#end, SHUTDOWN_PATIENCE).catch(() => undefined);
  }

  async restart(): Promise<void> {
    this.#process?.kill(REBOOT);
    if (this.#end !== undefined) await within(this.#end, SHUTDOWN_PATIENCE);
  }

  async refresh(): Promise<void> {
    if (this.idle) return;
    // Ignore errors: a busy or ending system keeps its last states.
    await refreshUnits(this.#host, this.units).catch(() => undefined);
  }

  notified(pid: number, text: string): void {
    if (pid === this.#process?.pid && text.split('\n').includes('READY=1')) this.#ready.resolve();
  }

  #onEnd(end: ProcessEnd): ProcessEnd {
    this.#host.log.write('kiln', `systemd ended with ${endText(end)}`);
    // reboot(2): SIGINT for a pid namespace that halts, SIGHUP for one that reboots; other ends were not intended.
    if (this.#up && !this.#stopping && end.signal !== 'SIGINT') this.#lost.resolve();
    return end;
  }
}

function failedBoot(end: ProcessEnd): never {
  throw new KilnError('E_BOOT', `systemd ended with ${endText(end)} before it was up`, {
    hint: LOGS_HINT,
  });
}

const TARGET = 'kiln.target';

const PROGRAMS = ['/usr/lib/systemd/systemd', '/lib/systemd/systemd'];

export function systemFiles(units: readonly string[]): SandboxSpecification['files'] {
  const wanted = units.length === 0 ? ['multi-user.target'] : units;
  const content = `# Made by kiln: what this service is to run.
[Unit]
Description=The units of this service
Requires=basic.target
After=basic.target ${wanted.join(' ')}
Wants=${wanted.join(' ')}
`;
  return [{ path: `/run/systemd/system/${TARGET}`, mode: 0o644, content }];
}

/** In a container systemd also reads pid 1's arguments as the kernel's. Throws E_NO_SYSTEMD. */
export function bootCommand(tree: Tree): string[] {
  const program = PROGRAMS.find((path) => tree.stat(path)?.isFile() === true);
  if (program === undefined) {
    throw new KilnError('E_NO_SYSTEMD', 'the image has no systemd to boot', {
      hint: 'add the package systemd to its recipe, or leave `boot` away: kiln runs units itself',
    });
  }
  return [
    program,
    `systemd.unit=${TARGET}`,
    // kiln's log gets the journal; pid 1's own progress would appear twice.
    'systemd.journald.forward_to_console=1',
    'systemd.show_status=0',
    'systemd.mask=console-getty.service',
    // It wants events of udev's, which no sandbox gets, and ends without them, five times.
    'systemd.mask=systemd-logind.service',
  ];
}

/** How long systemctl waits for a unit; the unit's own time-outs are shorter, ms. */
const JOB_PATIENCE = 10 * 60_000;
const LOOK_PATIENCE = 10_000;

const PROPERTIES = [
  ...['Id', 'Description', 'ActiveState', 'SubState', 'MainPID', 'NRestarts', 'Result'],
  ...['StatusText', 'CanReload', 'LoadState', 'StateChangeTimestampMonotonic'],
];

class BootedUnit implements RunningUnit {
  readonly name: string;
  readonly #host: UnitHost;
  #properties: ReadonlyMap<string, string> = new Map();
  #since = Date.now();

  constructor(host: UnitHost, name: string) {
    this.#host = host;
    this.name = name;
  }

  get state(): UnitState {
    if (this.#get('SubState').startsWith('auto-restart')) return 'restarting';
    // systemctl(1) and org.freedesktop.systemd1(5) have kiln's names, and one more.
    const name = this.#get('ActiveState').replace('refreshing', 'reloading');
    return UNIT_STATES.find((state) => state === name) ?? 'inactive';
  }

  status(): UnitStatus {
    const pid = Number(this.#get('MainPID'));
    return {
      name: this.name,
      description: this.#get('Description'),
      state: this.state,
      mainPid: pid > 0 ? pid : null,
      since: this.#since,
      restarts: Number(this.#get('NRestarts')) || 0,
      reason: this.reason,
      text: this.#get('StatusText').slice(0, 200),
      warnings: [],
    };
  }

  get reason(): string {
    if (this.#get('LoadState') !== 'loaded') return this.#get('LoadState');
    const result = this.#get('Result');
    return result === 'success' ? '' : result;
  }

  async start(): Promise<void> {
    await systemctl(this.#host, ['start', this.name], JOB_PATIENCE);
  }

  async stop(): Promise<void> {
    await systemctl(this.#host, ['stop', this.name], JOB_PATIENCE);
  }

  async reload(): Promise<void> {
    await refreshUnits(this.#host, [this]);
    if (this.#get('CanReload') === 'no' && this.state === 'active') {
      throw new KilnError('E_NO_RELOAD', `${this.name} has no ExecReload=`, {
        hint: 'restart it: `kiln service restart`',
      });
    }
    await systemctl(this.#host, ['reload', this.name], JOB_PATIENCE);
  }

  take(properties: ReadonlyMap<string, string>): void {
    const key = 'StateChangeTimestampMonotonic';
    if (properties.get(key) !== this.#get(key)) this.#since = Date.now();
    this.#properties = properties;
  }

  #get(name: string): string {
    return this.#properties.get(name) ?? '';
  }
}

async function refreshUnits(host: UnitHost, units: readonly BootedUnit[]): Promise<void> {
  if (units.length === 0) return;
  const names = units.map(({ name }) => name);
  const argv = ['show', '--property', PROPERTIES.join(','), '--', ...names];
  const paragraphs = (await systemctl(host, argv, LOOK_PATIENCE)).split('\n\n');
  units.forEach((unit, index) => {
    unit.take(
      new Map(
        (paragraphs[index] ?? '').split('\n').map((line) => {
          const equals = line.indexOf('=');
          return [line.slice(0, equals), line.slice(equals + 1)] as const;
        }),
      ),
    );
  });
}

/** The output comes from the sandbox, so it is bounded. */
const OUTPUT_MAX = 256 * 1024;

async function systemctl(
  host: UnitHost,
  argv: readonly string[],
  patience: number,
): Promise<string> {
  const stderr = new Output(500);
  const end = await host.sandbox.execute(
    {
      argv: ['systemctl', '--no-pager', ...argv],
      ...{ env: { LANG: 'C.UTF-8' }, workdir: '/', policy: ROOT_POLICY },
      ...{ time: { timeout: patience }, leftovers: 'left' },
    },
    {
      capture: OUTPUT_MAX,
      onOutput: (chunk, stream) => {
        if (stream === 'stderr') stderr.push(chunk);
      },
    },
  );
  if (end.timeLimit !== null) throw timeoutError(patience);
  if (end.exitCode === 0) return end.stdout.toString('utf8');
  const reason = stderr.text().trim() || endText(end);
  throw new KilnError('E_UNIT_FAILED', `systemctl ${argv.join(' ')}: ${reason}`);
}
