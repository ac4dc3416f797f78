import { KilnError } from '../../errors.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import type { SandboxProcess } from '../../sandbox/command/process.ts';
import { BOOT_CAPABILITIES, ROOT_CAPABILITIES } from '../../sandbox/policy/capabilities.ts';
import { endText, isKilnCode, reasonOf } from '../failure.ts';
import { LineSplitter } from '../log-file.ts';
import { NOTIFY_SOCKET } from '../supervisor/unit-command.ts';
import {
  endOf,
  type ProcessEnd,
  type RunningUnit,
  type UnitHost,
  type UnitManager,
  within,
} from '../supervisor/unit-host.ts';
import { BootedUnit, refreshUnits } from './booted-unit.ts';
import { bootCommand } from './system-files.ts';

/** systemd gives up a unit that hangs after 90 s, and units wait for one another, ms. */
const BOOT_PATIENCE = 5 * 60_000;
const SHUTDOWN_PATIENCE = 2 * 60_000;

/** SIGRTMIN+n of the C library: the signals that ask a systemd to end (systemd(1), "Signals"). */
const SIGRTMIN = 34;
const HALT = SIGRTMIN + 3;
const REBOOT = SIGRTMIN + 5;

/** A systemd that boots in the sandbox and runs the units there. */
export class BootedSystem implements UnitManager {
  readonly #host: UnitHost;
  readonly #units: readonly BootedUnit[];
  readonly #ready = deferred<void>();
  readonly #lost = deferred<void>();
  #process: SandboxProcess | undefined;
  #end: Promise<ProcessEnd> | undefined;
  #up = false;
  #ended = false;
  #stopping = false;
  #failure: string | undefined;

  constructor(host: UnitHost, units: readonly string[]) {
    this.#host = host;
    this.#units = units.map((name) => new BootedUnit(host, name));
  }

  get units(): readonly RunningUnit[] {
    return this.#units;
  }

  get idle(): boolean {
    return this.#ended;
  }

  get failure(): string | undefined {
    return this.#failure;
  }

  get lost(): Promise<void> {
    return this.#lost.promise;
  }

  async start(): Promise<void> {
    try {
      await this.#boot();
    } catch (error) {
      // A running system may still come up; one that has ended would end again.
      this.#failure = reasonOf(error);
      if (this.#process === undefined) this.#ended = true;
      throw error;
    }
    await this.refresh();
    const failed = this.#units.find(({ state }) => state === 'failed' || state === 'inactive');
    if (failed === undefined || failed.reason === '') return;
    throw new KilnError('E_UNIT_FAILED', `${failed.name} has failed: ${failed.reason}`, {
      hint: '`kiln service logs` shows what it said',
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
          // Without SYS_ADMIN, because with it a profile allows calls that the system does not need, such as
          // bpf(2).
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
    const ended = awaitedLater(this.#end.then((end) => this.#onEnd(end)));
    await within(Promise.race([this.#ready.promise, ended.then(failedBoot)]), BOOT_PATIENCE).catch(
      (error) => {
        throw isKilnCode(error, 'E_UNIT_TIMEOUT') ? notBooted(error) : error;
      },
    );
    this.#up = true;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    if (this.#process === undefined || this.#end === undefined || this.#ended) return;
    this.#process.kill(HALT);
    await within(this.#end, SHUTDOWN_PATIENCE).catch(() => undefined);
  }

  /** Reboots by making the sandbox anew. */
  async restart(): Promise<void> {
    this.#process?.kill(REBOOT);
    if (this.#end !== undefined) await within(this.#end, SHUTDOWN_PATIENCE);
  }

  async refresh(): Promise<void> {
    if (this.#ended) return;
    // Ignore errors: a busy or ending system keeps its last states.
    await refreshUnits(this.#host, this.#units).catch(() => undefined);
  }

  notified(pid: number, text: string): void {
    if (pid === this.#process?.pid && text.split('\n').includes('READY=1')) this.#ready.resolve();
  }

  #onEnd(end: ProcessEnd): ProcessEnd {
    this.#ended = true;
    this.#host.log.write('kiln', `systemd ended with ${endText(end)}`);
    // The kernel reports SIGINT for a pid namespace that halts and SIGHUP for one that reboots (reboot(2)); any
    // other end was not intended.
    if (this.#up && !this.#stopping && end.signal !== 'SIGINT') this.#lost.resolve();
    return end;
  }
}

function failedBoot(end: ProcessEnd): never {
  throw new KilnError('E_BOOT', `systemd ended with ${endText(end)} before it was up`, {
    hint: '`kiln service logs` shows what it said',
  });
}

function notBooted(cause: unknown): KilnError {
  return new KilnError('E_BOOT', `systemd was not up after ${BOOT_PATIENCE / 1000} s`, {
    cause,
    hint: '`kiln service logs` shows what it waited for',
  });
}
