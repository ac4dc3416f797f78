import { KilnError } from '../../errors.ts';
import { below, type HeldPath } from '../../host/files/held.ts';
import type { BuildReport } from '../rpmbuild/outcome/report.ts';
import { type Capability, parseCapabilities, provides, showCapability } from './capability.ts';
import type { Member, Scan } from './member.ts';
import type { MemberRecord } from './records.ts';
import type { ChainMemberReport, MemberState } from './request.ts';
import type { Results } from './results.ts';

interface GraphNode {
  readonly name: string;
  readonly requires: readonly string[];
  readonly provides: readonly Capability[];
}

/** For each node, the nodes that must be built before it, with the capabilities that it needs of each. */
export type Edges = ReadonlyMap<string, ReadonlyMap<string, readonly string[]>>;

/**
 * An edge for each requirement that another node's package meets. A node cannot get its own provides from the
 * chain, so such a requirement must come from the repositories.
 */
export function edgesOf(nodes: readonly GraphNode[]): Edges {
  const offers = nodes.flatMap(({ name: node, provides: offered }) =>
    offered.map((capability) => ({ node, capability })),
  );
  const providers = Map.groupBy(offers, ({ capability }) => capability.name);
  const edges = new Map<string, Map<string, string[]>>();
  for (const node of nodes) {
    const needs = new Map<string, string[]>();
    for (const required of node.requires.flatMap(parseCapabilities)) {
      const text = showCapability(required);
      for (const { node: provider, capability } of providers.get(required.name) ?? []) {
        if (provider === node.name || !provides(capability, required)) continue;
        const capabilities = needs.get(provider) ?? [];
        if (!capabilities.includes(text)) needs.set(provider, [...capabilities, text]);
      }
    }
    edges.set(node.name, needs);
  }
  return edges;
}

/**
 * The groups of nodes that need each other, directly or through others: Tarjan's strongly connected components
 * of more than one node. Not recursive, because a chain may be long.
 */
export function findCycles(edges: Edges): string[][] {
  const cycles: string[][] = [];
  const index = new Map<string, number>();
  const low = new Map<string, number>();
  const stack: string[] = [];
  const onStack = new Set<string>();
  for (const root of edges.keys()) {
    if (index.has(root)) continue;
    const work = [{ name: root, next: [...(edges.get(root)?.keys() ?? [])] }];
    while (work.length > 0) {
      const { name, next } = work.at(-1)!;
      if (!index.has(name)) {
        index.set(name, index.size);
        low.set(name, index.get(name)!);
        stack.push(name);
        onStack.add(name);
      }
      const target = next.pop();
      if (target !== undefined) {
        if (!index.has(target)) {
          work.push({ name: target, next: [...(edges.get(target)?.keys() ?? [])] });
        } else if (onStack.has(target)) {
          low.set(name, Math.min(low.get(name)!, index.get(target)!));
        }
        continue;
      }
      work.pop();
      const parent = work.at(-1)?.name;
      if (parent !== undefined) low.set(parent, Math.min(low.get(parent)!, low.get(name)!));
      if (low.get(name) !== index.get(name)) continue;
      const component = stack.splice(stack.lastIndexOf(name));
      for (const member of component) onStack.delete(member);
      if (component.length > 1) cycles.push(component);
    }
  }
  return cycles;
}

export function withoutCycles(edges: Edges, cycles: readonly (readonly string[])[]): Edges {
  const groupOf = new Map(cycles.flatMap((cycle) => cycle.map((name) => [name, cycle] as const)));
  return new Map(
    [...edges].map(([name, needs]) => {
      const group = groupOf.get(name);
      const kept = [...needs].filter(([target]) => group?.includes(target) !== true);
      return [name, new Map(kept)] as const;
    }),
  );
}

export function cycleError(edges: Edges, cycles: readonly (readonly string[])[]): KilnError {
  const lines = cycles.flatMap((cycle) =>
    cycle.flatMap((name) =>
      [...(edges.get(name) ?? [])]
        .filter(([target]) => cycle.includes(target))
        .map(([target, what]) => `  ${name} needs ${what.join(', ')} of ${target}`),
    ),
  );
  return new KilnError('E_CHAIN_CYCLE', `these packages need each other:\n${lines.join('\n')}`, {
    hint: '--recurse builds them first with what the repositories have, then with each other; or build one of them without the requirement (--without, -D)',
    details: { cycles },
  });
}

export class Order {
  readonly #members: readonly Progress[];
  readonly #results: Results;
  #findings = 0;
  #known: { readonly of: string; readonly edges: Edges } | undefined;
  #cycles: { readonly of: Edges; readonly cycles: readonly string[][] } | undefined;

  constructor(members: readonly Progress[], results: Results) {
    this.#members = members;
    this.#results = results;
  }

  learn(): void {
    this.#findings++;
  }

  edges(): Edges {
    const of = `${this.#results.revision} ${this.#findings}`;
    if (this.#known?.of === of) return this.#known.edges;
    const nodes = this.#members.map(({ name, requires, scan }) => ({
      name,
      requires,
      provides: this.#results.providesOf(name) ?? scan.provides,
    }));
    this.#known = { of, edges: edgesOf(nodes) };
    return this.#known.edges;
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

  /** Whether there is a newer package that the member requires; in a cycle, one build with the others is enough. */
  isOutdated({ name, uses, requires, doneIn }: Progress): boolean {
    const edges = this.edges();
    if (this.#cycles?.of !== edges) this.#cycles = { of: edges, cycles: findCycles(edges) };
    const cycle = this.#cycles.cycles.find((members) => members.includes(name)) ?? [];
    const settled = new Set([name, ...cycle.filter((member) => uses.includes(member))]);
    return this.#results.hasNewer(doneIn, requires, settled);
  }
}

export class Progress {
  readonly member: Member;
  readonly directory: HeldPath;
  readonly scan: Scan;
  state: MemberState = 'waiting';
  reason: string | undefined;
  requires: readonly string[];
  uses: readonly string[] = [];
  packages: ChainMemberReport['packages'] = [];
  durationMs = 0;
  report: BuildReport | undefined;
  failedIn: { readonly generation: number; readonly failure: KilnError } | undefined;
  doneIn = -1;
  /** It was built once more because newer packages came that it requires; there is no third time. */
  again = false;
  exitStatus = 0;

  constructor(member: Member, scan: Scan, resultDirectory: HeldPath) {
    this.member = member;
    this.scan = scan;
    this.requires = scan.requires;
    this.directory = below(resultDirectory, member.name);
  }

  get name(): string {
    return this.member.name;
  }

  get isDone(): boolean {
    return this.state === 'built' || this.state === 'unchanged';
  }

  get isLost(): boolean {
    return this.state === 'failed' || this.state === 'skipped';
  }

  remember({ requires, uses }: MemberRecord): void {
    this.requires = requires;
    this.uses = uses;
  }

  finish(record: MemberRecord, generation: number, report: BuildReport | undefined): void {
    this.remember(record);
    this.packages = record.packages;
    this.durationMs = record.durationMs;
    this.doneIn = generation;
    this.failedIn = undefined;
    this.report = report;
  }

  describe(edges: Edges): ChainMemberReport {
    const { name, state, reason, packages, durationMs, report } = this;
    const needs = [...(edges.get(name) ?? [])];
    return {
      ...{ name, state, reason, packages, durationMs, report },
      source: this.member.path,
      needs: needs.map(([member, capabilities]) => ({ member, capabilities })),
      resultDirectory: this.directory,
    };
  }
}
