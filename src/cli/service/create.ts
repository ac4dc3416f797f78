import { resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { createService } from '../../service/create.ts';
import { parseNetwork, parsePublish, type ServiceFile } from '../../service/definition.ts';
import { readOldSandbox } from '../../service/old-sandbox-file.ts';
import { readServiceFile } from '../../service/store.ts';
import { openEngine } from '../engine.ts';
import { pickImage } from '../pick-image.ts';
import {
  parseBind,
  parseCount,
  parseCpus,
  parseEnvironment,
  parseRate,
  parseSize,
} from '../values.ts';

interface CreateOptions {
  readonly image?: string;
  readonly unit: readonly string[];
  readonly publish: readonly string[];
  readonly mount: readonly ReturnType<typeof parseBind>[];
  readonly env: readonly (readonly [string, string])[];
  readonly network?: NonNullable<ServiceFile['network']>;
  readonly user?: string;
  readonly package: readonly string[];
  readonly boot?: boolean;
  readonly copy?: boolean;
  readonly imageSize?: number;
  readonly from?: string;
  readonly file?: string;
  readonly label?: string;
  readonly health?: string;
  readonly memory?: number;
  readonly cpus?: number;
  readonly pids?: number;
  readonly ioRead?: number;
  readonly ioWrite?: number;
  readonly json?: boolean;
}

/** An option that may be given several times; values add up. */
export function repeated<Value>(
  flags: string,
  description: string,
  parse: (text: string) => Value,
) {
  return new Option(flags, description)
    .argParser((text: string, before: Value[] | undefined) => [...(before ?? []), parse(text)])
    .default([] as Value[], 'none');
}

function networkOption(text: string): NonNullable<ServiceFile['network']> {
  const network = parseNetwork(text);
  if (network !== undefined) return network;
  throw new InvalidArgumentError(
    'write it as NAME,dhcp or NAME,address=192.168.122.7/24,gateway=192.168.122.1.',
  );
}

/** Keeps the text: it is what goes into service.yaml. */
export function publishText(text: string): string {
  if (parsePublish(text) !== undefined) return text;
  throw new InvalidArgumentError('write it as [ADDRESS:]HOSTPORT:PORT, as 8081:80; TCP only.');
}

const EXAMPLES = `
Examples:
  kiln service create -r debian-apache -u apache2.service --publish 8081:80 apache1
  kiln service create -r debian-mariadb -u mariadb -m /srv/backup:/backup --memory 1G db
  kiln service create --file recipes/services/postgresql.yaml pg
  kiln service create --boot -r debian-systemd -u apache2.service --publish 8081:80 whole
  kiln service create -r debian-minimal --user nobody ticker -- sh -c 'while date; do sleep 9; done'`;

/** `kiln service create`. */
export function createCommand(): Command {
  return new Command('create')
    .description(
      'Make a service: units of an image, or a command, with an /etc and /var of its own.',
    )
    .usage('-r IMAGE {-u UNIT… NAME | NAME -- COMMAND…}')
    .argument('[name]', 'small letters, digits and dashes')
    .argument('[command...]', 'what it runs instead of units')
    .addOption(
      new Option('-r, --image <image>', 'a recipe’s name or path, a lock, or an image id').env(
        'KILN_IMAGE',
      ),
    )
    .addOption(repeated('-u, --unit <unit>', 'a unit of the image, as apache2.service', (t) => t))
    .option('--boot', 'boot the image’s systemd, which runs the units')
    .addOption(
      repeated('-p, --publish <[addr:]port:port>', 'a port of the host that leads in', publishText),
    )
    .addOption(repeated('-m, --mount <src:dst[:ro]>', 'show a folder of the host', parseBind))
    .addOption(repeated('--env <name=value>', 'set a variable', parseEnvironment))
    .addOption(
      new Option(
        '-N, --network <name[,option…]>',
        'an interface on a libvirt network, besides lo: dhcp, or address=IP/PREFIX and gateway=IP; mac=MAC, filter=NAME,filter.VARIABLE=VALUE, peers',
      ).argParser(networkOption),
    )
    .option('--user <user>', 'who runs the command')
    .addOption(
      repeated(
        '-P, --package <package>',
        'a package whose /etc and /var are its own, too',
        (t) => t,
      ),
    )
    .option('-C, --copy', 'with the files that the image has in the packages’ /var')
    .addOption(
      new Option('-i, --image-size <size>', '/var in an ext4 image of this size').argParser(
        parseSize,
      ),
    )
    .option('--health <check>', 'a command in the service, or :PORT/PATH to be asked for by HTTP')
    .option(
      '-s, --label <label>',
      'auto, dynamic[:LABEL], static:LABEL or none, as `kiln run` has it',
    )
    .option('--file <file>', 'a service file to begin with, as recipes/services/apache.yaml')
    .option('--from <file>', 'read a .sandbox file of virt-sandbox-service')
    .addOption(new Option('--memory <size>', 'limit, as 512M').argParser(parseSize))
    .addOption(new Option('--cpus <number>', 'processors’ worth of time').argParser(parseCpus))
    .addOption(new Option('--pids <number>', 'processes and threads').argParser(parseCount))
    .addOption(new Option('--io-read <rate>', 'from each disk a second').argParser(parseRate))
    .addOption(new Option('--io-write <rate>', 'to each disk a second').argParser(parseRate))
    .option('--json', 'what was made, as JSON')
    .addHelpText('after', EXAMPLES)
    .action(create);
}

async function create(
  givenName: string | undefined,
  argv: string[],
  options: CreateOptions,
  it: Command,
): Promise<void> {
  const old = options.from === undefined ? undefined : await readOldSandbox(options.from);
  const name = givenName ?? old?.name ?? it.error('kiln: give the service a name');
  for (const warning of old?.warnings ?? [])
    process.stderr.write(`kiln: ${options.from}: ${warning}\n`);
  const model = options.file === undefined ? undefined : await readServiceFile(options.file);
  await using engine = openEngine();
  const wanted = options.image ?? model?.image;
  await using image = await pickImage(engine, wanted, new AbortController().signal);
  const imageName = wanted ?? image.manifest.id;
  const file: ServiceFile = {
    ...model,
    // A path must mean the same when a supervisor reads it elsewhere.
    image: /[/]|\.ya?ml$|\.json$/.test(imageName) ? resolve(imageName) : imageName,
    ...old?.file,
    ...settings(options, argv),
  };
  const begin = {
    copy: options.copy ?? false,
    ...(options.imageSize === undefined ? {} : { imageSize: options.imageSize }),
  };
  const { files, units, owners } = await createService(engine.paths, name, file, image, begin);
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ name, file: files.definition, units, owners })}\n`);
    return;
  }
  // A systemd in the box does all of it.
  for (const unit of options.boot === true || model?.boot === true ? [] : units) {
    for (const warning of unit.warnings) process.stderr.write(`kiln: ${unit.name}: ${warning}\n`);
  }
  process.stdout.write(`${name}: ${files.definition}\n`);
  for (const { package: owner, paths } of owners) {
    process.stdout.write(`  ${owner}: ${paths.join(', ') || 'nothing below /etc or /var'}\n`);
  }
}

/** What of service.yaml the options say. */
function settings(options: CreateOptions, argv: string[]): Partial<ServiceFile> {
  const { unit, user, env, network, publish, mount, memory, cpus, pids, health, label } = options;
  const { ioRead, ioWrite } = options;
  return {
    ...(options.package.length === 0 ? {} : { packages: [...options.package] }),
    ...(unit.length === 0 ? {} : { units: [...unit] }),
    ...(options.boot === true ? { boot: true } : {}),
    ...(argv.length === 0 ? {} : { command: argv }),
    ...(user === undefined ? {} : { user }),
    ...(env.length === 0 ? {} : { environment: Object.fromEntries(env) }),
    ...(network === undefined ? {} : { network }),
    ...(publish.length === 0 ? {} : { publish: [...publish] }),
    ...(mount.length === 0 ? {} : { mounts: [...mount] }),
    ...(memory === undefined ? {} : { memory }),
    ...(cpus === undefined ? {} : { cpus }),
    ...(pids === undefined ? {} : { pids }),
    ...(ioRead === undefined ? {} : { 'io-read': ioRead }),
    ...(ioWrite === undefined ? {} : { 'io-write': ioWrite }),
    ...(label === undefined ? {} : { label }),
    ...(health === undefined ? {} : { health: healthCheck(health) }),
  };
}

/** `:80/path` is HTTP; anything else a command line for the service's shell. */
export function healthCheck(text: string): NonNullable<ServiceFile['health']> {
  return /^:\d/.test(text) ? { http: text } : { command: ['/bin/sh', '-c', text] };
}
