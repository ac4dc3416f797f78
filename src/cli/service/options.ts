import type { Option } from 'commander';
import { defined, some } from '../../defined.ts';
import { needed } from '../../options/kind.ts';
import { size } from '../../options/numbers.ts';
import { type LimitValues, SANDBOX_LIMITS } from '../../options/sandbox.ts';
import { keysOfValues } from '../../options/yaml.ts';
import { parseLabelRequest } from '../../sandbox/policy/label-request.ts';
import {
  parseNetwork,
  parsePublish,
  type ServiceFile,
} from '../../service/definition/definition.ts';
import type { KilnCommand } from '../options/command.ts';
import { addOptions, parsed, repeated } from '../options/shared-options.ts';

export function publishOption(description: string): Option {
  return repeated('-p, --publish <[addr:]port:port>', description, (text) => {
    needed(parsePublish(text), 'write it as [ADDRESS:]HOSTPORT:PORT, as 8081:80; TCP only.');
    return text;
  });
}

export function networkOption(description: string): Option {
  const how = 'write it as NAME,dhcp or NAME,address=192.168.122.7/24,gateway=192.168.122.1.';
  return parsed('-N, --network <name[,option…]>', description, (text) =>
    needed(parseNetwork(text), how),
  );
}

export function labelOption(): Option {
  const description =
    'choose the SELinux or AppArmor label: auto, dynamic[:LABEL], static:LABEL, inherit or none';
  return parsed('-s, --label <label>', description, (text) => {
    parseLabelRequest(text);
    return text;
  });
}

export interface SettingValues extends LimitValues {
  readonly disk?: number;
  readonly workdir?: string;
  readonly health?: string;
  readonly publish: readonly string[];
}

export function addSettingOptions(command: KilnCommand): KilnCommand {
  command
    .option(
      '--health <check>',
      'check health by this command in the service, or by an HTTP request to :PORT/PATH',
    )
    .option('--workdir <dir>', 'start the command in this directory of the sandbox');
  return addOptions(command, SANDBOX_LIMITS).option(
    '--disk <size>',
    'limit the size of each of /tmp, /run and the like',
    size.read,
  );
}

export function givenSettings(values: SettingValues): Partial<ServiceFile> {
  const { disk, workdir, health, publish } = values;
  return {
    ...defined({ ...keysOfValues(SANDBOX_LIMITS, values), disk, workdir }),
    ...defined({ health: health === undefined ? undefined : healthCheck(health) }),
    ...defined({ publish: some(publish) }),
  };
}

/** `:80/path` is HTTP; anything else is a command line for the service's shell. */
function healthCheck(text: string): NonNullable<ServiceFile['health']> {
  return /^:\d/.test(text) ? { http: text } : { command: ['/bin/sh', '-c', text] };
}
