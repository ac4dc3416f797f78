import { KilnError } from '../../errors.ts';
import { Output } from '../../sandbox/door/io.ts';
import { endText } from '../failure.ts';
import { UNIT_STATES, type UnitState, type UnitStatus } from '../status.ts';
import {
  outOfTime,
  ROOT_POLICY,
  type RunningUnit,
  type UnitHost,
} from '../supervisor/unit-host.ts';

/** How long systemctl waits for a unit; the unit's own time-outs are shorter, ms. */
const JOB_PATIENCE = 10 * 60_000;
const LOOK_PATIENCE = 10_000;

const PROPERTIES = [
  ...['Id', 'Description', 'ActiveState', 'SubState', 'MainPID', 'NRestarts', 'Result'],
  ...['StatusText', 'CanReload', 'LoadState', 'StateChangeTimestampMonotonic'],
];

export class BootedUnit implements RunningUnit {
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
        hint: '`kiln service restart` starts it anew',
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

export async function refreshUnits(host: UnitHost, units: readonly BootedUnit[]): Promise<void> {
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
  if (end.timeLimit !== null) throw outOfTime(patience);
  if (end.exitCode === 0) return end.stdout.toString('utf8');
  const reason = stderr.text().trim() || endText(end);
  throw new KilnError('E_UNIT_FAILED', `systemctl ${argv.join(' ')}: ${reason}`);
}
