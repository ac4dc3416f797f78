import { KilnError } from '../../errors.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import { endOf, type ProcessEnd, type SandboxProcess } from '../../sandbox/command/process.ts';
import {
  BOOT_CAPABILITIES,
  ROOT_CAPABILITIES,
  type SandboxSpecification,
} from '../../sandbox/policy/specification.ts';
import { endText, isKilnCode, LOGS_HINT, reasonOf } from '../failure.ts';
import type { Tree } from '../lifecycle/tree.ts';
import { LineSplitter } from '../log-file.ts';
import { NOTIFY_SOCKET, type UnitHost, type UnitManager, within } from '../supervisor/unit-host.ts';
import { BootedUnit, refreshUnits } from './booted-unit.ts';

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
    const ended = awaitedLater(this.#end.then((end) => this.#onEnd(end)));
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
    this.idle = true;
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
  ];
}
