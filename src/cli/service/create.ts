import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { defined } from '../../defined.ts';
import type { ServiceFile } from '../../service/definition/definition.ts';
import { readServiceFile } from '../../service/definition/definition-file.ts';
import { readOldSandbox } from '../../service/definition/old-sandbox-file.ts';
import { createService } from '../../service/lifecycle/create.ts';
import type { Caller } from '../caller/caller.ts';
import { pickImageFor } from '../images/pick-image.ts';
import { hostWriteOption } from '../options/sandbox-options.ts';
import { parseBind, parseEnvironment, parseSize } from '../options/values.ts';
import { printJson } from '../output/print.ts';
import {
  addSettingOptions,
  givenSettings,
  labelOption,
  networkOption,
  publishOption,
  repeated,
  type SettingValues,
} from './options.ts';

interface CreateOptions extends SettingValues {
  readonly image?: string;
  readonly unit: readonly string[];
  readonly allowHostWrite?: boolean;
  readonly mount: readonly ReturnType<typeof parseBind>[];
  readonly env: readonly (readonly [string, string])[];
  readonly network?: NonNullable<ServiceFile['network']>;
  readonly user?: string;
  readonly hostname?: string;
  readonly package: readonly string[];
  readonly boot?: boolean;
  readonly copy?: boolean;
  readonly imageSize?: number;
  readonly from?: string;
  readonly file?: string;
  readonly label?: string;
  readonly json?: boolean;
}

const EXAMPLES = `
Examples:
  kiln service create -r debian-apache -u apache2.service --publish 8081:80 apache1
  kiln service create -r debian-mariadb -u mariadb -m /srv/backup:/backup --memory 1G db
  kiln service create --file recipes/services/postgresql.yaml pg
  kiln service create --boot -r debian-systemd -u apache2.service --publish 8081:80 whole
  kiln service create -r debian-minimal --user nobody ticker -- sh -c 'while date; do sleep 9; done'`;

/** `kiln service create`. */
export function createCommand(caller: Caller): Command {
  const it = new Command('create')
    .description(
      'Create a service that runs units of an image, or a command, with its own /etc and /var.',
    )
    .usage('-r IMAGE {-u UNIT… NAME | NAME -- COMMAND…}')
    .argument('[name]', 'the name: small letters, digits and dashes')
    .argument('[command...]', 'a command to run instead of units')
    .addOption(
      new Option(
        '-r, --image <image>',
        'use this image: the name or path of a recipe, a lock, or an image id; by default KILN_IMAGE',
      ).default(caller.env.KILN_IMAGE || undefined, 'KILN_IMAGE'),
    )
    .addOption(
      repeated(
        '-u, --unit <unit>',
        'run this unit of the image, such as apache2.service',
        (t) => t,
      ),
    )
    .option('--boot', 'boot systemd of the image, and let it run the units')
    .addOption(publishOption('forward this port of the host to a port of the service'))
    .addOption(
      repeated(
        '-m, --mount <src:dst[:ro]>',
        'bind-mount a host path; z or Z relabels it for SELinux',
        (text) => parseBind(text, caller.cwd()),
      ),
    )
    .addOption(
      repeated('--env <name=value>', 'set an environment variable', (text) =>
        parseEnvironment(text, caller.variable),
      ),
    )
    .addOption(hostWriteOption())
    .addOption(
      networkOption(
        'add an interface on a libvirt network; options: dhcp, or address=IP/PREFIX and gateway=IP; mac=MAC, filter=NAME,filter.VARIABLE=VALUE, peers',
      ),
    )
    .option('--hostname <name>', 'give the service this host name; by default its name')
    .option('--user <user>', 'run the command as this user')
    .addOption(
      repeated(
        '-P, --package <package>',
        'give the service its own copy of the /etc and /var of this package, too',
        (t) => t,
      ),
    )
    .option('-C, --copy', 'copy the files that the image has in /var of these packages')
    .addOption(
      new Option('-i, --image-size <size>', 'keep /var in an ext4 image of this size').argParser(
        parseSize,
      ),
    )
    .addOption(labelOption())
    .option('--file <file>', 'start from this service file, such as recipes/services/apache.yaml')
    .option('--from <file>', 'take settings from a .sandbox file of virt-sandbox-service')
    .option('--json', 'print the new service as JSON')
    .addHelpText('after', EXAMPLES);
  return addSettingOptions(it).action(
    (name: string | undefined, argv: string[], options: CreateOptions) =>
      create(name, argv, options, it, caller),
  );
}

async function create(
  givenName: string | undefined,
  argv: string[],
  options: CreateOptions,
  it: Command,
  caller: Caller,
): Promise<void> {
  const old = options.from === undefined ? undefined : await readOldSandbox(options.from);
  const name = givenName ?? old?.name ?? it.error('kiln: give the service a name');
  for (const warning of old?.warnings ?? [])
    caller.stderr.say(`kiln: ${options.from}: ${warning}\n`);
  const model = options.file === undefined ? undefined : await readServiceFile(options.file);
  await using engine = caller.openEngine();
  const wanted = options.image ?? model?.image;
  await using image = await pickImageFor(caller, engine, wanted);
  const imageName = wanted ?? image.manifest.id;
  const file: ServiceFile = {
    ...model,
    // A supervisor reads the path elsewhere, so make it absolute.
    image: /[/]|\.ya?ml$|\.json$/.test(imageName) ? resolve(imageName) : imageName,
    ...old?.file,
    ...settings(options, argv),
  };
  const begin = {
    copy: options.copy ?? false,
    ...defined({ imageSize: options.imageSize }),
  };
  const { files, units, owners } = await createService(engine.paths, name, file, image, begin);
  if (options.json === true) {
    printJson(caller.stdout, { name, file: files.definition, units, owners });
    return;
  }
  // A systemd in the sandbox supports every setting.
  for (const unit of options.boot === true || model?.boot === true ? [] : units) {
    for (const warning of unit.warnings) caller.stderr.say(`kiln: ${unit.name}: ${warning}\n`);
  }
  caller.stdout.say(`${name}: ${files.definition}\n`);
  for (const { package: owner, paths } of owners) {
    caller.stdout.say(`  ${owner}: ${paths.join(', ') || 'nothing below /etc or /var'}\n`);
  }
}

/** The options as keys of service.yaml. */
function settings(options: CreateOptions, argv: string[]): Partial<ServiceFile> {
  const { unit, user, hostname, env, network, mount, label } = options;
  return {
    ...(options.package.length === 0 ? {} : { packages: [...options.package] }),
    ...(unit.length === 0 ? {} : { units: [...unit] }),
    ...(options.boot === true ? { boot: true } : {}),
    ...(argv.length === 0 ? {} : { command: argv }),
    ...defined({ user, hostname }),
    ...(env.length === 0 ? {} : { environment: Object.fromEntries(env) }),
    ...defined({ network }),
    ...(mount.length === 0 ? {} : { mounts: [...mount] }),
    ...(options.allowHostWrite === true ? { 'allow-host-write': true } : {}),
    ...defined({ label }),
    ...givenSettings(options),
  };
}
