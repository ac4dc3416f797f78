import { type Edges, edgesOf, findCycles, withoutCycles } from './graph.ts';
import type { Progress } from './progress.ts';
import type { Results } from './results.ts';

/** Who needs whom, by what is known by now: that grows with every build. */
export class Order {
  readonly #members: readonly Progress[];
  readonly #results: Results;
  /** Counts what builds have found out about requirements. */
  #findings = 0;
  #known: { readonly of: string; readonly edges: Edges } | undefined;

  constructor(members: readonly Progress[], results: Results) {
    this.#members = members;
    this.#results = results;
  }

  /** Something is known of a member's requirements that was not before. */
  learn(): void {
    this.#findings++;
  }

  /** All that members need of each other. */
  edges(): Edges {
    const of = `${this.#results.revision} ${this.#findings}`;
    if (this.#known?.of === of) return this.#known.edges;
    const nodes = this.#members.map(({ name, requires, scan }) => ({
      name,
      requires,
      // Once it is built there is no need to guess.
      provides: this.#results.providesOf(name) ?? scan.provides,
    }));
    const edges = edgesOf(nodes);
    this.#known = { of, edges };
    return edges;
  }

  /** Whom each member that is not done waits for; nobody waits for whom it keeps waiting. */
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
   * Whether there is something newer that a member asks for than what it was built with. In a cycle
   * there always is: there it is enough to be built with any of the others' results.
   */
  isOutdated({ name, uses, requires, doneIn }: Progress): boolean {
    const cycle = findCycles(this.edges()).find((members) => members.includes(name)) ?? [];
    const settled = new Set([name, ...cycle.filter((member) => uses.includes(member))]);
    return this.#results.hasNewer(doneIn, requires, settled);
  }
}
