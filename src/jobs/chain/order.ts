import { type Edges, edgesOf, findCycles, withoutCycles } from './graph.ts';
import type { Progress } from './progress.ts';
import type { Results } from './results.ts';

/** The order of members by what is known of their requirements, which grows with every build. */
export class Order {
  readonly #members: readonly Progress[];
  readonly #results: Results;
  /** Counts findings about requirements. */
  #findings = 0;
  #known: { readonly of: string; readonly edges: Edges } | undefined;

  constructor(members: readonly Progress[], results: Results) {
    this.#members = members;
    this.#results = results;
  }

  /** Notes that a build found new requirements of a member. */
  learn(): void {
    this.#findings++;
  }

  /** All needs between members. */
  edges(): Edges {
    const of = `${this.#results.revision} ${this.#findings}`;
    if (this.#known?.of === of) return this.#known.edges;
    const nodes = this.#members.map(({ name, requires, scan }) => ({
      name,
      requires,
      // After the build the real provides are known.
      provides: this.#results.providesOf(name) ?? scan.provides,
    }));
    const edges = edgesOf(nodes);
    this.#known = { of, edges };
    return edges;
  }

  /** The members for which each unfinished member waits; a member never waits for one that waits for it. */
  pending(): Edges {
    const edges = this.edges();
    const open = new Map<string, Map<string, readonly string[]>>();
    const left = this.#members.filter(({ isDone }) => !isDone);
    const names = new Set(left.map(({ name }) => name));
    for (const { name, uses } of left) {
      const used = uses.map((target) => [target, []] as const);
      const needs = new Map([...used, ...(edges.get(name) ?? [])]);
      for (const target of needs.keys()) if (!names.has(target)) needs.delete(target);
      open.set(name, needs);
    }
    return withoutCycles(open, findCycles(open));
  }

  /**
   * Whether a newer package exists that the member requires. In a cycle that is always so; there one build with
   * the others' results is enough.
   */
  isOutdated({ name, uses, requires, doneIn }: Progress): boolean {
    const cycle = findCycles(this.edges()).find((members) => members.includes(name)) ?? [];
    const settled = new Set([name, ...cycle.filter((member) => uses.includes(member))]);
    return this.#results.hasNewer(doneIn, requires, settled);
  }
}
