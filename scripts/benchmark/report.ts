/** Says what was measured: a Markdown table and an SVG plot. */
import type { Figures } from './measure.ts';
import type { Goal } from './row.ts';

export interface Outcome {
  readonly id: string;
  readonly title: string;
  readonly goal: Goal;
  /** What the goal is about: a ratio, milliseconds, or MB. */
  readonly value: number;
  readonly met: boolean;
  readonly sides: readonly Figures[];
}

/** `host`: what it was measured on, and when. */
export type HostedOutcome = Outcome & { readonly host: string };

export function outcomeOf(
  row: { readonly id: string; readonly title: string; readonly goal: Goal },
  sides: readonly Figures[],
): Outcome {
  const [ours, peer] = sides.map((side) => side.median);
  // A side that measured nothing must not look like a goal that is met.
  const [a, b] = [ours ?? Number.NaN, peer ?? Number.NaN];
  const value = { ratio: a / b, extra: a - b, time: a, memory: a }[row.goal.kind];
  const { id, title, goal } = row;
  return { id, title, goal, value: Math.round(value * 1000) / 1000, met: value <= goal.max, sides };
}

function time(milliseconds: number): string {
  return milliseconds < 1000
    ? `${milliseconds.toFixed(milliseconds < 10 ? 2 : 0)} ms`
    : `${(milliseconds / 1000).toFixed(2)} s`;
}

function side({ kind, of }: Goal, figures: Figures | undefined): string {
  if (figures === undefined) return '';
  const { name, median, min, max, runs } = figures;
  const units = { memory: (value: number) => `${value.toFixed(1)} MB`, number: String, time };
  const shown = units[kind === 'memory' ? kind : (of ?? 'time')];
  return `${name}: ${shown(median)} (${shown(min)}–${shown(max)}, n=${runs})`;
}

function amount({ kind }: Goal, value: number): string {
  if (kind === 'ratio') return `${value.toFixed(2)} ×`;
  if (kind === 'memory') return `${value.toFixed(1)} MB`;
  return `${kind === 'extra' ? '+' : ''}${value.toFixed(0)} ms`;
}

/** Median (min–max) of both sides, the ratio or difference of the medians, the goal. */
export function markdownTable(outcomes: readonly Outcome[]): string {
  const lines = outcomes.map(({ title, goal, value, met, sides: [ours, peer] }) =>
    [
      '',
      title,
      side(goal, ours),
      side(goal, peer),
      amount(goal, value),
      `≤ ${amount(goal, goal.max)}`,
      met ? 'met' : '**missed**',
      '',
    ].join(' | '),
  );
  const head = [
    '| what | kiln | held against | measured | goal | |',
    '| --- | --- | --- | --- | --- | --- |',
  ];
  return [...head, ...lines.map((line) => line.trim())].join('\n');
}

/** Hosts, each with the rows that were measured there, as `--only` calls them. */
export function hostsOf(outcomes: readonly HostedOutcome[]): string {
  const hosts = Map.groupBy(outcomes, ({ host }) => host);
  const lines = [...hosts].map(([host, rows]) => {
    const ids = rows.map(({ id }) => `\`${id}\``);
    return `| ${ids.join(', ')} | ${host} |`;
  });
  return ['| rows | host |', '| --- | --- |', ...lines].join('\n');
}

/** One bar a row: how much of its goal it uses up; the line is the goal. */
export function svgPlot(outcomes: readonly Outcome[]): string {
  const [left, width, height] = [330, 420, 24];
  const scale = (part: number) => Math.min(part, 3) * (width / 3);
  const bars = outcomes.map(({ id, goal, value, met }, index) => {
    const y = 30 + index * height;
    const part = Math.max(0, value / goal.max);
    return `<text x="${left - 8}" y="${y + 14}" text-anchor="end">${id}</text>
<rect x="${left}" y="${y}" width="${scale(part).toFixed(1)}" height="16" fill="${met ? '#4a8' : '#c54'}"/>
<text x="${(left + scale(part) + 6).toFixed(1)}" y="${y + 13}">${amount(goal, value).replace('×', '&#215;')}</text>`;
  });
  const bottom = 30 + outcomes.length * height;
  const goalX = left + scale(1);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + 90}" height="${bottom + 10}" font-family="sans-serif" font-size="13" role="img" aria-label="kiln against its peers, each row by its goal">
<rect width="100%" height="100%" fill="white"/>
<text x="${goalX}" y="16" text-anchor="middle">the goal</text>
<line x1="${goalX}" x2="${goalX}" y1="22" y2="${bottom}" stroke="#333" stroke-dasharray="4 3"/>
${bars.join('\n')}
</svg>
`;
}
