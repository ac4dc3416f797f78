import { resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { createService } from '../../service/create.ts';
import { parsePublish, type ServiceFile } from '../../service/definition.ts';
import { openEngine } from '../engine.ts';
import { pickImage } from '../pick-image.ts';
import { parseBind, parseCount, parseCpus, parseEnvironment, parseSize } from '../values.ts';

interface CreateOptions {
  readonly image?: string;
  readonly unit: readonly string[];
  readonly publish: readonly string[];
  readonly mount: readonly ReturnType<typeof parseBind>[];
  readonly env: readonly (readonly [string, string])[];
  readonly network: string;
  readonly user?: string;
  readonly memory?: number;
  readonly cpus?: number;
  readonly pids?: number;
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

/** The words of a command: a `--` that sets it off from kiln's own options is none of them. */
export function commandWords(words: readonly string[]): readonly string[] {
  return words[0] === '--' ? words.slice(1) : words;
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
  kiln service create -r debian-minimal --user nobody ticker -- sh -c 'while date; do sleep 9; done'`;

/** `kiln service create`. */
export function createCommand(): Command {
  return new Command('create')
    .description(
      'Make a service: units of an image, or a command, with an /etc and /var of its own.',
    )
    .usage('-r IMAGE {-u UNIT… NAME | NAME -- COMMAND…}')
    .argument('<name>', 'small letters, digits and dashes')
    .argument('[command...]', 'what it runs instead of units')
    .addOption(
      new Option('-r, --image <image>', 'a recipe’s name or path, a lock, or an image id').env(
        'KILN_IMAGE',
      ),
    )
    .addOption(repeated('-u, --unit <unit>', 'a unit of the image, as apache2.service', (t) => t))
    .addOption(
      repeated('-p, --publish <[addr:]port:port>', 'a port of the host that leads in', publishText),
    )
    .addOption(repeated('-m, --mount <src:dst[:ro]>', 'show a folder of the host', parseBind))
    .addOption(repeated('--env <name=value>', 'set a variable', parseEnvironment))
    .option('-N, --network <network>', 'private (only lo), or a libvirt network', 'private')
    .option('--user <user>', 'who runs the command')
    .addOption(new Option('--memory <size>', 'limit, as 512M').argParser(parseSize))
    .addOption(new Option('--cpus <number>', 'processors’ worth of time').argParser(parseCpus))
    .addOption(new Option('--pids <number>', 'processes and threads').argParser(parseCount))
    .option('--json', 'what was made, as JSON')
    .passThroughOptions()
    .addHelpText('after', EXAMPLES)
    .action(create);
}

async function create(name: string, words: string[], options: CreateOptions): Promise<void> {
  const argv = [...commandWords(words)];
  await using engine = openEngine();
  await using image = await pickImage(engine, options.image, new AbortController().signal);
  const imageName = options.image ?? image.manifest.id;
  const file: ServiceFile = {
    image: /[/]|\.ya?ml$|\.json$/.test(imageName) ? resolve(imageName) : imageName,
    ...(options.unit.length === 0 ? {} : { units: [...options.unit] }),
    ...(argv.length === 0 ? {} : { command: argv }),
    ...(options.user === undefined ? {} : { user: options.user }),
    ...(options.env.length === 0 ? {} : { environment: Object.fromEntries(options.env) }),
    ...(options.network === 'private' ? {} : { network: options.network }),
    ...(options.publish.length === 0 ? {} : { publish: [...options.publish] }),
    ...(options.mount.length === 0 ? {} : { mounts: [...options.mount] }),
    ...(options.memory === undefined ? {} : { memory: options.memory }),
    ...(options.cpus === undefined ? {} : { cpus: options.cpus }),
    ...(options.pids === undefined ? {} : { pids: options.pids }),
  };
  const { files, units } = await createService(engine.paths, name, file, image);
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ name, file: files.definition, units })}\n`);
    return;
  }
  for (const unit of units) {
    for (const warning of unit.warnings) process.stderr.write(`kiln: ${unit.name}: ${warning}\n`);
  }
  process.stdout.write(`${name}: ${files.definition}\n`);
}
