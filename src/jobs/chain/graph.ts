import { KilnError } from '../../errors.ts';
import { type Capability, parseCapabilities, provides, showCapability } from './capability.ts';

/** A package of a chain, with what decides the order. */
export interface GraphNode {
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
  const providers = new Map<string, { readonly node: string; readonly capability: Capability }[]>();
  for (const node of nodes) {
    for (const capability of node.provides) {
      const entry = { node: node.name, capability };
      const known = providers.get(capability.name);
      if (known === undefined) providers.set(capability.name, [entry]);
      else known.push(entry);
    }
  }
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

/** Removes the edges inside the cycles: their members are then built in any order. */
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

/** The error for members that need each other, with their requirements. */
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
