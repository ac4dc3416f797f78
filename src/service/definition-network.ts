import { z } from 'zod';

const libvirtName = z.string().regex(/^[\w.-]+$/, 'the name of a libvirt network is needed');
const ip = z.union([z.ipv4(), z.ipv6()]);

/** What nwfilter takes for a value (libvirt's formatnwfilter page). */
const filterValue = z.string().regex(/^[\w.:/-]+$/);

const networkOptions = z
  .strictObject({
    name: libvirtName.describe('A libvirt network; `virsh net-list` shows them'),
    dhcp: z
      .boolean()
      .optional()
      .describe('The network gives it an IPv4 address: true where none is given here'),
    address: z.union([z.cidrv4(), z.cidrv6()]).optional().describe('As 192.168.122.7/24'),
    gateway: ip.optional(),
    mac: z.mac().optional().describe('As 52:54:00:12:34:56; else one of its own, always the same'),
    filter: z
      .string()
      .regex(/^[\w.-]+$/)
      .optional()
      .describe('A rule set of nwfilter'),
    'filter-parameters': z
      .record(z.string().regex(/^\w+$/), z.union([filterValue, z.array(filterValue)]))
      .optional()
      .describe('Values of its variables; a list where a variable has several'),
    peers: z.boolean().default(false).describe('Other services of the network may reach it'),
  })
  .refine(
    ({ dhcp, address, gateway }) => dhcp !== true || (address ?? gateway) === undefined,
    'either dhcp, or an address and a gateway',
  )
  .refine(
    (options) => options.filter !== undefined || options['filter-parameters'] === undefined,
    'filter-parameters are of a filter',
  )
  .transform((options) => ({ ...options, dhcp: options.dhcp ?? options.address === undefined }));

/** A service's interface on a libvirt network. */
export type ServiceNetwork = z.output<typeof networkOptions>;

/** A libvirt network: its name, or all about the interface on it. */
export const networkSchema = z.union([
  libvirtName.transform((name): ServiceNetwork => ({ name, dhcp: true, peers: false })),
  networkOptions,
]);

/** As it is written. */
type NetworkFile = z.input<typeof networkSchema>;

/** Options of a network that need no value. */
const FLAGS = ['dhcp', 'peers'];

/** `NAME[,dhcp][,address=IP/PREFIX][,gateway=IP][,mac=MAC][,filter=NAME[,filter.VARIABLE=VALUE…]][,peers]`, as service.yaml has it. Undefined if it is not that. */
export function parseNetwork(text: string): NetworkFile | undefined {
  const [name = '', ...options] = text.split(',');
  if (options.length === 0) return libvirtName.safeParse(name).success ? name : undefined;
  const given: Record<string, unknown> = { name };
  const parameters: Record<string, string[]> = {};
  for (const option of options) {
    const equals = option.indexOf('=');
    const key = equals < 0 ? option : option.slice(0, equals);
    const value = equals < 0 ? FLAGS.includes(key) : option.slice(equals + 1);
    const [, variable] = /^filter\.(.+)$/.exec(key) ?? [];
    if (variable === undefined) given[key] = value;
    else parameters[variable] = [...(parameters[variable] ?? []), String(value)];
  }
  if (Object.keys(parameters).length > 0) given['filter-parameters'] = parameters;
  const parsed = networkOptions.safeParse(given);
  return parsed.success ? (parsed.data as NetworkFile) : undefined;
}
