/** Sandboxes that are parked for the next runs, and turns for whoever must start one. */
import { writeFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { join } from 'node:path';
import type { Engine } from '../engine.ts';
import { readText } from '../host/calls/libc.ts';
import type { HeldSandbox, ParkedWish, Turn, WantedTurn } from '../host/libvirt/sandbox-host.ts';
import { readCounters, writeCounters } from '../host/state/counters.ts';
import { makeRunFolder, type StatePaths } from '../host/state/paths.ts';
import { awaitedLater } from '../promise.ts';
import { ParkingLot } from '../sandbox/domain/parking.ts';
import { UserJobs } from '../users/queue.ts';

/** What must stay free beside parked sandboxes, bytes. */
const SPARE_MEMORY = 512 << 20;

/** What they stand on. */
type Isolation = ParkedWish['isolation'];

/** Estimates for one of them, bytes. */
const SANDBOX_MEMORY: Readonly<Record<Isolation, number>> = { container: 32 << 20, vm: 256 << 20 };

/** After a failure, ms; twice as long after each further one. */
const RETRY = 10_000;
const RETRY_MOST = 640_000;

/** A boot takes all processors, which whoever has just claimed a machine needs: none begins so soon, ms. */
const AFTER_CLAIM: Readonly<Record<Isolation, number>> = { container: 0, vm: 5000 };

/** Those of each kind: containers and machines. */
export type Parking = Readonly<Record<Isolation, ParkedSandboxes>>;

interface Target {
  readonly count: number;
  /** Of the sandbox in each machine, bytes; as if none were given otherwise. */
  readonly memory?: number | undefined;
}

/** Keeps sandboxes parked. They are started while nothing else starts. */
export class ParkedSandboxes {
  readonly #paths: StatePaths;
  readonly #isolation: Isolation;
  readonly #lot: ParkingLot;
  readonly #usual: number;
  readonly #failed: (error: unknown) => void;
  #retry = RETRY;
  #claimed = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #refilling: Promise<void> | undefined;
  #ended = false;

  /** @param usual how many are parked unless somebody says otherwise */
  constructor(
    engine: Engine,
    isolation: Isolation,
    usual: number,
    failed: (error: unknown) => void,
  ) {
    this.#paths = engine.paths;
    this.#isolation = isolation;
    // Whether a run takes one that is emulated is for the run to say.
    const machine = () => ({ limits: { memory: this.#target.memory }, mayBeEmulated: true });
    this.#lot = new ParkingLot(engine, isolation === 'vm' ? machine : undefined);
    this.#usual = usual;
    this.#failed = failed;
  }

  refill(): void {
    clearTimeout(this.#timer);
    const rest = this.#claimed + AFTER_CLAIM[this.#isolation] - performance.now();
    if (rest > 0) this.#timer = setTimeout(() => this.refill(), rest);
    else if (!this.#ended) this.#refilling ??= awaitedLater(this.#untilOver(this.#refill()));
  }

  #untilOver(filling: Promise<void>): Promise<void> {
    return filling.finally(() => {
      this.#refilling = undefined;
    });
  }

  get count(): number {
    return this.#lot.count;
  }

  get target(): number {
    return this.#target.count;
  }

  get #target(): Target {
    return readTarget(this.#targetFile) ?? { count: this.#usual };
  }

  get #targetFile(): string {
    return join(this.#paths.run, this.#isolation === 'vm' ? 'park-machines' : 'park-target');
  }

  /** What one of them is reckoned at, bytes. */
  get memory(): number {
    return SANDBOX_MEMORY[this.#isolation];
  }

  get room(): number {
    return Math.max(0, Math.floor((freemem() - SPARE_MEMORY) / this.memory));
  }

  /** How many of them qemu emulates: what asks for KVM takes none of these. */
  get emulated(): number {
    return this.#lot.parked.filter(({ record }) => record.machine?.accelerator === 'tcg').length;
  }

  async take(wish: ParkedWish): Promise<HeldSandbox | undefined> {
    const taken = await this.#lot.takeNext(wish);
    if (taken !== undefined) this.#claimed = performance.now();
    return taken;
  }

  /** Whether a command that could have had a parked sandbox got one; nobody has missed what is not to be there. */
  noteClaim(isTaken: boolean): void {
    if (!isTaken && this.target === 0) return;
    const kind = this.#isolation === 'vm' ? 'machine-claims' : 'claims';
    const { taken = 0, missed = 0 } = readCounters(this.#paths, kind);
    const claims = isTaken ? { taken: taken + 1, missed } : { taken, missed: missed + 1 };
    writeCounters(this.#paths, kind, claims);
  }

  /** @param memory of the sandbox in each machine, bytes */
  async keep(count: number, memory?: number): Promise<void> {
    this.#write({ count, memory });
    await this.fill();
  }

  async fill(): Promise<void> {
    // After the filling before: sandboxes that it is starting are not counted yet.
    await this.#refilling?.catch(() => undefined);
    this.#refilling = awaitedLater(this.#untilOver(this.#lot.fill(() => this.target)));
    await this.#refilling;
  }

  async none(): Promise<void> {
    this.#write({ count: 0 });
    await this.#refilling?.catch(() => undefined);
    await this.#lot.clear();
  }

  async #refill(): Promise<void> {
    try {
      const { target } = this;
      if (this.count >= target || this.room < target) return;
      await this.#lot.fill(() => (this.#ended ? 0 : this.target));
      this.#retry = RETRY;
    } catch (error) {
      if (this.#ended) return;
      this.#failed(error);
      this.#timer = setTimeout(() => this.refill(), this.#retry);
      this.#retry = Math.min(2 * this.#retry, RETRY_MOST);
    }
  }

  #write({ count, memory }: Target): void {
    makeRunFolder(this.#paths);
    writeFileSync(this.#targetFile, `${count} ${memory ?? ''}`.trimEnd());
  }

  async end(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#timer);
    await this.#refilling?.catch(() => undefined);
    await this.#lot.clear();
  }
}

function readTarget(file: string): Target | undefined {
  const text = readText(file);
  if (text === undefined) return undefined;
  const [count, memory] = text.split(' ').map(Number);
  return { count: count || 0, memory: memory || undefined };
}

/** More at once are no faster (src/host/libvirt/pool.ts). The last place is for a caller who has none. */
const AT_ONCE = 4;

/** {@link ParkedSandboxes}, to whoever wants one. */
interface Parked {
  take(wish: ParkedWish): Promise<HeldSandbox | undefined>;
  noteClaim(isTaken: boolean): void;
}

/** Who may start a sandbox now: libvirt starts a few at a time, and those that wait would use up their patience. */
export class Turns {
  readonly #parked: Readonly<Record<Isolation, Parked>>;
  readonly #starts = new UserJobs(AT_ONCE);

  constructor(parked: Readonly<Record<Isolation, Parked>>) {
    this.#parked = parked;
  }

  /** @throws the reason of an abort */
  async take({ uid, parked: wish, signal }: WantedTurn): Promise<Turn> {
    const giver = wish && this.#parked[wish.isolation];
    const parked = wish && (await giver?.take(wish));
    giver?.noteClaim(parked !== undefined);
    if (parked !== undefined) return { parked, [Symbol.dispose]: () => undefined };
    const turn = await this.#starts.begin({ uid, most: AT_ONCE }, () => undefined, signal);
    if (turn === undefined) throw signal?.reason;
    return turn;
  }
}
