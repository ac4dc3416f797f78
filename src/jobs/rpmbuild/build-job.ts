import type { Warning } from '../../artifacts/warning.ts';
import { EgressLog } from '../../egress/rule.ts';
import type { Engine } from '../../engine.ts';
import { describeProgress, type ImageProgress } from '../../image/progress.ts';
import type { NetworkPhase } from '../../options/build.ts';
import { type Executed, timeOf } from '../../sandbox/door/supervise.ts';
import { Timeline } from '../run/timeline.ts';
import type { BuildCommand, BuildSandbox } from './build-sandbox.ts';
import { commandLine } from './commands.ts';
import type { BuildHooks, BuildPhase, LogName, Steps } from './outcome/report.ts';
import { logTime, type ResultFiles } from './outcome/result-files.ts';
import { type BuildRequest, egressIn, networkIn } from './request.ts';

/** What the steps of one build have in common: request, logs, time, listeners. What comes of them they return. */
export class BuildJob {
  readonly engine: Engine;
  readonly request: BuildRequest;
  readonly hooks: BuildHooks;
  readonly timeline = new Timeline();
  readonly warnings: Warning[] = [];
  readonly egressLog = new EgressLog();
  readonly signal: AbortSignal;
  readonly #files: ResultFiles;
  readonly #broken = new AbortController();
  readonly #said = new Set<string>();
  #deadline: number | undefined;

  constructor(engine: Engine, request: BuildRequest, hooks: BuildHooks, files: ResultFiles) {
    this.engine = engine;
    this.request = request;
    this.hooks = hooks;
    this.#files = files;
    this.timeline.tell = (phase, event) => {
      const name = phase as BuildPhase;
      files.state(event, hooks.stateNames?.[name] ?? name);
      hooks.onPhase?.(name, event);
    };
    this.timeline.samples.isOn = hooks.samples !== false;
    const { signal: broken } = this.#broken;
    this.signal = hooks.signal === undefined ? broken : AbortSignal.any([broken, hooks.signal]);
  }

  write(name: string, content: string): void {
    if (this.request.omit?.some((omitted) => omitted === name) === true) return;
    this.#files.write(name, content);
  }

  async *whole(steps: Steps): Steps {
    const name = this.hooks.stateNames?.whole;
    if (name === undefined) return yield* steps;
    this.#files.state('start', name);
    try {
      yield* steps;
      this.#files.state('finish', name);
    } catch (error) {
      this.#files.state('fail', name);
      throw error;
    }
  }

  async phase<Result>(name: BuildPhase, work: () => Promise<Result>): Promise<Result> {
    this.signal.throwIfAborted();
    return await this.timeline.phase(name, work);
  }

  /** What a sandbox for a phase is opened with. */
  opening(phase: NetworkPhase) {
    const { engine, request, signal } = this;
    const [network, egress] = [networkIn(request, phase), egressIn(request, phase)];
    return { engine, request, network, egress, signal };
  }

  async closeEgress({ sandbox }: BuildSandbox): Promise<void> {
    for (const entry of (await sandbox.closeEgress()) ?? []) this.egressLog.add(entry);
  }

  command(log: LogName) {
    const { timeout, ...time } = timeOf(this.request);
    this.#deadline ??= timeout === undefined ? undefined : performance.now() + timeout;
    const left = this.#deadline && Math.max(1, this.#deadline - performance.now());
    return {
      onOutput: (chunk: Buffer) => this.output(log, chunk),
      ...time,
      timeout: left,
      signal: this.signal,
    };
  }

  output(log: LogName, chunk: Buffer): void {
    try {
      this.#files.append(log, chunk);
    } catch (error) {
      this.#broken.abort(error);
    }
    this.hooks.onOutput?.(log, chunk);
  }

  abort(failure: unknown): void {
    this.#broken.abort(failure);
  }

  say(text: string, log: LogName = 'root.log'): void {
    const time = log === 'root.log' ? `${logTime()} - ` : '';
    this.output(log, Buffer.from(`${time}${text}\n`));
  }

  readonly onProgress = (progress: ImageProgress): void => {
    this.hooks.onImageProgress?.(progress);
    const text = describeProgress(progress);
    if (this.#said.has(text)) return;
    this.#said.add(text);
    this.say(text);
  };

  /** Runs a command, with its command line and status in build.log, in mock's words: tools look for them. */
  async logged(
    sandbox: BuildSandbox,
    argv: readonly string[],
    command: BuildCommand = this.command('build.log'),
  ): Promise<Executed> {
    this.say(`Executing command: ${commandLine(argv)}`, 'build.log');
    const end = await sandbox.run(argv, command);
    const how = end.signal === null ? String(end.exitCode) : `killed by ${end.signal}`;
    this.say(`Child return code was: ${how}`, 'build.log');
    return end;
  }

  readonly warn = (warning: Warning): void => {
    this.warnings.push(warning);
    this.hooks.onWarning?.(warning);
  };
}
