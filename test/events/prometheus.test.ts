/** A Prometheus that reads what `kiln metrics` prints, and answers each query of the dashboard from it. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createPort } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import type { KilnEvent } from '../../src/events/event.ts';
import { writeEvent } from '../../src/events/event-log.ts';
import { attempt } from '../../src/host/calls/libc.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { busyboxState } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';

const PATIENCE = Number(process.env.KILN_TEST_PATIENCE ?? 1);
const DASHBOARD = join(import.meta.dirname, '../../units/grafana-kiln.json');
const NOWHERE = '/nonexistent/journal';
const UNTIL_READ = 2;

/** Debian's package `prometheus`; nothing else of kiln needs it. */
const isThere = attempt(() => execFileSync('prometheus', ['--version'])) !== undefined;
const testIfThere = isThere ? test : test.skip;

interface Dashboard {
  readonly panels: readonly { readonly targets: readonly { readonly expr: string }[] }[];
}

/** https://prometheus.io/docs/prometheus/latest/querying/api/ */
interface Answer {
  readonly status: string;
  readonly error?: string;
  readonly data?: {
    readonly result: readonly {
      readonly metric: Readonly<Record<string, string>>;
      readonly value: readonly [number, string];
    }[];
  };
}

async function freePort(): Promise<number> {
  const server = createPort().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

testIfThere('a Prometheus answers each query of the dashboard', async (t) => {
  t.timeout(120_000 * PATIENCE);
  await using state = await busyboxState();
  const paths = statePaths(state.env);
  const about = ['-r', 'busybox', '--health', 'true', 'measured', '--', 'sleep', '999'];
  t.is((await state.kiln(['service', 'create', ...about])).exitCode, 0);
  t.is((await state.kiln(['service', 'start', 'measured'])).exitCode, 0);
  t.teardown(() => state.kiln(['service', 'stop', 'measured']));
  let events = 0;
  const tell = (more: Partial<KilnEvent>) => {
    const id = String(++events).padStart(10, '0');
    const usual = { event: 'end', uid: 0, user: 'root', command: 'tried', by: 'command' } as const;
    const event = { ...usual, id, time: new Date().toISOString(), status: 1, ...more };
    writeEvent(paths, event, { journal: NOWHERE });
  };
  const ended = { outcome: 'failed', code: 'E_TIMEOUT', limit: 'timeout', duration: 40 } as const;
  const server = createServer((_, response) => {
    tell(ended);
    tell({ event: 'refused', code: 'E_FORBIDDEN' });
    tell({ event: 'egress', host: 'a.example', decision: 'denied', count: 3 });
    state.kiln(['metrics']).then(
      ({ stdout }) => {
        response.setHeader('content-type', 'text/plain; version=0.0.4');
        response.end(`${String(stdout)}\n`);
      },
      (error: unknown) => response.destroy(error as Error),
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());

  const folder = mkdtempSync(join(tmpdir(), 'kiln-prometheus-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const target = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const scrape = { job_name: 'kiln', static_configs: [{ targets: [target] }] };
  const global = { scrape_interval: '2s', scrape_timeout: '2s' };
  writeFileSync(
    join(folder, 'prometheus.yml'),
    JSON.stringify({ global, scrape_configs: [scrape] }),
  );
  const at = `127.0.0.1:${await freePort()}`;
  const files = [`--config.file=${folder}/prometheus.yml`, `--storage.tsdb.path=${folder}/data`];
  const own = spawn('prometheus', [...files, `--web.listen-address=${at}`], { stdio: 'ignore' });
  const over = once(own, 'exit');
  t.teardown(async () => {
    own.kill('SIGTERM');
    await over;
  });
  const ask = async (query: string) => {
    const asked = await fetch(`http://${at}/api/v1/query?query=${encodeURIComponent(query)}`);
    return (await asked.json()) as Answer;
  };
  const valuesOf = async (query: string) => (await ask(query)).data?.result ?? [];
  await eventually(async () => {
    const [read] = await valuesOf('sum(count_over_time(up{job="kiln"}[1h])) and min(up) == 1');
    return Number(read?.value[1]) > UNTIL_READ;
  });

  const { panels } = JSON.parse(readFileSync(DASHBOARD, 'utf8')) as Dashboard;
  for (const { expr } of panels.flatMap(({ targets }) => targets)) {
    const { status, error, data } = await ask(expr);
    t.is(status, 'success', `${expr}: ${error}`);
    t.true((data?.result.length ?? 0) > 0, `nothing answers ${expr}`);
  }
  const [up] = await valuesOf('kiln_service_up{service="measured"}');
  t.is(up?.value[1], '1');
  const [median] = await valuesOf(
    'histogram_quantile(0.5, sum by (le) (kiln_command_duration_seconds_bucket{command="tried"}))',
  );
  // Forty milliseconds lie between the bounds of 25 and 50.
  t.true(Number(median?.value[1]) > 0.025 && Number(median?.value[1]) <= 0.05, median?.value[1]);
  const [denied] = await valuesOf('max_over_time(kiln_egress_total{decision="denied"}[1h])');
  t.is(Number(denied?.value[1]) % 3, 0);
  const failures = await valuesOf('increase(kiln_failures_total{code="E_TIMEOUT"}[1h])');
  t.true(Number(failures[0]?.value[1]) > 0);
});
