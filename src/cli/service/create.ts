import { resolve } from 'node:path';
import { defined, some } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { isImageName } from '../../image/find.ts';
import { size } from '../../options/numbers.ts';
import { allowHost, allowHostWrite, bind, env, image, quiet } from '../../options/sandbox.ts';
import { knownKeys } from '../../recipe/problem.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import { type ServiceFile, serviceSchema } from '../../service/definition/definition.ts';
import { readOldSandbox, readServiceFile } from '../../service/definition/definition-file.ts';
import { changeService } from '../../service/lifecycle/change-service.ts';
import { cloneService, createService } from '../../service/lifecycle/create.ts';
import { instanceFiles, readService } from '../../service/lifecycle/store.ts';
import { suggestion } from '../../suggest.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { RowOption, repeated } from '../options/shared-options.ts';
import { printWarning } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { pickImageFor } from '../output/progress.ts';
import {
  addSettingOptions,
  givenSettings,
  labelOption,
  networkOption,
  publishOption,
  type SettingValues,
} from './options.ts';

interface CreateOptions extends SettingValues {
  readonly image?: string;
  readonly unit: readonly string[];
  readonly allowHost?: boolean;
  readonly allowHostWrite?: boolean;
  readonly mount: readonly Bind[];
  readonly env: Readonly<Record<string, string>>;
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

export function createCommand(caller: Caller): KilnCommand {
  const it = new KilnCommand('create')
    .description(
      'Create a service that runs units of an image, or a command, with its own /etc and /var.',
    )
    .usage('-r IMAGE {-u UNIT… NAME | NAME -- COMMAND…}')
    .argument('[name]', 'the name: small letters, digits and dashes')
    .argument('[command...]', 'a command to run instead of units')
    .addOption(new RowOption('image', image('use'), caller))
    .addOption(
      repeated('-u, --unit <unit>', 'run this unit of the image, such as apache2.service', String),
    )
    .option('--boot', 'boot systemd of the image, and let it run the units')
    .addOption(publishOption('forward this port of the host to a port of the service'))
    .addOption(
      new RowOption(
        'mount',
        {
          ...bind('bind-mount a host path; z or Z relabels it for SELinux'),
          flag: 'mount',
          short: 'm',
          term: 'src:dst[:ro]',
        },
        caller,
      ),
    )
    .addOption(new RowOption('env', env('set an environment variable'), caller))
    .addOption(new RowOption('allowHost', allowHost()))
    .addOption(new RowOption('allowHostWrite', allowHostWrite()))
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
        String,
      ),
    )
    .option('-C, --copy', 'copy the files that the image has in /var of these packages')
    .option('-i, --image-size <size>', 'keep /var in an ext4 image of this size', size.read)
    .addOption(labelOption())
    .option('--file <file>', 'start from this service file, such as recipes/services/apache.yaml')
    .option('--from <file>', 'take settings from a .sandbox file of virt-sandbox-service')
    .option('--json', 'print the new service as JSON')
    .addOption(new RowOption('quiet', quiet))
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
  it: KilnCommand,
  caller: Caller,
): Promise<void> {
  const opened = async (path: string | undefined) =>
    path === undefined ? undefined : await caller.paths.text(path);
  const from = await opened(options.from);
  const old = from === undefined ? undefined : await readOldSandbox(from);
  const name = givenName ?? old?.name ?? it.error('kiln: give the service a name');
  for (const warning of old?.warnings ?? [])
    printWarning({ code: 'old-setting', message: `${options.from}: ${warning}` }, caller.stderr);
  const named = await opened(options.file);
  const model = named === undefined ? undefined : await readServiceFile(named);
  await using engine = caller.openEngine({ allowHost: options.allowHost });
  const wanted = options.image ?? model?.image;
  await using image = await pickImageFor(caller, engine, wanted);
  const imageName = wanted ?? image.manifest.id;
  const file: ServiceFile = {
    ...model,
    // A supervisor reads the path elsewhere, so make it absolute.
    image: isImageName(imageName) ? imageName : resolve(imageName),
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
    for (const warning of unit.warnings) {
      const message = `${unit.name}: ${warning}`;
      printWarning({ code: 'unit-setting', message }, caller.stderr);
    }
  }
  caller.stdout.say(`${name}: ${files.definition}\n`);
  for (const { package: owner, paths } of owners) {
    caller.stdout.say(`  ${owner}: ${paths.join(', ') || 'nothing below /etc or /var'}\n`);
  }
}

function settings(options: CreateOptions, argv: string[]): Partial<ServiceFile> {
  const { unit, user, hostname, env, network, mount, label, allowHostWrite } = options;
  return {
    ...defined({
      packages: some(options.package),
      units: some(unit),
      boot: options.boot,
      command: some(argv),
      user,
      hostname,
      environment: Object.keys(env).length > 0 ? env : undefined,
      network,
      mounts: some(mount),
      'allow-host-write': allowHostWrite,
      label,
    }),
    ...givenSettings(options),
  };
}

interface CloneOptions {
  readonly publish: readonly string[];
  readonly network?: NonNullable<ServiceFile['network']>;
}

export function cloneCommand(caller: Caller): KilnCommand {
  return new KilnCommand('clone')
    .description('Create a service as a copy of a stopped one, including its /etc and /var.')
    .argument('<service>', 'the service to copy')
    .argument('<name>', 'the name of the copy')
    .addOption(publishOption('forward this port of the host to the copy; by default none'))
    .addOption(
      networkOption(
        'choose the network of the copy; by default that of the original, without fixed address, gateway or MAC',
      ),
    )
    .examples('kiln service clone apache1 apache2 --publish 8082:80')
    .action(async (from: string, name: string, { publish, network }: CloneOptions) => {
      await using engine = caller.openEngine();
      const changes = defined({ publish: some(publish), network });
      const left = await cloneService(engine.paths, from, name, changes);
      caller.stdout.say(`${name}: ${instanceFiles(engine.paths, name).definition}\n`);
      if (left.includes('publish')) {
        caller.stderr.say(
          `kiln: ${name} publishes no port: \`kiln service set ${name} --publish PORT:PORT\`\n`,
        );
      }
      const own = left.filter((key) => key !== 'publish');
      if (own.length > 0) {
        caller.stderr.say(
          `kiln: ${name} has not ${from}’s ${own.join(', ')}: DHCP gives it its own, or \`clone -N\`\n`,
        );
      }
    });
}

interface SetOptions extends SettingValues {
  readonly unset: readonly string[];
}

export function setCommand(caller: Caller): KilnCommand {
  const it = new KilnCommand('set')
    .description('Change settings of a service; new limits apply to a running one at once.')
    .argument('<service>', 'the name of the service')
    .addOption(publishOption('replace all published ports by these'))
    .addOption(repeated('--unset <setting>', 'remove a setting, such as memory', String))
    .examples(
      'kiln service set apache1 --memory 256M --cpus 0.5',
      'kiln service set apache1 --unset health',
    );
  return addSettingOptions(it).action(async (name: string, options: SetOptions) => {
    await using engine = caller.openEngine();
    const service = await readService(engine.paths, name);
    const given = givenSettings(options);
    const unset = options.unset.map(settingName);
    const both = unset.find((key) => key in given);
    if (both !== undefined) it.error(`kiln: ${both} can be set or removed, not both`);
    if (Object.keys(given).length + unset.length === 0) {
      it.error(
        `kiln: give a setting to change, such as --memory 256M; or edit ${service.files.definition} and restart it`,
      );
    }
    const nothing = Object.fromEntries(unset.map((key) => [key, null]));
    const { inForce, atRestart } = await changeService(service, { ...given, ...nothing });
    if (inForce.length > 0) caller.stdout.say(`in force: ${inForce.join(', ')}\n`);
    if (atRestart.length > 0) {
      caller.stdout.say(`after \`kiln service restart ${name}\`: ${atRestart.join(', ')}\n`);
    }
  });
}

function settingName(text: string): keyof ServiceFile {
  const known = knownKeys(serviceSchema, []);
  if (known.includes(text)) return text as keyof ServiceFile;
  throw new KilnError('E_ARGUMENT', `there is no setting ${text}`, {
    hint: suggestion(text, known, `there are ${known.join(', ')}`),
  });
}
