/** Commands that DAGMan runs before and after a step, and what workers advertise. */
import type { Stats } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Command } from 'commander';
import { DIGEST_DIGITS } from '../../farm/dag.ts';
import { prepareStep } from '../../farm/prepare.ts';
import { publishStep } from '../../farm/publish.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { visibleImages } from '../../image/store/images.ts';
import { findContents } from '../../image/store/manifest.ts';
import type { Engine } from '../../sandbox/open.ts';
import { allowedMissing, OPTIONAL_LAYERS, whyUnavailable } from '../../sandbox/policy/layers.ts';
import type { Caller } from '../caller/caller.ts';
import { admitWorker } from '../users/user-guard.ts';

/** How many packages a worker advertises, the last used ones. Several daemons hold a ClassAd in memory. */
const PACKAGES = 4000;

export function prepareCommand(caller: Caller): Command {
  return new Command('prepare')
    .description('Write the plan of a step, before it is submitted.')
    .argument('<dir>')
    .argument('<step>')
    .action(async (directory: string, node: string) => {
      caller.exitStatus = await prepareStep(directory, node, allowedMissing(caller.env));
    });
}

export function publishCommand(caller: Caller): Command {
  return (
    new Command('publish')
      .description('Take the results of a step that has ended.')
      .argument('<dir>')
      .argument('<step>')
      .argument('<status>', 'what the step ended with')
      // A signal's number is negative.
      .allowUnknownOption()
      .action(async (directory: string, node: string, status: string) => {
        caller.exitStatus = await publishStep(directory, node, Number(status), caller.ids);
      })
  );
}

export function advertiseCommand(caller: Caller): Command {
  return new Command('advertise')
    .description('Print what this machine offers, as attributes for HTCondor’s startd.')
    .addHelpText('after', '\nExamples:\n  kiln farm advertise')
    .action(async () => {
      admitWorker('farm advertise', caller.user);
      await using engine = caller.openEngine({ hurry: true });
      const images = (await visibleImages(engine)).map(({ manifest }) => manifest.id);
      const layers = OPTIONAL_LAYERS.filter((layer) => whyUnavailable(layer) === undefined);
      const list = (values: readonly string[]) => JSON.stringify(values.join());
      const short = (digests: readonly string[]) =>
        list(digests.map((digest) => digest.slice(0, DIGEST_DIGITS)));
      caller.stdout.say(
        [
          `KilnVersion = ${JSON.stringify(KILN_VERSION)}`,
          `KilnLayers = ${list(layers)}`,
          `KilnImages = ${short(images)}`,
          `KilnPackages = ${short(await newest(engine.paths.packages, packagesOf(engine, images)))}`,
          '',
        ].join('\n'),
      );
    });
}

/** The digests of the packages of images, as folders of the store have them. */
function packagesOf({ paths }: Pick<Engine, 'paths'>, images: readonly string[]): Set<string> {
  const packages = images.flatMap((id) => findContents(paths, id).value?.packages ?? []);
  return new Set(packages.map(({ digest }) => digest.replace(/^sha256:/, '')));
}

/** The names in a folder of unpacked packages that are among `wanted`, newest first. */
async function newest(folder: string, wanted: ReadonlySet<string>): Promise<string[]> {
  const names = (await readdir(folder).catch(() => [])).filter((name) => wanted.has(name));
  if (names.length <= PACKAGES) return names;
  const entries: { readonly name: string; readonly stats: Stats }[] = [];
  for (const name of names) {
    const stats = await stat(join(folder, name)).catch(() => undefined);
    if (stats !== undefined) entries.push({ name, stats });
  }
  entries.sort((a, b) => b.stats.mtimeMs - a.stats.mtimeMs);
  return entries.slice(0, PACKAGES).map(({ name }) => name);
}
