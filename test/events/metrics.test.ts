/** What `kiln metrics` tells, and that the dashboard asks for nothing else. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { metricsOf } from '../../src/cli/metric-families.ts';
import type { KilnEvent } from '../../src/events/event.ts';
import { writeEvent } from '../../src/events/event-log.ts';
import { eventTotals } from '../../src/events/totals.ts';
import { writeCounters } from '../../src/host/state/counters.ts';
import { makeRunFolder, type StatePaths, statePaths } from '../../src/host/state/paths.ts';

const DASHBOARD = join(import.meta.dirname, '../../units/grafana-kiln.json');
const NOWHERE = '/nonexistent/journal';

function state(t: ExecutionContext): StatePaths {
  const root = mkdtempSync(join(tmpdir(), 'kiln-metrics-'));
  const paths = statePaths({ KILN_STATE: root });
  makeRunFolder(paths);
  t.teardown(() => {
    for (const folder of [root, paths.run]) rmSync(folder, { recursive: true, force: true });
  });
  return paths;
}

function ended(id: number, more: Partial<KilnEvent> = {}): KilnEvent {
  return {
    ...{ event: 'end', id: String(id).padStart(10, '0'), time: new Date(id).toISOString() },
    ...{ uid: 0, user: 'root', command: 'run', by: 'command', outcome: 'ended', status: 0 },
    duration: 20,
    ...more,
  };
}

/** A line of a sample: https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details */
const SAMPLE =
  /^(?<name>[a-zA-Z_:][\w:]*)(?:\{(?<labels>(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (?<value>-?[\d.]+(?:e[+-]?\d+)?|[+-]Inf|NaN)$/;

interface Family {
  readonly type: string;
  readonly samples: ReadonlyMap<string, number>;
}

/** Refuses what Prometheus would not read: lines of no form, families in pieces, samples that come twice. */
function parsed(text: string): Map<string, Family> {
  const families = new Map<string, { type: string; samples: Map<string, number> }>();
  let open = '';
  if (!text.endsWith('\n')) throw new Error('the last line has no end');
  for (const line of text.slice(0, -1).split('\n')) {
    const [, kind, name = '', rest = ''] = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line) ?? [];
    if (kind === 'HELP') {
      if (families.has(name)) throw new Error(`${name} is there twice`);
      families.set(name, { type: '', samples: new Map() });
      open = name;
      continue;
    }
    const family = families.get(open)!;
    if (kind === 'TYPE') {
      if (name !== open || !['gauge', 'counter', 'histogram'].includes(rest)) throw new Error(line);
      family.type = rest;
      continue;
    }
    const sample = SAMPLE.exec(line)?.groups;
    if (sample === undefined) throw new Error(`no sample: ${line}`);
    const suffixes = family.type === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
    if (!suffixes.some((suffix) => sample.name === `${open}${suffix}`)) throw new Error(line);
    if (family.type === 'counter' && !open.endsWith('_total')) throw new Error(line);
    const key = `${sample.name}{${sample.labels ?? ''}}`;
    if (family.samples.has(key)) throw new Error(`${key} is there twice`);
    family.samples.set(key, Number(sample.value!.replace('Inf', 'Infinity')));
  }
  return families;
}

test('metrics count commands, failures, limits and hosts, and how long commands took', async (t) => {
  const paths = state(t);
  const write = (event: KilnEvent) => writeEvent(paths, event, { journal: NOWHERE });
  write(ended(1));
  write(ended(2, { duration: 700, outcome: 'failed', code: 'E_TIMEOUT', limit: 'timeout' }));
  write(ended(3, { uid: 1000, duration: 9e6 }));
  write(ended(4, { event: 'refused', code: 'E_FORBIDDEN' }));
  write(ended(5, { event: 'egress', host: 'a.example', decision: 'denied', count: 3 }));
  // A caller's own words make no family, label or line.
  write(ended(6, { command: 'x"} 1\nkiln_evil 1', code: '"evil"' }));
  writeCounters(paths, 'claims', { taken: 5, missed: 2 });
  const families = parsed(await metricsOf(paths));
  const value = (name: string, labels: string) =>
    families.get(name)?.samples.get(`${name}${labels}`);
  t.is(value('kiln_commands_total', '{command="run",outcome="ended"}'), 2);
  t.is(value('kiln_commands_total', '{command="run",outcome="failed"}'), 1);
  t.is(value('kiln_failures_total', '{code="E_TIMEOUT"}'), 1);
  t.is(value('kiln_limits_total', '{limit="timeout"}'), 1);
  t.is(value('kiln_refusals_total', '{code="E_FORBIDDEN"}'), 1);
  t.is(value('kiln_egress_total', '{decision="denied"}'), 3);
  t.is(value('kiln_parked_claims_total', '{result="missed"}'), 2);
  t.is(value('kiln_libvirtd_up', '{}'), 0);
  t.true(value('kiln_disk_free_bytes', '{}')! > 0);
  const times = families.get('kiln_command_duration_seconds')!.samples;
  const bucket = (le: string) =>
    times.get(`kiln_command_duration_seconds_bucket{command="run",le="${le}"}`);
  t.deepEqual(['0.01', '0.025', '0.5', '1', '7200', '+Inf'].map(bucket), [0, 1, 1, 2, 2, 3]);
  t.is(times.get('kiln_command_duration_seconds_count{command="run"}'), 3);
  t.is(times.get('kiln_command_duration_seconds_sum{command="run"}'), 9000.72);
});

test('counters do not fall when files of events are rotated', (t) => {
  const paths = state(t);
  const options = { bytes: 4000, journal: NOWHERE };
  for (let n = 1; n <= 200; n++) {
    writeEvent(paths, ended(n), options);
    if (n % 20 !== 0) continue;
    const { commands, durations } = eventTotals(paths);
    t.deepEqual(commands, { 'run ended': n });
    t.is(durations.run?.[1], n);
  }
});

test('damaged totals count as none', (t) => {
  const paths = state(t);
  mkdirSync(join(paths.root, 'events'));
  for (const text of [
    '',
    'null',
    '[1',
    '{"commands":{"run ended":"many"},"durations":{"run":[1]}}',
  ]) {
    writeFileSync(join(paths.root, 'events/0.totals.json'), text);
    writeEvent(paths, ended(1), { journal: NOWHERE });
    t.regex(JSON.stringify(eventTotals(paths).commands), /^\{"run ended":\d\}$/);
  }
});

interface Dashboard {
  readonly panels: readonly {
    readonly id: number;
    readonly title: string;
    readonly targets: readonly { readonly expr: string }[];
  }[];
}

test('the dashboard asks for metrics that there are, by labels that they have', async (t) => {
  const paths = state(t);
  const write = (event: KilnEvent) => writeEvent(paths, event, { journal: NOWHERE });
  write(ended(1, { outcome: 'failed', code: 'E_TIMEOUT', limit: 'timeout' }));
  write(ended(2, { event: 'refused', code: 'E_FORBIDDEN' }));
  write(ended(3, { event: 'egress', decision: 'denied' }));
  const families = parsed(await metricsOf(paths));
  const labelsOf = new Map(
    [...families].map(([name, { samples }]) => [
      name,
      new Set(
        [...samples.keys()].flatMap((key) => [...key.matchAll(/(\w+)="/g)].map(([, l]) => l)),
      ),
    ]),
  );
  const { panels } = JSON.parse(readFileSync(DASHBOARD, 'utf8')) as Dashboard;
  t.is(new Set(panels.map(({ id }) => id)).size, panels.length);
  const source = readFileSync(
    join(import.meta.dirname, '../../src/cli/metric-families.ts'),
    'utf8',
  );
  const expressions = panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));
  for (const expr of expressions) {
    const [name = ''] = /kiln_\w+/.exec(expr) ?? [];
    const family = name.replace(/_(?:bucket|sum|count)$/, '');
    // This state has no service and no daemon: theirs are named in the source alone.
    const told = /^kiln_(?:service|daemon)_/.test(family);
    const own = family.replace(/^kiln_(?:service_(?!up))?/, '');
    t.true(told ? source.includes(`'${own}'`) : families.has(family), `${expr}: ${family}`);
    const by = [...expr.matchAll(/by \(([^)]*)\)|\{(\w+)=/g)].flatMap(([, a, b]) => a ?? b ?? []);
    if (!told)
      for (const label of by) t.true(labelsOf.get(family)?.has(label), `${expr}: ${label}`);
  }
});

/** promtool is no part of what the tests install: where somebody has it, it is asked. */
test('promtool takes the metrics and the queries, where there is one', async (t) => {
  const found = await execa('promtool', ['--version'], { reject: false });
  if (found.failed) {
    t.pass('no promtool here: the strict reader above has read the same text');
    return;
  }
  const paths = state(t);
  writeEvent(paths, ended(1, { code: 'E_TIMEOUT', limit: 'timeout' }), { journal: NOWHERE });
  const input = await metricsOf(paths);
  const metrics = await execa('promtool', ['check', 'metrics'], {
    input,
    reject: false,
    all: true,
  });
  t.is(metrics.exitCode, 0, metrics.all);
  const { panels } = JSON.parse(readFileSync(DASHBOARD, 'utf8')) as Dashboard;
  const rules = panels
    .flatMap(({ targets }) => targets)
    .map(({ expr }, at) => ({ record: `r${at}`, expr }));
  const file = join(paths.root, 'rules.yml');
  writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }));
  const checked = await execa('promtool', ['check', 'rules', file], { reject: false, all: true });
  t.is(checked.exitCode, 0, checked.all);
});
