/** Long, because each method changes the state that all others look at. */
import { KilnError, reasonOf } from '../../errors.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import type { ProcessEnd } from '../../sandbox/command/process.ts';
import {
  endText,
  isRestarted,
  LOGS_HINT,
  resultOf,
  resultOfStart,
  StartEnded,
  type UnitResult,
} from '../failure.ts';
import type { UnitState, UnitStatus } from '../status.ts';
import type { ExecPhase } from '../unit/keys.ts';
import type { ServiceUnit } from '../unit/read-unit.ts';
import type { ExecCommand } from '../unit/values.ts';
import {
  ENDED_WELL,
  type RunningCommand,
  type RunningUnit,
  runCommand,
  startCommand,
  type UnitHost,
  within,
} from './unit-host.ts';
import {
  adoptMain,
  commandAsMain,
  failedCondition,
  findDaemon,
  type MainProcess,
  makeUnitDirectories,
  sandboxProcesses,
  terminate,
  UnitProcesses,
} from './unit-processes.ts';

/** The pause between two looks whether a unit without a main process still has processes, ms. */
const WATCH_PAUSE = 1000;

/** Notifications that wait for those before them. */
const UNHEARD_MAX = 64;

export class UnitRunner implements RunningUnit {
  readonly unit: ServiceUnit;
  readonly #host: UnitHost;
  readonly #processes: UnitProcesses;
  #state: UnitState = 'inactive';
  #since = Date.now();
  #reason = '';
  #text = '';
  #restarts = 0;
  #wanted = false;
  #main: MainProcess | undefined;
  #starting: Promise<RunningCommand> | undefined;
  #starts: number[] = [];
  #retry: NodeJS.Timeout | undefined;
  #watch: NodeJS.Timeout | undefined;
  /** Notifications are heard one after the other. */
  #heard: Promise<void> = Promise.resolve();
  #unheard = 0;
  #onReady: (() => void) | undefined;
  #onLost: ((error: Error) => void) | undefined;

  constructor(host: UnitHost, unit: ServiceUnit) {
    this.#host = host;
    this.unit = unit;
    this.#processes = new UnitProcesses(host);
  }

  get name(): string {
    return this.unit.name;
  }

  get state(): UnitState {
    return this.#state;
  }

  status(): UnitStatus {
    return {
      name: this.unit.name,
      description: this.unit.description,
      state: this.#state,
      mainPid: this.#main?.pid ?? null,
      since: this.#since,
      restarts: this.#restarts,
      reason: this.#reason,
      text: this.#text,
      warnings: this.unit.warnings,
    };
  }

  async start(): Promise<void> {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#starts = [];
    await this.#attempt();
  }

  async stop(): Promise<void> {
    this.#wanted = false;
    clearTimeout(this.#retry);
    if (this.#state === 'inactive' || this.#state === 'failed') return;
    if (this.#state === 'restarting') return this.#set('inactive', '');
    const ran = this.#state === 'active' || this.#state === 'reloading';
    this.#set('deactivating', '');
    this.#onLost?.(new KilnError('E_UNIT_FAILED', `${this.unit.name} was stopped`));
    if (ran) {
      const commands = awaitedLater(this.#runAll('stop', this.#mainVariables()));
      await within(commands, this.unit.stopTimeout).catch((error) => this.#complain(error));
    }
    await this.#terminate();
    await this.#stopPost('success', ENDED_WELL);
    this.#set('inactive', '');
  }

  async reload(): Promise<void> {
    const { name, type, commands, reloadSignal, startTimeout } = this.unit;
    if (this.#state !== 'active') {
      throw new KilnError('E_UNIT_FAILED', `${name} cannot be reloaded: it is ${this.#state}`, {
        hint: 'only an active unit reloads: `kiln service restart` starts it',
      });
    }
    if (type !== 'notify-reload' && commands.reload.length === 0) {
      throw new KilnError('E_NO_RELOAD', `${name} has no ExecReload=`, {
        hint: 'restart it: `kiln service restart`',
      });
    }
    this.#set('reloading', '');
    try {
      if (type === 'notify-reload') {
        const ready = deferred<void>();
        this.#onReady = ready.resolve;
        this.#main?.kill(reloadSignal);
        await within(ready.promise, startTimeout);
      }
      await within(this.#runAll('reload', this.#mainVariables()), startTimeout);
    } finally {
      this.#onReady = undefined;
      if (this.#is('reloading')) this.#set('active', '');
    }
  }

  /** What a program says at once can be in one packet with the answer that it was started, which counts first. */
  notified(pid: number, text: string): void {
    // A machine may be slow to say whose pid it is, and a program must not fill kiln's memory meanwhile.
    if (this.#unheard >= UNHEARD_MAX) return;
    this.#unheard++;
    const begun = [this.#heard, this.#starting];
    this.#heard = Promise.all(begun)
      .then(() => this.#hear(pid, text))
      .finally(() => this.#unheard--)
      .catch(() => undefined);
  }

  async #hear(pid: number, text: string): Promise<void> {
    if (!(await this.#mayNotify(pid))) return;
    let main: number | undefined;
    for (const line of text.split('\n')) {
      const [name, value = ''] = line.split('=', 2);
      if (name === 'READY' && value === '1') this.#onReady?.();
      else if (name === 'STATUS') this.#text = value.slice(0, 200);
      else if (name === 'MAINPID' && /^\d{1,9}$/.test(value)) main = Number(value);
    }
    if (main !== undefined) await this.#changeMain(main);
  }

  async #mayNotify(pid: number): Promise<boolean> {
    const { notifyAccess } = this.unit;
    if (notifyAccess === 'none') return false;
    return pid === this.#main?.pid || (notifyAccess !== 'main' && (await this.#processes.has(pid)));
  }

  async #changeMain(pid: number): Promise<void> {
    if (pid === this.#main?.pid || !(await this.#processes.has(pid))) return;
    adoptMain(this.#host, pid, this.#processes).then(
      (main) => this.#watchMain(main),
      () => undefined,
    );
  }

  #set(state: UnitState, reason: string): void {
    const same = state === this.#state && reason === this.#reason;
    this.#state = state;
    this.#reason = reason;
    if (same) return;
    this.#since = Date.now();
    const { name } = this.unit;
    this.#host.log.write('kiln', `${name}: ${state}${reason === '' ? '' : `: ${reason}`}`);
  }

  /** A method, because the compiler assumes that the state does not change during await. */
  #is(state: UnitState): boolean {
    return this.#state === state;
  }

  async #attempt(): Promise<void> {
    this.#set('activating', '');
    try {
      this.#countStart();
      const unmet = failedCondition(this.#host, this.unit);
      if (unmet !== undefined) {
        this.#wanted = false;
        return this.#set('inactive', `the condition ${unmet} is not met`);
      }
      const lost = deferred<never>();
      this.#onLost = lost.reject;
      await within(Promise.race([this.#activate(), lost.promise]), this.unit.startTimeout);
    } catch (error) {
      if (!this.#wanted) throw error;
      const result = resultOfStart(error);
      this.#complain(error);
      await this.#terminate();
      await this.#afterEnd(result, { exitCode: 1, signal: null }, reasonOf(error));
      throw error;
    } finally {
      this.#onLost = undefined;
      this.#onReady = undefined;
    }
  }

  #countStart(): void {
    const { interval, burst } = this.unit.startLimit;
    const now = Date.now();
    this.#starts = this.#starts.filter((time) => now - time < interval);
    if (interval > 0 && burst > 0 && this.#starts.length >= burst) {
      throw new KilnError(
        'E_UNIT_LIMIT',
        `${this.unit.name} was started ${burst} times in ${interval / 1000} s`,
        { hint: 'its log says why it ends: `kiln service logs`' },
      );
    }
    this.#starts.push(now);
  }

  async #activate(): Promise<void> {
    const { type, commands } = this.unit;
    await makeUnitDirectories(this.#host, this.unit);
    await this.#runAll('condition', {});
    await this.#runAll('startPre', {});
    if (type === 'oneshot') {
      await this.#runAll('start', {});
    } else {
      const [command] = commands.start;
      if (command === undefined)
        throw new KilnError('E_UNIT', `${this.unit.name} has no command to start`);
      // A daemon that is left behind was not there before.
      const there = type === 'forking' ? await sandboxProcesses(this.#host) : [];
      const before = new Set(there.map(({ pid }) => pid));
      // Listen before the start: the message may come at once.
      const ready = deferred<void>();
      this.#onReady = ready.resolve;
      const starting = awaitedLater(this.#startMain(command));
      this.#starting = starting;
      const running = await starting.finally(() => {
        this.#starting = undefined;
      });
      if (type === 'forking') await this.#takeDaemon(running, before);
      if (type === 'notify' || type === 'notify-reload') await ready.promise;
    }
    await this.#runAll('startPost', this.#mainVariables());
    if (type === 'oneshot' && !this.unit.remainAfterExit) {
      this.#wanted = false;
      return this.#set('inactive', 'done');
    }
    this.#set('active', '');
  }

  async #startMain(command: ExecCommand): Promise<RunningCommand> {
    const running = await startCommand(this.#host, this.unit, command, {});
    this.#processes.add(running.pid);
    if (this.unit.type !== 'forking') this.#watchMain(commandAsMain(running));
    return running;
  }

  async #takeDaemon(running: RunningCommand, before: ReadonlySet<number>): Promise<void> {
    const main = await findDaemon(this.#host, this.unit, running, before, this.#processes);
    if (main !== undefined) return this.#watchMain(main);
    let isLooking = false;
    const watch = setInterval(() => {
      if (isLooking) return;
      isLooking = true;
      this.#look(watch)
        .catch((error) => this.#complain(error))
        .finally(() => {
          isLooking = false;
        });
    }, WATCH_PAUSE);
    this.#watch = watch;
  }

  async #look(watch: NodeJS.Timeout): Promise<void> {
    // Whoever holds the sandbox tells of its end.
    if (await this.#processes.isLiving().catch(() => true)) return;
    // The unit may have started again meanwhile.
    if (this.#watch !== watch || this.#state !== 'active') return clearInterval(watch);
    clearInterval(watch);
    this.#watch = undefined;
    await this.#afterEnd('success', ENDED_WELL, 'all processes ended');
  }

  #watchMain(main: MainProcess): void {
    this.#main = main;
    main.end
      .then(async (end) => {
        if (this.#main === main) await this.#mainEnded(end);
      })
      .catch((error) => {
        // Its sandbox is gone: a start waits for nothing more, and whoever holds the sandbox tells of its end.
        this.#onLost?.(error);
        this.#complain(error);
      });
  }

  async #mainEnded(end: ProcessEnd): Promise<void> {
    this.#main = undefined;
    const { name, remainAfterExit } = this.unit;
    if (this.#state === 'activating') {
      // The waiting start fails and handles the rest.
      this.#onLost?.(new StartEnded(`${name} ended with ${endText(end)} before it was ready`, end));
      return;
    }
    if (this.#state !== 'active' && this.#state !== 'reloading') return;
    const result = resultOf(this.unit, end);
    if (result === 'success' && remainAfterExit) return;
    await this.#terminate();
    await this.#afterEnd(result, end, endText(end));
  }

  async #afterEnd(result: UnitResult, end: ProcessEnd, reason: string): Promise<void> {
    await this.#stopPost(result, end);
    if (!this.#wanted) return;
    if (isRestarted(this.unit, result, end)) {
      this.#set('restarting', reason);
      this.#retry = setTimeout(() => {
        this.#restarts++;
        this.#attempt().catch(() => undefined);
      }, this.unit.restartDelay);
      return;
    }
    this.#wanted = false;
    this.#set(result === 'success' ? 'inactive' : 'failed', reason);
  }

  async #stopPost(result: UnitResult, end: ProcessEnd): Promise<void> {
    await within(
      this.#runAll('stopPost', {
        SERVICE_RESULT: result,
        EXIT_CODE: end.signal === null ? 'exited' : 'killed',
        EXIT_STATUS: end.signal?.replace(/^SIG/, '') ?? String(end.exitCode),
      }),
      this.unit.stopTimeout,
    ).catch((error) => this.#complain(error));
  }

  #mainVariables(): Record<string, string> {
    return this.#main === undefined ? {} : { MAINPID: String(this.#main.pid) };
  }

  async #runAll(phase: ExecPhase, variables: Readonly<Record<string, string>>): Promise<void> {
    for (const command of this.unit.commands[phase]) {
      const end = await runCommand(this.#host, this.unit, command, variables, ({ pid }) =>
        this.#processes.add(pid),
      );
      if (end.exitCode === 0) continue;
      const what = `${this.unit.name}: ${command.path} ended with ${endText(end)}`;
      throw new KilnError('E_UNIT_FAILED', what, { hint: LOGS_HINT });
    }
  }

  async #terminate(): Promise<void> {
    clearInterval(this.#watch);
    await terminate(this.unit, this.#processes, this.#main);
  }

  #complain(error: unknown): void {
    this.#host.log.write('kiln', `${this.unit.name}: ${reasonOf(error)}`);
  }
}
