/** The graph of a chain, drawn. dagre (https://github.com/dagrejs/dagre) finds the places of nodes and edges. */
import { Graph, layout } from '@dagrejs/dagre';
import { duration, type Html, html } from './html.ts';

/** Finding the places of so many takes about half a second; a person sees nothing in a larger drawing. */
const DRAWN_MAX = 200;

const NODE = { width: 152, height: 40 };
/** Characters of a name that fit into a node. */
const NAME_MAX = 21;

/** What is drawn of a member of a chain. */
interface GraphMember {
  readonly name: string;
  readonly state: string;
  readonly needs: readonly { readonly member: string }[];
  readonly tookMs: number;
  readonly page: string | undefined;
}

type Needs = ReadonlyMap<string, readonly string[]>;

export function needsOf(members: readonly GraphMember[]): Needs {
  const names = new Set(members.map(({ name }) => name));
  return new Map(
    members.map(({ name, needs }) => {
      const others = needs.map(({ member }) => member);
      return [name, [...new Set(others)].filter((other) => other !== name && names.has(other))];
    }),
  );
}

/** All that each member needs, directly or through others. */
function reachOf(needs: Needs): Map<string, Set<string>> {
  const reach = new Map<string, Set<string>>();
  for (const name of needs.keys()) {
    const seen = new Set<string>();
    const open = [...(needs.get(name) ?? [])];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (seen.has(next)) continue;
      seen.add(next);
      open.push(...(needs.get(next) ?? []));
    }
    reach.set(name, seen);
  }
  return reach;
}

/** Without needs that others imply: with `app → lib → base`, `app → base` says nothing new. */
function reduced(needs: Needs): Needs {
  const reach = reachOf(needs);
  const implied = (name: string, target: string) =>
    needs
      .get(name)
      ?.some((other) => reach.get(other)?.has(target) && !reach.get(other)?.has(name)) === true;
  return new Map(
    [...needs].map(([name, all]) => [name, all.filter((target) => !implied(name, target))]),
  );
}

/** Each after all that it needs, except where members need each other. Not recursive, because a chain may be long. */
function inOrder(needs: Needs): string[] {
  const order: string[] = [];
  const begun = new Set<string>();
  for (const root of needs.keys()) {
    const open = begun.has(root) ? [] : [{ name: root, left: [...(needs.get(root) ?? [])] }];
    begun.add(root);
    for (let top = open.at(-1); top !== undefined; top = open.at(-1)) {
      const next = top.left.pop();
      if (next === undefined) order.push(open.pop()?.name ?? root);
      else if (!begun.has(next)) {
        begun.add(next);
        open.push({ name: next, left: [...(needs.get(next) ?? [])] });
      }
    }
  }
  return order;
}

/**
 * The members that took the longest one after the other, first to last: with any number of machines the chain takes
 * as long.
 */
export function criticalPath(
  members: readonly GraphMember[],
  needs: Needs,
): { readonly names: readonly string[]; readonly durationMs: number } {
  const took = new Map(members.map(({ name, tookMs }) => [name, tookMs]));
  const best = new Map<string, { readonly ms: number; readonly after: string | undefined }>();
  const msOf = (name: string) => best.get(name)?.ms ?? 0;
  for (const name of inOrder(needs)) {
    const known = (needs.get(name) ?? []).filter((other) => msOf(other) > 0);
    const [after] = known.sort((a, b) => msOf(b) - msOf(a));
    best.set(name, {
      ms: (took.get(name) ?? 0) + (after === undefined ? 0 : msOf(after)),
      after,
    });
  }
  const [last] = [...best.keys()].sort((a, b) => msOf(b) - msOf(a));
  const names: string[] = [];
  for (let at = last; at !== undefined; at = best.get(at)?.after) {
    if ((took.get(at) ?? 0) > 0) names.unshift(at);
  }
  return { names, durationMs: last === undefined ? 0 : msOf(last) };
}

/** What is needed stands left of what needs it. @returns undefined for more than a person can see */
export function drawing(
  members: readonly GraphMember[],
  needs: Needs,
  critical: readonly string[],
): Html | undefined {
  if (members.length > DRAWN_MAX) return undefined;
  // Names are a stranger's: dagre gets numbers.
  const keys = new Map(members.map(({ name }, at) => [name, String(at)]));
  const key = (name: string) => keys.get(name) ?? '';
  const graph = new Graph<{ width?: number; height?: number }>();
  graph.setGraph({
    rankdir: 'LR',
    nodesep: 10,
    edgesep: 6,
    ranksep: 36,
    marginx: 8,
    marginy: 8,
  } as object);
  for (const { name } of members) graph.setNode(key(name), { ...NODE });
  for (const [name, others] of reduced(needs))
    for (const other of others) graph.setEdge(key(other), key(name), {});
  layout(graph);
  const { width = 0, height = 0 } = graph.graph() ?? {};
  const places = new Map(critical.map((name, index) => [key(name), index]));
  const pairs = graph.edges() as readonly { readonly v: string; readonly w: string }[];
  const edges = pairs.map(({ v, w }) => {
    const { points = [] } = graph.edge({ v, w }) as { points?: { x: number; y: number }[] };
    const path = points.map(({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`).join(' ');
    const isCritical = places.has(v) && places.has(w);
    return html`<polyline points="${path}" class="edge ${isCritical ? 'critical' : ''}" data-from="${v}" data-to="${w}" marker-end="url(#arrow)"/>`;
  });
  const nodes = members.map((member) => {
    const { x, y } = graph.node(key(member.name)) as { x: number; y: number };
    return node(member, key(member.name), x - NODE.width / 2, y - NODE.height / 2, places);
  });
  return html`<div class="graph" tabindex="0" role="group" aria-label="the graph, which scrolls"><svg width="${Math.ceil(width)}" height="${Math.ceil(height)}" viewBox="0 0 ${Math.ceil(width)} ${Math.ceil(height)}" role="img" aria-label="what needs what">
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>
${edges}
${nodes}
</svg></div>`;
}

function node(
  member: GraphMember,
  key: string,
  x: number,
  y: number,
  critical: ReadonlyMap<string, number>,
): Html {
  const { name, state, tookMs, page } = member;
  const shown = name.length > NAME_MAX ? `${name.slice(0, NAME_MAX - 1)}…` : name;
  const time = tookMs > 0 ? `, ${duration(tookMs)}` : '';
  const inside = html`<title>${name}</title><rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${NODE.width}" height="${NODE.height}" rx="6"/><text x="${(x + 10).toFixed(1)}" y="${(y + 16).toFixed(1)}">${shown}</text><text class="quiet" x="${(x + 10).toFixed(1)}" y="${(y + 32).toFixed(1)}">${state}${time}</text>`;
  return html`<g class="node ${state} ${critical.has(key) ? 'critical' : ''}" data-node="${key}">${page === undefined ? inside : html`<a href="${page}">${inside}</a>`}</g>`;
}
