import { defined } from '../../defined.ts';
import type { KilnError } from '../../errors.ts';
import { asKilnError } from '../../host/calls/system-error.ts';
import { awaitedLater } from '../../promise.ts';
import { buildStatus } from '../rpmbuild/outcome/outcome.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
import { buildMember, type MemberContext, type MemberOutcome } from './build-member.ts';
import { type Edges, Order, Progress } from './graph.ts';
import type { Member, Scan } from './member.ts';
import type { MemberRecord } from './records.ts';
import type { ChainHooks, ChainMemberReport, ChainRequest, MemberState } from './request.ts';
import { type ResultsInUse, resultsRepository } from './results.ts';

/** Failures that another result may fix: a requirement of the build is missing. */
export const MISSING: ReadonlySet<string> = new Set(['E_SOLVER_NO_MATCH', 'E_SOLVER_PROBLEM']);

export class ChainRun {
  readonly #context: MemberContext;
  readonly #request: ChainRequest;
  readonly #hooks: ChainHooks;
  readonly #members: readonly Progress[];
  readonly #byName: ReadonlyMap<string, Progress>;
  readonly #order: Order;
  readonly #running = new Map<Progress, Promise<void>>();
  /** Beside the first build, one for each that runs at the same time. */
  readonly #rooms: Disposable[] = [];
  #stopped = false;

  constructor(
    context: MemberContext,
    request: ChainRequest,
    scans: ReadonlyMap<Member, Scan>,
    hooks: ChainHooks,
  ) {
    this.#context = context;
    this.#request = request;
    this.#hooks = hooks;
    this.#members = [...scans].map(
      ([member, scan]) => new Progress(member, scan, request.resultDirectory),
    );
    this.#order = new Order(this.#members, context.results);
    this.#byName = new Map(this.#members.map((progress) => [progress.name, progress]));
  }

  remember(name: string, record: MemberRecord): void {
    this.#byName.get(name)?.remember(record);
    this.#order.learn();
  }

  refuse(names: readonly string[], failure: KilnError): void {
    for (const progress of this.#members) {
      if (names.includes(progress.name)) this.#fail(progress, failure, buildStatus(failure));
    }
  }

  edges(): Edges {
    return this.#order.edges();
  }

  async run(): Promise<void> {
    for (;;) {
      await this.#start();
      if (this.#running.size > 0) await Promise.race(this.#running.values());
      else if (this.#next() === undefined && !this.#settle()) return;
    }
  }

  reports(): ChainMemberReport[] {
    const edges = this.edges();
    return this.#members.map((progress) => progress.describe(edges));
  }

  lost(): string[] {
    return this.#members.filter(({ isDone }) => !isDone).map(({ name }) => name);
  }

  get exitStatus(): number {
    return this.#members.find(({ exitStatus }) => exitStatus !== 0)?.exitStatus ?? 0;
  }

  async #start(): Promise<void> {
    while (this.#next() !== undefined && (await this.#hasRoom())) {
      // Others may have ended meanwhile.
      const progress = this.#next();
      if (progress === undefined) break;
      const work = awaitedLater(
        this.#process(progress).finally(() => this.#running.delete(progress)),
      );
      this.#running.set(progress, work);
    }
    while (this.#rooms.length > Math.max(0, this.#running.size - 1)) {
      this.#rooms.pop()?.[Symbol.dispose]();
    }
  }

  #next(): Progress | undefined {
    if (this.#hooks.signal?.aborted) this.#stopped = true;
    if (this.#stopped || this.#running.size >= this.#request.jobs) return undefined;
    this.#skipLost();
    const pending = this.#order.pending();
    return this.#members.find(
      (progress) =>
        progress.state === 'waiting' &&
        !this.#running.has(progress) &&
        (pending.get(progress.name)?.size ?? 0) === 0 &&
        progress.failedIn?.generation !== this.#context.results.generation,
    );
  }

  async #hasRoom(): Promise<boolean> {
    const { takeRoom } = this.#hooks;
    if (takeRoom === undefined || this.#running.size <= this.#rooms.length) return true;
    const room = await takeRoom();
    if (room !== undefined) this.#rooms.push(room);
    return room !== undefined || this.#running.size === 0;
  }

  #skipLost(): void {
    for (let changed = true; changed; ) {
      changed = false;
      const pending = this.#order.pending();
      for (const progress of this.#members) {
        if (progress.state !== 'waiting') continue;
        const needs = [...(pending.get(progress.name) ?? [])];
        const lost = needs.find(([name]) => this.#byName.get(name)?.isLost);
        if (lost === undefined) continue;
        const what = lost[1].length === 0 ? '' : `${lost[1].join(', ')} of `;
        this.#change(progress, 'skipped', `it needs ${what}${lost[0]}, which is not there`);
        changed = true;
      }
    }
  }

  /**
   * Called when nothing runs and nothing can start. Members that wait for a package that nobody makes have
   * failed; members built before a newer package that they require are built once more. @returns whether there
   * is more to do
   */
  #settle(): boolean {
    const failing = this.#members.filter(({ state, failedIn }) => state === 'waiting' && failedIn);
    for (const progress of failing) {
      const { failure } = progress.failedIn!;
      this.#fail(progress, failure, progress.report?.exitStatus ?? buildStatus(failure));
    }
    if (this.#stopped) {
      for (const progress of this.#members) {
        if (progress.state === 'waiting') this.#change(progress, 'skipped', 'the chain had ended');
      }
      return false;
    }
    const outdated = this.#members.filter(
      (progress) => progress.isDone && !progress.again && this.#order.isOutdated(progress),
    );
    for (const progress of outdated) {
      progress.again = true;
      this.#change(progress, 'waiting', 'what it requires was built after it');
    }
    return failing.length > 0 || outdated.length > 0;
  }

  async #process(progress: Progress): Promise<void> {
    const { signal, buildHooks } = this.#hooks;
    try {
      await using inUse = await this.#context.results.use();
      const outcome = await buildMember(this.#context, {
        member: progress.member,
        request: this.#requestFor(progress, inUse),
        results: inUse,
        hooks: { ...buildHooks?.(progress.name), ...defined({ signal }) },
        onStart: () => this.#change(progress, 'building', undefined),
      });
      this.#conclude(progress, outcome, inUse.generation);
    } catch (error) {
      const failure = asKilnError(error, progress.name);
      this.#fail(progress, failure, buildStatus(failure));
    }
  }

  #requestFor(progress: Progress, { path }: ResultsInUse): BuildRequest {
    const { build } = this.#request;
    const chosen = this.#context.results.chosenFor(progress.requires, progress.name);
    return {
      ...build,
      source: { kind: 'srpm', path: progress.member.path },
      resultDirectory: progress.directory,
      logSharers: this.#members.length,
      repositories: [
        ...(build.repositories ?? []),
        ...(path === undefined ? [] : [resultsRepository(path)]),
      ],
      packages: [...(build.packages ?? []), ...chosen],
      // The chain has refreshed the metadata once for all members.
      update: false,
    };
  }

  #conclude(progress: Progress, outcome: MemberOutcome, generation: number): void {
    if (outcome.kind === 'failed') {
      const { report, failure } = outcome;
      progress.report = report;
      const mendable = this.#request.recurse || MISSING.has(failure.code);
      if (mendable && !this.#hooks.signal?.aborted) {
        progress.failedIn = { generation, failure };
        this.#change(progress, 'waiting', 'to be tried again when there is something new');
        return;
      }
      this.#fail(progress, failure, report.exitStatus);
      return;
    }
    const report = outcome.kind === 'built' ? outcome.report : progress.report;
    progress.finish(outcome.record, generation, report);
    this.#order.learn();
    this.#change(progress, outcome.kind, undefined);
  }

  #fail(progress: Progress, failure: KilnError, exitStatus: number): void {
    progress.exitStatus = exitStatus;
    this.#change(progress, 'failed', failure.message);
    if (!this.#request.continue) this.#stopped = true;
  }

  #change(progress: Progress, state: MemberState, reason: string | undefined): void {
    progress.state = state;
    progress.reason = reason;
    this.#hooks.onMember?.(progress.describe(this.edges()));
  }
}
