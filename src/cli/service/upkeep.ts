import { isKilnCode, KilnError } from '../../errors.ts';
import { writeUserFile } from '../../host/files/user-file.ts';
import { hasSystemd } from '../../host/process/process.ts';
import { noting, openImage } from '../../image/open.ts';
import { flag, text } from '../../options/kind.ts';
import * as places from '../../options/places.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { path, ROOTS } from '../../options/rules.ts';
import { allowHost, allowHostWrite, quiet } from '../../options/sandbox.ts';
import { serviceJsonSchema } from '../../service/definition/definition.ts';
import { imageIn } from '../../service/definition/definition-file.ts';
import {
  cronFile,
  hostInvocation,
  hostUnitName,
  removeHostUnit,
  systemctl,
  UNIT_FOLDER,
  writeHostUnits,
} from '../../service/definition/host-units.ts';
import { backupService, restoreService } from '../../service/lifecycle/backup.ts';
import { startSupervisor } from '../../service/lifecycle/start-stop.ts';
import {
  type InstanceFiles,
  instanceFiles,
  readService,
  serviceFiles,
} from '../../service/lifecycle/store.ts';
import { upgradeService } from '../../service/lifecycle/upgrade.ts';
import { listServices } from '../../service/list-services.ts';
import { logrotate } from '../../service/supervisor/supervisor-client.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { inTurn, printSkipped, printWarning } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { withProgress } from '../output/progress.ts';

const LOGROTATE = { force: row(flag, ROOTS, { help: 'rotate even if it is not time' }), quiet };
type LogrotateOptions = ValuesOf<typeof LOGROTATE>;

export function logrotateCommand(caller: Caller): KilnCommand {
  return new KilnCommand('logrotate')
    .description('Run the logrotate of the image in running services, and reload their units.')
    .argument('[service...]', 'services; by default all running ones')
    .rows(LOGROTATE)
    .examples('kiln service logrotate', 'kiln service logrotate --force apache1')
    .action(async (names: string[], options: LogrotateOptions) => {
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
    });
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

const UPGRADE = {
  to: row(places.image, ROOTS, {
    help: 'use this recipe, lock or image id; by default the newest packages for the recipe of the service',
  }),
  allowHost: allowHost(),
  quiet,
};
type UpgradeOptions = ValuesOf<typeof UPGRADE>;

export function upgradeCommand(caller: Caller): KilnCommand {
  return new KilnCommand('upgrade')
    .description('Move services to a new image; move them back if they are not healthy there.')
    .argument('<service...>', 'names of services')
    .rows(UPGRADE)
    .addHelpText(
      'after',
      '\nChanges in /etc are kept as rpm keeps them; kiln lists .rpmnew and .rpmsave files. The data in /var\nis copied first, and restored if the service is not healthy.\n\nExamples:\n  kiln service upgrade apache1\n  kiln service upgrade db --to debian-mariadb.lock.json',
    )
    .action((names: string[], options: UpgradeOptions) =>
      inTurn(names, (name) => upgrade(name, options, caller), caller),
    );
}

async function upgrade(
  name: string,
  { to, allowHost }: UpgradeOptions,
  caller: Caller,
): Promise<void> {
  await using engine = caller.openEngine({ allowHost });
  const { files, definition } = await readService(engine.paths, name);
  const wanted = to ?? imageIn(files.definition, definition.image);
  const update = to === undefined;
  await using image = await withProgress(caller, (onProgress) =>
    noting(caller.storeChanged, () => openImage(engine, wanted, { update, onProgress })),
  );
  const report = await upgradeService(engine.paths, name, image, () =>
    startSupervisor(engine.paths, name, caller.env),
  );
  for (const note of report.notes) caller.stderr.say(`kiln: /etc/${note}\n`);
  const [from = 'an unknown image', now] = [report.from?.slice(0, 12), report.to.slice(0, 12)];
  caller.stdout.say(
    report.changed ? `${name}: ${from} -> ${now}\n` : `${name} is current: ${now}\n`,
  );
}

const BACKUP = {
  output: row(places.opened<string>('file', path('result')), ROOTS, {
    help: 'write to this file: .tar, .tar.gz or .tar.zst',
    short: 'o',
    required: true,
  }),
  hook: row(text('command'), ROOTS, {
    help: 'of a service that runs: have its shell run this first, which makes what is in /var consistent',
  }),
};

export function backupCommand(caller: Caller): KilnCommand {
  return new KilnCommand('backup')
    .description(
      'Write a service with its data to an archive: its definition, /etc, /var, the log.',
    )
    .argument('<service>', 'the name of the service')
    .rows(BACKUP)
    .examples(
      'kiln service stop db; kiln service backup db -o db.tar.zst; kiln service start db',
      'kiln service backup db -o db.tar.zst --hook /etc/before-backup',
    )
    .action(async (name: string, { output, hook }: ValuesOf<typeof BACKUP>) => {
      await using engine = caller.openEngine();
      const file = await caller.paths.resultAt(output);
      printSkipped(await backupService(engine.paths, name, file, hook), caller);
      caller.stdout.say(`${output}\n`);
    });
}

export function restoreCommand(caller: Caller): KilnCommand {
  return new KilnCommand('restore')
    .description(
      'Make a service of an archive that `kiln service backup` wrote; it is not started.',
    )
    .argument('<file>', 'the archive')
    .argument('<service>', 'the name of the service, which does not exist yet')
    .rows({ allowHostWrite: allowHostWrite() })
    .examples('kiln service restore db.tar.zst db', 'kiln service restore db.tar.zst db2')
    .action(async (file: string, name: string, options: { allowHostWrite?: boolean }) => {
      await using engine = caller.openEngine();
      const { image, definition } = await restoreService(
        engine.paths,
        await caller.paths.file(file),
        name,
        {
          allowHostWrite: options.allowHostWrite === true,
          warn: (message) =>
            printWarning({ code: 'restored', message: `${name}: ${message}` }, caller.stderr),
        },
      );
      caller.stdout.say(`${name} is restored from ${file}\n`);
      if (image !== undefined) return;
      caller.stderr.say(
        `kiln: its image is not here: \`kiln service upgrade ${name}\` makes it of ${definition.image}\n`,
      );
    });
}

export function schemaCommand(caller: Caller): KilnCommand {
  return new KilnCommand('schema')
    .description('Print the JSON Schema of service.yaml.')
    .examples('kiln service schema > service.schema.json')
    .action(() => {
      printJson(caller.stdout, serviceJsonSchema(), 2);
    });
}

const INSTALL = {
  directory: row(places.opened<string>('dir', path('results')), ROOTS, {
    help: 'write the units to this folder, and do not tell systemd',
  }),
  enable: row(flag, ROOTS, { help: 'start the services with the host, and rotate logs daily' }),
  cron: row(places.opened<string>('file', path('result')), ROOTS, {
    help: 'write a cron file that rotates logs, instead of units',
  }),
};

export function installCommand(caller: Caller): KilnCommand {
  return new KilnCommand('install')
    .description(
      'Write systemd units for services, so that they start with the host and systemctl controls them.',
    )
    .argument('[service...]', 'names of services')
    .rows(INSTALL)
    .examples(
      'kiln service install --enable apache1 apache2',
      'systemctl stop kiln-services.target          stops all',
      'systemctl restart kiln-unit-apache2.target   restarts those that run it',
      'kiln service install --cron /etc/cron.d/kiln',
    )
    .action(async (names: string[], options: ValuesOf<typeof INSTALL>) => {
      await using engine = caller.openEngine();
      const invocation = hostInvocation(engine.paths, caller.env);
      if (options.cron !== undefined) {
        writeUserFile(await caller.paths.resultAt(options.cron), cronFile(invocation));
        caller.stdout.say(`${options.cron}\n`);
        return;
      }
      if (options.directory === undefined && !hasSystemd()) {
        throw new KilnError('E_NO_SYSTEMD', 'this host does not run systemd', {
          hint: '`kiln service start` needs no systemd; --directory writes the unit files to a folder of yours',
        });
      }
      const services = await Promise.all(names.map((name) => readService(engine.paths, name)));
      const { directory } = options;
      const own = directory === undefined ? undefined : await caller.paths.results(directory);
      const folder = own ?? UNIT_FOLDER.persistent;
      for (const path of await writeHostUnits(services, invocation, folder)) {
        caller.stdout.say(`${path}\n`);
      }
      if (options.directory !== undefined) return;
      await systemctl('daemon-reload');
      if (options.enable !== true) return;
      await systemctl('enable', 'kiln-logrotate.timer', ...names.map(hostUnitName));
      await systemctl('start', 'kiln-logrotate.timer');
    });
}

export function uninstallCommand(caller: Caller): KilnCommand {
  return new KilnCommand('uninstall')
    .description('Remove the systemd units of services; the services stay.')
    .argument('<service...>', 'names of services')
    .examples('kiln service uninstall apache1')
    .action(async (names: string[]) => {
      await inTurn(names, uninstall, caller);
      if (hasSystemd()) await systemctl('daemon-reload');
    });
}

async function uninstall(name: string, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const known = await removeHostUnit(name, UNIT_FOLDER.persistent);
  // A deleted service may have left its unit; any other unknown name is a mistake.
  if (!known) await serviceFiles(engine.paths, name);
  if (hasSystemd()) await systemctl('disable', hostUnitName(name));
  caller.stdout.say(`${name} ${known ? 'is forgotten' : 'was not installed'}\n`);
}
