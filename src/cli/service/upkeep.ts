import { Command } from 'commander';
import { openImage } from '../../image/open.ts';
import { serviceJsonSchema } from '../../service/definition/definition.ts';
import { logrotate } from '../../service/definition/logrotate.ts';
import { isKilnCode } from '../../service/failure.ts';
import { type InstanceFiles, instanceFiles } from '../../service/instance-files.ts';
import { readService } from '../../service/lifecycle/store.ts';
import { upgradeService } from '../../service/lifecycle/upgrade.ts';
import { listServices } from '../../service/status.ts';
import type { Caller } from '../caller/caller.ts';
import { imageProgress } from '../images/image-progress.ts';
import { printJson } from '../output/print.ts';
import { inTurn } from './for-each.ts';
import { startSupervisor } from './life.ts';

/** `kiln service logrotate`. */
export function logrotateCommand(caller: Caller): Command {
  return new Command('logrotate')
    .description('Run the logrotate of the image in running services, and reload their units.')
    .argument('[service...]', 'services; by default all running ones')
    .option('--force', 'rotate even if it is not time')
    .option('--quiet', 'print only failures')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln service logrotate\n  kiln service logrotate --force apache1',
    )
    .action((names: string[], options: LogrotateOptions) => rotateLogs(names, options, caller));
}

interface LogrotateOptions {
  readonly force?: boolean;
  readonly quiet?: boolean;
}

async function rotateLogs(
  names: string[],
  options: LogrotateOptions,
  caller: Caller,
): Promise<void> {
  await using engine = caller.openEngine();
  const all = names.length === 0;
  const listed = await listServices(engine.paths, names);
  const chosen = listed.filter(({ status }) => !all || status !== undefined);
  await inTurn(
    chosen.map(({ name }) => name),
    async (name) => {
      try {
        await rotateLogsOf(name, instanceFiles(engine.paths, name), options, caller);
      } catch (error) {
        // With `all`, services without logrotate, or that stopped meanwhile, are skipped.
        if (!all || !isKilnCode(error, 'E_NO_LOGROTATE', 'E_SERVICE_STOPPED')) throw error;
        if (options.quiet !== true) caller.stderr.say(`kiln: ${error.message}: left out\n`);
      }
    },
    caller,
  );
}

async function rotateLogsOf(
  name: string,
  files: InstanceFiles,
  options: LogrotateOptions,
  caller: Caller,
): Promise<void> {
  const { exitCode, output, reloaded } = await logrotate(name, files, options);
  if (options.quiet !== true || exitCode !== 0) caller.stderr.say(output);
  if (exitCode !== 0) caller.exitStatus = 1;
  if (options.quiet === true) return;
  const units = reloaded.length === 0 ? '' : `, reloaded ${reloaded.join(', ')}`;
  caller.stdout.say(`${name}: ${exitCode === 0 ? 'rotated' : 'failed'}${units}\n`);
}

/** `kiln service upgrade`. */
export function upgradeCommand(caller: Caller): Command {
  return new Command('upgrade')
    .description('Move services to a new image; move them back if they are not healthy there.')
    .argument('<service...>', 'names of services')
    .option(
      '--to <image>',
      'use this recipe, lock or image id; by default the newest packages for the recipe of the service',
    )
    .addHelpText(
      'after',
      '\nChanges in /etc are kept as rpm keeps them; kiln lists .rpmnew and .rpmsave files. The data in /var\nis copied first, and restored if the service is not healthy.\n\nExamples:\n  kiln service upgrade apache1\n  kiln service upgrade db --to debian-mariadb.lock.json',
    )
    .action((names: string[], { to }: { to?: string }) =>
      inTurn(names, (name) => upgrade(name, to, caller), caller),
    );
}

async function upgrade(name: string, to: string | undefined, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const { definition } = await readService(engine.paths, name);
  await using image = await (async () => {
    using progress = imageProgress(caller.stderr);
    const started = Date.now();
    const wanted = { update: to === undefined, onProgress: progress.report };
    const made = await openImage(engine, to ?? definition.image, wanted);
    if (made.manifest.created >= started) caller.storeChanged();
    return made;
  })();
  const report = await upgradeService(engine.paths, name, image, () =>
    startSupervisor(engine.paths, name, caller),
  );
  for (const note of report.notes) caller.stderr.say(`kiln: /etc/${note}\n`);
  const [from = 'an unknown image', now] = [report.from?.slice(0, 12), report.to.slice(0, 12)];
  caller.stdout.say(
    report.changed ? `${name}: ${from} -> ${now}\n` : `${name} is current: ${now}\n`,
  );
}

/** `kiln service schema`. */
export function schemaCommand(caller: Caller): Command {
  return new Command('schema')
    .description('Print the JSON Schema of service.yaml.')
    .addHelpText('after', '\nExamples:\n  kiln service schema > service.schema.json')
    .action(() => {
      printJson(caller.stdout, serviceJsonSchema(), { indent: 2 });
    });
}
