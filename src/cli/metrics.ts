/** `kiln metrics`: the daemon and services in Prometheus' text format (version 0.0.4). */
import { once } from 'node:events';
import { lstatSync } from 'node:fs';
import { createServer } from 'node:http';
import { basename, dirname, join } from 'node:path';
import { KilnError } from '../errors.ts';
import { Folder } from '../host/files/folder.ts';
import type { HeldPath } from '../host/files/held.ts';
import { withUmask } from '../host/process/own-umask.ts';
import { type StatePaths, statePaths } from '../host/state/paths.ts';
import { opened } from '../options/places.ts';
import { row, type ValuesOf } from '../options/row.ts';
import { path, ROOTS } from '../options/rules.ts';
import { type Caller, listenForInterruption, requireHost } from './caller/caller.ts';
import { metricsOf } from './metric-families.ts';
import { KilnCommand } from './options/command.ts';

const TYPE = 'text/plain; version=0.0.4; charset=utf-8';

const METRICS = {
  listen: row(opened<string>('file', path('result')), ROOTS, {
    help: 'serve them by HTTP on this unix socket until interrupted',
  }),
};

export function command(caller: Caller): KilnCommand {
  return new KilnCommand('metrics')
    .description('Print numbers of the daemon, sandboxes and services as Prometheus reads them.')
    .rows(METRICS)
    .examples(
      'kiln metrics >/var/lib/prometheus/node-exporter/kiln.prom',
      'kiln metrics --listen /run/kiln/metrics.sock',
      'curl --unix-socket /run/kiln/metrics.sock http://kiln/metrics',
    )
    .action(async ({ listen }: ValuesOf<typeof METRICS>) => {
      requireHost(caller.env);
      const paths = statePaths(caller.env);
      if (listen === undefined) caller.stdout.say(await metricsOf(paths));
      else await serve(paths, await caller.paths.resultAt(listen), caller);
    });
}

async function serve(paths: StatePaths, path: HeldPath, caller: Caller): Promise<void> {
  // Others may be able to write to the folder: no path is resolved twice, and the socket is made with its mode.
  using folder = Folder.open(dirname(path));
  removeSocket(folder, path);
  const server = createServer((request, response) => {
    if (request.method !== 'GET') {
      response.writeHead(405).end();
      return;
    }
    metricsOf(paths).then(
      (text) => response.writeHead(200, { 'Content-Type': TYPE }).end(text),
      (error: unknown) => response.writeHead(500).end(`${String(error)}\n`),
    );
  });
  using interruption = listenForInterruption(caller);
  withUmask(0o117, () => server.listen(join(folder.path, basename(path))));
  await once(server, 'listening');
  caller.stderr.say(`kiln: metrics are served at ${path}\n`);
  await once(interruption.signal, 'abort');
  server.close();
  server.closeAllConnections();
}

/** What another call has left; nothing else is replaced. */
function removeSocket(folder: Folder, path: string): void {
  const name = basename(path);
  const found = lstatSync(join(folder.path, name), { throwIfNoEntry: false });
  if (found === undefined) return;
  if (found.isSocket()) {
    folder.remove(name);
    return;
  }
  throw new KilnError('E_ARGUMENT', `--listen: ${path} exists and is not a socket`, {
    hint: 'name a file that does not exist',
  });
}
