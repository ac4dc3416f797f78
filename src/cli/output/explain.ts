import type { ImageManifest } from '../../image/store/manifest.ts';
import { explainLayers } from '../../jobs/run/explain.ts';
import type { RunRequest } from '../../jobs/run/request.ts';
import type { Engine } from '../../sandbox/open.ts';
import type { Caller } from '../caller/caller.ts';
import { printJson } from './print.ts';
import { printTable } from './table.ts';

/** Prints the planned layers around a command. */
export function printLayers(
  engine: Engine,
  request: RunRequest,
  image: ImageManifest,
  json: boolean,
  caller: Caller,
): void {
  const layers = explainLayers(engine, request, image);
  if (json) printJson(caller.stdout, { planned: layers });
  else {
    const rows = layers.map(({ layer, state, detail }) => [layer, state, detail]);
    printTable(caller.stdout, ['LAYER', 'STATE', 'PLANNED'], rows);
  }
}
