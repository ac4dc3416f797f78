import { z } from 'zod';
import { defined } from '../../defined.ts';
import { ownPath } from '../../host/files/held.ts';
import { SANDBOX_LIMITS } from '../../options/sandbox.ts';
import * as texts from '../../options/texts.ts';
import { keysOf, size, time, yaml } from '../../options/yaml.ts';
import { ISOLATION } from '../../sandbox/policy/ground-kinds.ts';
import { parseLabelRequest } from '../../sandbox/policy/label-request.ts';
import { ALLOWABLE_LAYERS } from '../../sandbox/policy/layers.ts';
import {
  gatewayRoute,
  isGateway,
  type LibvirtNetwork,
  parseRoute,
  problemOf,
} from '../../sandbox/policy/network.ts';
import {
  type Bind,
  hidingTarget,
  isClosedPlace,
  sharedTarget,
} from '../../sandbox/policy/specification.ts';

const libvirtName = z.string().regex(/^[\w.-]+$/, 'the name of a libvirt network is needed');

/** One, or a list. */
const oneOrList = <Schema extends z.ZodType>(one: Schema) =>
  z.union([one, z.array(one)]).transform((given) => (Array.isArray(given) ? given : [given]));

const networkOptions = z
  .strictObject({
    name: libvirtName.describe('A libvirt network; `virsh net-list` shows them'),
    dhcp: z
      .boolean()
      .optional()
      .describe('The network gives it an IPv4 address: true where no address is given here'),
    address: oneOrList(z.string()).optional().describe('As 192.168.122.7/24; a list of several'),
    gateway: oneOrList(z.string())
      .optional()
      .describe('The way out; a list of one for IPv4 and IPv6'),
    route: oneOrList(z.string())
      .optional()
      .describe('Ways to other networks, as 10.1.0.0/16%10.0.0.1'),
    mac: z
      .string()
      .optional()
      .describe('As 52:54:00:12:34:56; else one of its own, always the same'),
    filter: z.string().optional().describe('A rule set of nwfilter'),
    'filter-parameters': z
      .record(z.string().regex(/^\w+$/), oneOrList(z.string()))
      .optional()
      .describe('Values of its variables; a list where a variable has several'),
    peers: z.boolean().default(false).describe('Other services of the network may reach it'),
  })
  .transform((file, context): LibvirtNetwork => {
    const { name, address: addresses = [], gateway = [], route = [], peers, mac, filter } = file;
    const routes = route.map(
      (text) => parseRoute(text) ?? refuse(context, `${text} is not NETWORK/PREFIX%GATEWAY`),
    );
    const network: LibvirtNetwork = {
      ...{ name, addresses, routes: [...gateway.map(gatewayRoute), ...routes] },
      ...{ dhcp: file.dhcp ?? addresses.length === 0, isolated: !peers },
      ...defined({ mac, filter, filterParameters: file['filter-parameters'] }),
    };
    const problem = problemOf(network);
    if (problem === undefined) return network;
    return refuse(context, problem || 'an address, a name or a value is not written as it must be');
  });

const oneNetwork = z.union([
  libvirtName.transform(
    (name): LibvirtNetwork => ({ name, addresses: [], routes: [], dhcp: true, isolated: true }),
  ),
  networkOptions,
]);

const networkSchema = oneOrList(oneNetwork);

export type NetworkFile = z.input<typeof oneNetwork>;

/** As service.yaml has it. */
export function networkFile(network: LibvirtNetwork): NetworkFile {
  const { name, mac, addresses, routes, dhcp, filter, filterParameters, isolated } = network;
  const texts = routes.map((route) =>
    isGateway(route, 4) || isGateway(route, 6)
      ? { gateway: route.via }
      : { route: `${route.to}%${route.via}` },
  );
  const options = {
    ...(dhcp === (addresses.length === 0) ? {} : { dhcp }),
    ...defined({
      address: oneOrMore(addresses),
      gateway: oneOrMore(texts.flatMap((each) => each.gateway ?? [])),
      route: oneOrMore(texts.flatMap((each) => each.route ?? [])),
      ...{ mac, filter, 'filter-parameters': filterParameters && listsOf(filterParameters) },
      peers: isolated === false ? true : undefined,
    }),
  };
  return Object.keys(options).length === 0 ? name : { name, ...options };
}

/** Of a checked service. */
export function networksFile({ network }: ServiceDefinition): ServiceFile['network'] {
  return typeof network === 'string' ? network : oneOrMore(network.map(networkFile));
}

function listsOf(values: NonNullable<LibvirtNetwork['filterParameters']>) {
  return Object.fromEntries(
    Object.entries(values).map(([name, each]) => [name, oneOrMore(each) ?? []]),
  );
}

/** As files have a list that is short mostly. */
export function oneOrMore<Value>(values: readonly Value[]): Value | Value[] | undefined {
  return values.length > 1 ? [...values] : values[0];
}

/** A service's name: it is also a host name, a folder, and part of a unit's name. */
export const SERVICE_NAME = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

const port = z.coerce.number().int().min(1).max(65535);

function refuse(context: z.RefinementCtx, message: string, ...path: string[]): typeof z.NEVER {
  context.addIssue({ code: 'custom', message, path });
  return z.NEVER;
}

const label = z.string().transform((text, context) => {
  try {
    return parseLabelRequest(text);
  } catch (error) {
    return refuse(context, error instanceof Error ? error.message : '');
  }
});

const absolute = z
  .string()
  .regex(/^\/(?!.*(?:^|\/)\.\.(?:\/|$))[^\0]*$/, 'an absolute path without .. is needed');

const mount = z.strictObject({
  source: absolute.describe('A file or folder of the host'),
  target: absolute.describe('Where it is seen in the service'),
  readonly: z.boolean().default(false).describe('Nothing is written there'),
  image: z
    .literal(true)
    .optional()
    .describe('The source is a file with a file system: its files are seen, and not written to'),
  relabel: z
    .enum(['shared', 'private'])
    .optional()
    .describe(
      'SELinux: its files get the label of all sandboxes, or of this one alone; they keep it',
    ),
});

const tmpfs = z.strictObject({
  target: absolute.describe('Where an empty file system in memory is'),
  size: size.optional().describe('Bytes it may hold; else those of disk'),
});

const guestBind = z.strictObject({
  source: absolute.describe('A file or folder of the service'),
  target: absolute.describe('Where it is seen, too'),
  readonly: z.boolean().default(false).describe('Nothing is written there'),
});

const health = z.strictObject({
  command: z
    .array(z.string())
    .min(1)
    .optional()
    .describe('Run in the service; status 0 is healthy'),
  http: z
    .string()
    .regex(/^:\d{1,5}(?:\/\S*)?$/, 'write it as :PORT/PATH')
    .refine((where) => port.safeParse(/\d+/.exec(where)?.[0]).success, 'a port is 1 to 65535')
    .optional()
    .describe('Asked for inside the service; 200 to 399 is healthy'),
  interval: time.default(10_000).describe('From one look to the next, as 10s'),
  timeout: time.default(5000).describe('How long a look may take'),
  retries: z.int().min(1).max(100).default(3).describe('So many failures in a row are too many'),
  restart: z.boolean().default(true).describe('Restart the service then'),
});

export const serviceSchema = z
  .strictObject({
    description: z.string().max(200).default('').describe('What it is for, one line'),
    image: z.string().min(1).describe('A recipe’s name or path, a lock, or an image id'),
    packages: z.array(z.string()).default([]).describe('Packages whose /etc and /var are its own'),
    units: z.array(z.string()).default([]).describe('Units of the image that it runs'),
    boot: z
      .boolean()
      .default(false)
      .describe(
        'A systemd boots in it and runs the units; without any, what the image has enabled',
      ),
    isolation: z
      .enum(ISOLATION)
      .default('container')
      .describe('What it stands on: the host’s kernel, or as vm a kernel of its own'),
    'allow-missing': z
      .array(z.enum(ALLOWABLE_LAYERS))
      .default([])
      .describe('Layers that the host may lack, such as kvm'),
    command: z.array(z.string()).min(1).optional().describe('What it runs instead of units'),
    user: z.string().optional().describe('Who runs the command'),
    workdir: absolute.optional().describe('Where the command starts'),
    environment: z
      .record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), z.string())
      .default({})
      .describe('Variables of its command or units, as NAME: VALUE'),
    hostname: z.string().regex(SERVICE_NAME).optional().describe('Else its own name'),
    network: z
      .union([z.literal('private'), networkSchema])
      .default('private')
      .describe('private (loopback only), or a libvirt network: its name, or what follows'),
    publish: z
      .array(yaml(texts.publish))
      .default([])
      .describe('Ports of this host that lead into it, as [ADDRESS:]HOSTPORT:PORT'),
    mounts: z.array(mount).default([]).describe('Files and folders of the host that it sees'),
    tmpfs: z.array(tmpfs).default([]).describe('Empty file systems in memory'),
    'guest-binds': z
      .array(guestBind)
      .default([])
      .describe('Places of its own that are seen at others, too'),
    'allow-host-write': z
      .boolean()
      .default(false)
      .describe('Confirms writable mounts of what the host lives on'),
    ...keysOf(SANDBOX_LIMITS),
    disk: size.optional().describe('Bytes of each of its file systems in memory'),
    capabilities: z.array(z.string()).default([]).describe('Beyond what a container’s root has'),
    seccomp: z
      .enum(['default', 'aio'])
      .default('default')
      .describe('aio allows io_setup(2), as databases use it, which counts for the whole host'),
    label: label
      .optional()
      .describe('SELinux or AppArmor: auto, dynamic[:LABEL], static:LABEL, inherit, none'),
    health: health.optional(),
  })
  .superRefine((service, context) => {
    if (service.boot && service.command !== undefined) {
      refuse(context, 'a systemd runs units, no command', 'boot');
    } else if (!service.boot && (service.command === undefined) === (service.units.length === 0)) {
      refuse(context, 'say what the service runs: -u UNIT, or -- COMMAND');
    }
    if (service.isolation === 'vm' && service.boot) {
      refuse(context, 'a machine’s services have no control group that a systemd needs', 'boot');
    }
    if (service.isolation === 'vm' && service.label !== undefined) {
      refuse(context, 'no process of this host is in a machine, which a label could hold', 'label');
    }
    const guestBinds = service['guest-binds'];
    const mounts = [...service.mounts, ...service.tmpfs];
    const wrong =
      guestBinds.flatMap(({ source, target }) => [source, target]).find(isClosedPlace) ??
      sharedTarget([...mounts, ...guestBinds]) ??
      hidingTarget(guestBinds, mounts);
    if (guestBinds.length > 0 && wrong !== undefined)
      refuse(context, `${wrong} cannot be bound, or hides another mount`, 'guest-binds');
    for (const key of ['user', 'workdir'] as const) {
      if (service.command !== undefined || service[key] === undefined) continue;
      refuse(context, 'of a command: units have theirs', key);
    }
    if (service.boot && service.seccomp !== 'default') {
      refuse(context, 'a systemd that boots has a profile of its own', 'seccomp');
    }
    if (service.health !== undefined && !service.health.command === !service.health.http) {
      refuse(context, 'exactly one of command and http is needed', 'health');
    }
  });

/** A checked service. Sizes in bytes, times in milliseconds. */
export type ServiceDefinition = z.output<typeof serviceSchema>;
export type ServiceFile = z.input<typeof serviceSchema>;

export function serviceJsonSchema(): unknown {
  return z.toJSONSchema(serviceSchema, { io: 'input', unrepresentable: 'any' });
}

/** What they name is looked up at each start, as what fstab(5) names: a definition is root's configuration. */
export function definedMounts(mounts: ServiceDefinition['mounts']): Bind[] {
  return mounts.map(({ relabel, image, ...mount }) => ({
    ...mount,
    ...(image === true ? { image, readonly: true } : {}),
    place: ownPath(mount.source),
    ...defined({ relabel }),
  }));
}
