import { type Command, InvalidArgumentError, Option } from 'commander';
import { defined } from '../../defined.ts';
import { parseLabelRequest } from '../../sandbox/labels/request.ts';
import {
  parseNetwork,
  parsePublish,
  type ServiceFile,
} from '../../service/definition/definition.ts';
import type { LimitValues } from '../options/limit-options.ts';
import { parseCount, parseCpus, parseMemory, parseRate, parseSize } from '../options/values.ts';

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

/** `-p, --publish`; the text is kept for service.yaml. */
export function publishOption(description: string): Option {
  return repeated('-p, --publish <[addr:]port:port>', description, (text) => {
    if (parsePublish(text) !== undefined) return text;
    throw new InvalidArgumentError('write it as [ADDRESS:]HOSTPORT:PORT, as 8081:80; TCP only.');
  });
}

/** `-N, --network`. */
export function networkOption(description: string): Option {
  return new Option('-N, --network <name[,option…]>', description).argParser((text) => {
    const network = parseNetwork(text);
    if (network !== undefined) return network;
    throw new InvalidArgumentError(
      'write it as NAME,dhcp or NAME,address=192.168.122.7/24,gateway=192.168.122.1.',
    );
  });
}

/** `-s, --label`; the text is kept. */
export function labelOption(): Option {
  const description =
    'choose the SELinux or AppArmor label: auto, dynamic[:LABEL], static:LABEL, inherit or none';
  return new Option('-s, --label <label>', description).argParser((text) => {
    parseLabelRequest(text);
    return text;
  });
}

/** The settings of `create` and `set`, as commander parses them. */
export interface SettingValues extends Omit<LimitValues, 'timeout' | 'stallTimeout'> {
  readonly workdir?: string;
  readonly health?: string;
  readonly publish: readonly string[];
}

/** Adds the options of both, except `--publish`. */
export function addSettingOptions(command: Command): Command {
  return command
    .option(
      '--health <check>',
      'check health by this command in the service, or by an HTTP request to :PORT/PATH',
    )
    .option('--workdir <dir>', 'start the command in this directory of the sandbox')
    .addOption(new Option('--memory <size>', 'limit memory, such as 512M').argParser(parseMemory))
    .addOption(
      new Option(
        '--cpus <number>',
        'limit processor time to this many CPUs, such as 1.5',
      ).argParser(parseCpus),
    )
    .addOption(
      new Option('--pids <number>', 'limit the number of processes and threads').argParser(
        parseCount,
      ),
    )
    .addOption(
      new Option('--io-read <rate>', 'limit the bytes read per second from each disk').argParser(
        parseRate,
      ),
    )
    .addOption(
      new Option('--io-write <rate>', 'limit the bytes written per second to each disk').argParser(
        parseRate,
      ),
    )
    .addOption(
      new Option('--disk <size>', 'limit the size of each of /tmp, /run and the like').argParser(
        parseSize,
      ),
    );
}

/** The given options as keys of service.yaml. */
export function givenSettings(values: SettingValues): Partial<ServiceFile> {
  const { memory, cpus, pids, ioRead, ioWrite, disk, workdir, health, publish } = values;
  return {
    ...defined({ memory, cpus, pids, 'io-read': ioRead, 'io-write': ioWrite, disk, workdir }),
    ...(health === undefined ? {} : { health: healthCheck(health) }),
    ...(publish.length === 0 ? {} : { publish: [...publish] }),
  };
}

/** `:80/path` is HTTP; anything else is a command line for the service's shell. */
function healthCheck(text: string): NonNullable<ServiceFile['health']> {
  return /^:\d/.test(text) ? { http: text } : { command: ['/bin/sh', '-c', text] };
}
