import { defined, some } from '../../defined.ts';
import { type Kind, text } from '../../options/kind.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { ROOTS } from '../../options/rules.ts';
import { LIMITS, SANDBOX, SANDBOX_LIMITS } from '../../options/sandbox.ts';
import * as texts from '../../options/texts.ts';
import { keysOfValues } from '../../options/yaml.ts';
import {
  type NetworkFile,
  networkFile,
  type ServiceFile,
} from '../../service/definition/definition.ts';

/** As service.yaml has it. */
const ports: Kind<string> = {
  term: '[addr:]port:port',
  read: (word, from) => texts.publish.word?.(texts.publish.read(word, from)),
};

export function publish(help: string) {
  return row(ports, ROOTS, { help, many: true, short: 'p' });
}

const interfaceOf: Kind<NetworkFile> = {
  term: 'name[,option…]',
  read: (word) => networkFile(texts.networkNamed(word)),
};

export function network(help: string) {
  return row(interfaceOf, ROOTS, { help, many: true, short: 'N' });
}

/** What `kiln service set` changes as well. */
export const SETTINGS = {
  health: row(text('check'), ROOTS, {
    help: 'check health by this command in the service, or by an HTTP request to :PORT/PATH',
  }),
  workdir: row(text('dir'), ROOTS, { help: SANDBOX.workdir.help }),
  ...SANDBOX_LIMITS,
  disk: { ...LIMITS.disk, help: 'limit the size of each of /tmp, /run and the like' },
};

type SettingValues = ValuesOf<typeof SETTINGS> & { readonly publish: readonly string[] };

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
