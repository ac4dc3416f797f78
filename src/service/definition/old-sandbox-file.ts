import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import { RECIPE_SIZE_LIMIT } from '../../recipe/document.ts';
import { parseUnitFile } from '../unit/unit-file.ts';
import type { ServiceFile } from './definition.ts';

/**
 * The content of a `.sandbox` file of virt-sandbox-service (GVirSandboxConfig's key file, 2011-2018: sections
 * core, identity, mount.N, network.N, security, command, service). It names no image, because it ran the host's
 * own files; its units were links in its private /etc.
 */
export interface OldSandbox {
  readonly name: string | undefined;
  readonly file: Omit<ServiceFile, 'image'>;
  /** Settings without a counterpart, one sentence each. */
  readonly warnings: readonly string[];
}

/** Reads an old file. Throws E_SERVICE_READ, and E_OLD_SANDBOX if it is another kind of file. */
export async function readOldSandbox(path: string): Promise<OldSandbox> {
  let text: string;
  try {
    text = readUserFile(path, RECIPE_SIZE_LIMIT).toString('utf8');
  } catch (cause) {
    throw new KilnError('E_SERVICE_READ', `cannot read ${path}`, {
      cause,
      hint: 'such files lie in /etc/libvirt-sandbox/services',
    });
  }
  const sections = new Map<string, Map<string, string>>();
  for (const { section, key, value } of parseUnitFile(path, text).settings) {
    const values = sections.get(section) ?? new Map<string, string>();
    sections.set(section, values.set(key, unescaped(value)));
  }
  if (!sections.has('core')) {
    throw new KilnError('E_OLD_SANDBOX', `${path} is no file of virt-sandbox-service`, {
      hint: 'they lie in /etc/libvirt-sandbox/services and have a section [core]',
    });
  }
  return translate(sections);
}

/** GKeyFile's escapes. */
function unescaped(value: string): string {
  return value.replace(/\\([sntr\\])/g, (_, letter: string) =>
    letter === '\\' ? '\\' : { s: ' ', n: '\n', t: '\t', r: '\r' }[letter]!,
  );
}

function translate(sections: ReadonlyMap<string, ReadonlyMap<string, string>>): OldSandbox {
  const warnings: string[] = [];
  const get = (section: string, key: string) => sections.get(section)?.get(key);
  const mounts: { source: string; target: string }[] = [];
  for (let index = 0; sections.has(`mount.${index}`); index++) {
    const section = `mount.${index}`;
    const [type = '', source, target] = [
      get(section, 'type'),
      get(section, 'source'),
      get(section, 'target'),
    ];
    if (target === undefined) continue;
    if (/^\/(?:etc|var|run|tmp)$/.test(target)) continue; // every service has its own
    if (type.endsWith('HostBind') && source !== undefined) mounts.push({ source, target });
    else
      warnings.push(
        `${target}: a mount of type ${type.replace('GVirSandboxConfigMount', '')} is left out`,
      );
  }
  const command: string[] = [];
  for (let index = 0; get('command', `argv.${index}`) !== undefined; index++) {
    command.push(get('command', `argv.${index}`) ?? '');
  }
  const networks = [...sections.keys()].filter((section) => /^network\.\d+$/.test(section));
  const network = oldNetwork(get, warnings);
  if (networks.length > 1) warnings.push('only its first network is kept');
  if (get('security', 'label') !== undefined) warnings.push('its security label is left out');
  const target = get('service', 'bootTarget');
  if (target !== undefined) {
    warnings.push(
      `it booted a systemd into ${target}: name the units that it is to run (-u), or boot one (--boot)`,
    );
  }
  const user = get('identity', 'uid');
  return {
    name: get('core', 'name'),
    warnings,
    file: {
      ...(command.length === 0 ? {} : { command }),
      ...(user === undefined || command.length === 0 ? {} : { user }),
      ...(mounts.length === 0 ? {} : { mounts }),
      ...defined({ network }),
    },
  };
}

/** The first network, with its first address and the gateway of its first route. */
function oldNetwork(
  get: (section: string, key: string) => string | undefined,
  warnings: string[],
): ServiceFile['network'] | undefined {
  const name = get('network.0', 'source');
  if (name === undefined) return undefined;
  const mac = get('network.0', 'mac');
  const own = { name, ...defined({ mac }) };
  const address = get('network.0.address.0', 'primary');
  if (address === undefined) {
    return get('network.0', 'dhcp') === 'false' ? { ...own, dhcp: false } : own;
  }
  if (get('network.0.address.1', 'primary') !== undefined)
    warnings.push('only its first address is kept');
  const gateway = get('network.0.route.0', 'gateway');
  return {
    ...own,
    address: `${address}/${get('network.0.address.0', 'prefix') ?? 24}`,
    ...defined({ gateway }),
  };
}
