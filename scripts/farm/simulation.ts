/**
 * What a chain of many packages would take on many machines: a simulation of steps, images, caches and HTCondor's
 * delays, with and without a rank by what machines have. Nothing runs; equal numbers give equal results.
 */

/** What is simulated. Times are seconds, sizes bytes. */
export interface Scenario {
  readonly packages: number;
  readonly workers: number;
  /** Times of builds, as they were measured: each package has one of them. */
  readonly times: readonly number[];
  /** From the moment a step may run and a machine is free until its kiln begins. */
  readonly dispatch: number;
  /** What a step takes beside its build: transfer, plan, publishing. */
  readonly overhead: number;
  /** Of the base image, which a machine fetches and makes once. */
  readonly image: { readonly bytes: number; readonly seconds: number };
  /** Packages of the repositories that a build installs beside the image, and how large they are. */
  readonly requires: { readonly count: number; readonly bytes: number; readonly kinds: number };
  /** Bytes per second to each machine. */
  readonly bandwidth: number;
  /** How many results of the chain a package needs, at most. */
  readonly needs: number;
  readonly seed: number;
}

/** What came of it. */
export interface Simulated {
  /** Seconds from the first step to the last. */
  readonly makespan: number;
  /** The longest path of builds, and all builds by the number of machines: no pool is faster than the larger one. */
  readonly bound: number;
  /** Of the packages that steps installed, the part that was on the machine already. */
  readonly hits: number;
  readonly imagesMade: number;
  readonly moved: number;
  /** The part of the machines' time that builds took. */
  readonly busy: number;
}

interface Task {
  readonly time: number;
  /** Of repositories: numbers. */
  readonly requires: readonly number[];
  readonly needs: readonly number[];
}

interface Machine {
  readonly has: Set<number>;
  image: boolean;
}

/** A generator of numbers from 0 to 1: mulberry32. */
function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Packages in an order in which each needs only earlier ones; few are needed by many. */
function tasksOf({ packages, times, requires, needs, seed }: Scenario): Task[] {
  const next = random(seed);
  // The few first of a list are taken most: squaring prefers small numbers.
  const popular = (count: number) => Math.floor(next() ** 3 * count);
  return Array.from({ length: packages }, (_, index) => ({
    time: times[Math.floor(next() * times.length)] ?? 0,
    requires: [...new Set(Array.from({ length: requires.count }, () => popular(requires.kinds)))],
    needs:
      index === 0
        ? []
        : [
            ...new Set(
              Array.from({ length: Math.floor(next() * (needs + 1)) }, () => popular(index)),
            ),
          ],
  }));
}

/** A heap of what ends when. */
class Ends {
  readonly #items: { readonly at: number; readonly task: number; readonly machine: number }[] = [];

  get size(): number {
    return this.#items.length;
  }

  add(item: { readonly at: number; readonly task: number; readonly machine: number }): void {
    const items = this.#items;
    items.push(item);
    for (let at = items.length - 1; at > 0; ) {
      const above = (at - 1) >> 1;
      if (items[above]!.at <= items[at]!.at) break;
      [items[above], items[at]] = [items[at]!, items[above]!];
      at = above;
    }
  }

  take() {
    const items = this.#items;
    const first = items[0]!;
    const last = items.pop()!;
    if (items.length === 0) return first;
    items[0] = last;
    for (let at = 0; ; ) {
      const [left, right] = [2 * at + 1, 2 * at + 2];
      let least = at;
      if (left < items.length && items[left]!.at < items[least]!.at) least = left;
      if (right < items.length && items[right]!.at < items[least]!.at) least = right;
      if (least === at) return first;
      [items[least], items[at]] = [items[at]!, items[least]!];
      at = least;
    }
  }
}

/** Free machines that are compared for a step: a negotiator looks at all, which changes little. */
const COMPARED = 50;

/** @param rank whether machines with what a step needs are preferred */
export function simulate(scenario: Scenario, rank: boolean): Simulated {
  const { workers, dispatch, overhead, image, requires, bandwidth, seed } = scenario;
  const tasks = tasksOf(scenario);
  const next = random(seed + 1);
  const machines: Machine[] = Array.from({ length: workers }, () => ({
    has: new Set(),
    image: false,
  }));
  const free = machines.map((_, index) => index);
  const waits = tasks.map(({ needs }) => needs.length);
  const after: number[][] = tasks.map(() => []);
  for (const [index, { needs }] of tasks.entries())
    for (const need of needs) after[need]!.push(index);
  const ready = tasks.flatMap((_, index) => (waits[index] === 0 ? [index] : []));
  const ends = new Ends();
  let [now, moved, asked, found, imagesMade, built] = [0, 0, 0, 0, 0, 0];

  const worth = (machine: Machine, task: Task) =>
    (machine.image ? 1000 : 0) +
    task.requires.reduce((sum, one) => sum + (machine.has.has(one) ? 1 : 0), 0);

  function choose(task: Task): number {
    let best = Math.floor(next() * free.length);
    if (!rank) return best;
    let most = -1;
    for (let tries = 0; tries < Math.min(COMPARED, free.length); tries++) {
      const at = Math.floor(next() * free.length);
      const value = worth(machines[free[at]!]!, task);
      if (value > most) [best, most] = [at, value];
    }
    return best;
  }

  function start(index: number): void {
    const task = tasks[index]!;
    const place = choose(task);
    const number = free[place]!;
    free[place] = free.at(-1)!;
    free.pop();
    const machine = machines[number]!;
    let bytes = 0;
    let seconds = dispatch + overhead + task.time;
    if (!machine.image) {
      machine.image = true;
      imagesMade++;
      bytes += image.bytes;
      seconds += image.seconds;
    }
    for (const one of task.requires) {
      asked++;
      if (machine.has.has(one)) found++;
      else bytes += requires.bytes;
      machine.has.add(one);
    }
    moved += bytes;
    built += task.time;
    ends.add({ at: now + seconds + bytes / bandwidth, task: index, machine: number });
  }

  for (let head = 0; head < ready.length || ends.size > 0; ) {
    while (free.length > 0 && head < ready.length) start(ready[head++]!);
    if (ends.size === 0) continue;
    const { at, task, machine } = ends.take();
    now = at;
    free.push(machine);
    for (const one of after[task]!) if (--waits[one]! === 0) ready.push(one);
  }
  return {
    makespan: now,
    bound: Math.max(longest(tasks), built / workers),
    hits: asked === 0 ? 1 : found / asked,
    imagesMade,
    moved,
    busy: built / (now * workers),
  };
}

/** The longest path of builds. */
function longest(tasks: readonly Task[]): number {
  const until: number[] = [];
  for (const [index, { time, needs }] of tasks.entries()) {
    until[index] = time + Math.max(0, ...needs.map((need) => until[need]!));
  }
  return Math.max(0, ...until);
}
