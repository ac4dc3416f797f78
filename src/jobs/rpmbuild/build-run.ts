import { EgressLog } from '../../egress/rule.ts';
import { describeProgress, type ImageProgress } from '../../image/progress.ts';
import type { PackageSigner } from '../../packages/rpm/signature/signing-key.ts';
import type { Engine } from '../../sandbox/open.ts';
import { Timeline } from '../run/timeline.ts';
import type { BuildCommand, BuildEgress } from './build-sandbox.ts';
import type { BuildHooks, BuildPhase, BuildWarning, LogName } from './outcome/report.ts';
import { logTime, type ResultFiles } from './outcome/result-files.ts';
import { type BuildRequest, egressIn, type NetworkPhase } from './request.ts';

/** What all parts of one build share: its logs, its clock, who listens. */
export class BuildRun {
  readonly engine: Engine;
  readonly request: BuildRequest;
  readonly hooks: BuildHooks;
  readonly timeline = new Timeline();
  readonly warnings: BuildWarning[] = [];
  readonly signal: AbortSignal;
  /** Of the source package, once it is known. */
  name: string | undefined;
  /** Signs what is built, if it is to be signed. */
  signer: PackageSigner | undefined;
  /** The sandbox that was kept for whoever wants to look into it. */
  kept: string | undefined;
  /** The phase that failed: the innermost. */
  failedPhase: BuildPhase | undefined;
  /** What its sandboxes asked the proxy for. */
  readonly egressLog = new EgressLog();
  #files: ResultFiles | undefined;
  readonly #broken = new AbortController();
  readonly #said = new Set<string>();
  #deadline: number | undefined;

  constructor(engine: Engine, request: BuildRequest, hooks: BuildHooks) {
    this.engine = engine;
    this.request = request;
    this.hooks = hooks;
    this.timeline.samples.isOn = hooks.samples !== false;
    const signals = [this.#broken.signal, ...(hooks.signal === undefined ? [] : [hooks.signal])];
    this.signal = AbortSignal.any(signals);
  }

  /** Puts a whole file into the result directory. @throws KilnError E_RESULTDIR */
  write(name: string, content: string): void {
    if (this.request.omit?.some((omitted) => omitted === name) === true) return;
    this.#files?.write(name, content);
  }

  /** From here on there are logs. */
  logTo(files: ResultFiles): void {
    this.#files = files;
  }

  /** Runs the whole build; state.log hears of it where the whole has a name. */
  async whole(work: () => Promise<void>): Promise<void> {
    const name = this.hooks.stateNames?.whole;
    if (name === undefined) return await work();
    this.#files?.state('Start', name);
    try {
      await work();
      this.#files?.state('Finish', name);
    } catch (error) {
      this.#files?.state('Failed', name);
      throw error;
    }
  }

  /** Runs a part of the build: state.log and whoever listens hear of it, and its time is taken. */
  async phase<Result>(name: BuildPhase, work: () => Promise<Result>): Promise<Result> {
    this.signal.throwIfAborted();
    const state = this.hooks.stateNames?.[name] ?? name;
    this.#files?.state('Start', state);
    this.hooks.onPhase?.(name, 'start');
    try {
      const result = await this.timeline.measure(name, work);
      this.#files?.state('Finish', state);
      this.hooks.onPhase?.(name, 'finish');
      return result;
    } catch (error) {
      this.failedPhase ??= name;
      this.hooks.onPhase?.(name, 'fail');
      this.#files?.state('Failed', state);
      throw error;
    }
  }

  /** The hosts that a phase reaches by a proxy, if there is one. */
  egress(phase: NetworkPhase): BuildEgress | undefined {
    const hosts = egressIn(this.request, phase);
    return hosts && { hosts, log: this.egressLog };
  }

  /** How a command runs whose output goes into `log`, within what is left of the time. */
  command(log: LogName): BuildCommand & Required<Pick<BuildCommand, 'onOutput'>> {
    const { timeout, stallTimeout } = this.request.time ?? {};
    this.#deadline ??= timeout === undefined ? undefined : performance.now() + timeout;
    const left = this.#deadline && Math.max(1, this.#deadline - performance.now());
    return {
      onOutput: (chunk) => this.output(log, chunk),
      timeout: left,
      stallTimeout,
      signal: this.signal,
    };
  }

  /** Adds to a log. One that cannot be written any more ends the build. */
  output(log: LogName, chunk: Buffer): void {
    try {
      this.#files?.append(log, chunk);
    } catch (error) {
      this.#broken.abort(error);
    }
    this.hooks.onOutput?.(log, chunk);
  }

  /** Ends the build with this failure. */
  abort(failure: unknown): void {
    this.#broken.abort(failure);
  }

  /** A line of a log; root.log has the time of each. */
  say(text: string, log: LogName = 'root.log'): void {
    const time = log === 'root.log' ? `${logTime()} - ` : '';
    this.output(log, Buffer.from(`${time}${text}\n`));
  }

  /** What making images is busy with goes into root.log, each kind of step once. */
  readonly onProgress = (progress: ImageProgress): void => {
    this.hooks.onImageProgress?.(progress);
    const text = describeProgress(progress);
    if (this.#said.has(text)) return;
    this.#said.add(text);
    this.say(text);
  };

  readonly warn = (warning: BuildWarning): void => {
    this.warnings.push(warning);
    this.hooks.onWarning?.(warning);
  };
}
