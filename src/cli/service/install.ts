import { Command } from 'commander';
import { KilnError } from '../../errors.ts';
import { writeUserFile } from '../../host/files/user-file.ts';
import { hasSystemd } from '../../host/libvirt/embedded/systemd.ts';
import {
  cronFile,
  hostUnitName,
  removeHostUnit,
  systemctl,
  UNIT_FOLDER,
  writeHostUnits,
} from '../../service/definition/host-units.ts';
import { readService, serviceFiles } from '../../service/lifecycle/store.ts';
import type { Caller } from '../caller/caller.ts';
import { inTurn } from './for-each.ts';
import { hostInvocation } from './life.ts';

interface InstallOptions {
  readonly directory?: string;
  readonly enable?: boolean;
  readonly cron?: string;
}

/** `kiln service install`. */
export function installCommand(caller: Caller): Command {
  return new Command('install')
    .description(
      'Write systemd units for services, so that they start with the host and systemctl controls them.',
    )
    .argument('[service...]', 'names of services')
    .option('--directory <dir>', 'write the units to this directory, and do not tell systemd')
    .option('--enable', 'start the services with the host, and rotate logs daily')
    .option('--cron <file>', 'write a cron file that rotates logs, instead of units')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln service install --enable apache1 apache2\n  systemctl reload apache2.service       reloads both, if the host has such a unit\n  systemctl stop kiln-services.target    stops all\n  systemctl restart kiln-unit-apache2.target    restarts those that run apache2.service\n  kiln service install --cron /etc/cron.d/kiln',
    )
    .action((names: string[], options: InstallOptions) => install(names, options, caller));
}

async function install(names: string[], options: InstallOptions, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const invocation = hostInvocation(engine.paths, caller);
  if (options.cron !== undefined) {
    writeUserFile(options.cron, cronFile(invocation).text);
    caller.stdout.say(`${options.cron}\n`);
    return;
  }
  if (options.directory === undefined && !hasSystemd()) {
    throw new KilnError('E_NO_SYSTEMD', 'this host does not run systemd', {
      hint: '`kiln service start` needs no systemd; --directory writes the unit files to a directory of yours',
    });
  }
  const services = await Promise.all(names.map((name) => readService(engine.paths, name)));
  const folder = options.directory ?? UNIT_FOLDER.persistent;
  for (const path of await writeHostUnits(services, invocation, folder)) {
    caller.stdout.say(`${path}\n`);
  }
  if (options.directory !== undefined) return;
  await systemctl('daemon-reload');
  if (options.enable !== true) return;
  await systemctl('enable', 'kiln-logrotate.timer', ...names.map(hostUnitName));
  await systemctl('start', 'kiln-logrotate.timer');
}

/** `kiln service uninstall`. */
export function uninstallCommand(caller: Caller): Command {
  return new Command('uninstall')
    .description('Remove the systemd units of services; the services stay.')
    .argument('<service...>', 'names of services')
    .addHelpText('after', '\nExamples:\n  kiln service uninstall apache1')
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
