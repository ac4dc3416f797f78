import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { KilnError } from '../errors.ts';
import type { RunRequest } from '../run/request.ts';
import { type Capability, parseCapability } from '../sandbox/capabilities.ts';
import type { LibvirtNetwork } from '../sandbox/domain-xml.ts';
import { type LabelRequest, parseLabelRequest } from '../sandbox/labels/request.ts';
import {
  allowedMissing,
  OPTIONAL_LAYERS,
  type OptionalLayer,
  parseLayer,
} from '../sandbox/layers.ts';
import { parseLibvirtNetwork } from '../sandbox/network/mac.ts';
import type { SandboxSpecification } from '../sandbox/specification.ts';
import type { Caller } from './caller.ts';
import { type LimitValues, limitOptions } from './limit-options.ts';
import {
  parseBind,
  parseCopyIn,
  parseEgress,
  parseEnvironment,
  parseHostname,
  parseSecret,
  parseTime,
  parseTmpfs,
} from './values.ts';

/** The options of `run` and `shell`, as commander gives them. */
export interface SandboxOptions extends LimitValues {
  readonly image?: string;
  readonly bind: readonly ReturnType<typeof parseBind>[];
  readonly allowHostWrite?: boolean;
  readonly tmpfs: readonly ReturnType<typeof parseTmpfs>[];
  readonly copyIn: readonly ReturnType<typeof parseCopyIn>[];
  readonly env: readonly (readonly [string, string])[];
  readonly workdir?: string;
  readonly user?: string;
  readonly hostname?: string;
  readonly network: string;
  readonly allowHostNetwork?: boolean;
  readonly egress: readonly string[];
  readonly capAdd: readonly Capability[];
  readonly profile: 'default' | 'nested';
  readonly seccomp: string;
  readonly label?: LabelRequest;
  readonly secret: readonly ReturnType<typeof parseSecret>[];
  readonly allowMissing: readonly OptionalLayer[];
  readonly artifact: readonly string[];
  readonly resultdir?: string;
  /** Milliseconds. */
  readonly keep?: number;
}

/** An option that may be given several times; values add up. */
function repeated<Value>(flags: string, description: string, parse: (text: string) => Value) {
  return new Option(flags, description)
    .argParser((text: string, before: Value[] | undefined) => [...(before ?? []), parse(text)])
    .default([] as Value[], 'none');
}

/** Of every command that takes binds. */
export function hostWriteOption(): Option {
  return new Option(
    '--allow-host-write',
    'confirm writable binds of what the host lives on; see docs/sandboxes.md',
  );
}

/**
 * Adds the options that say what a sandbox is. A recipe's `sandbox:` block has their names, as far as
 * a recipe may say it: docs/recipes.md has what it may not.
 */
export function addSandboxOptions(
  command: Command,
  caller: Pick<Caller, 'env' | 'cwd' | 'variable'>,
): Command {
  const options = [
    new Option(
      '-r, --image <image>',
      'a recipe’s name or path, a lock, or an image id; KILN_IMAGE when missing',
    ).default(caller.env.KILN_IMAGE || undefined, 'KILN_IMAGE'),
    repeated(
      '--bind <src:dst[:ro|rw][,z|Z]>',
      'show a file or folder of the host; with z or Z SELinux may, too: see docs/security.md',
      (text) => parseBind(text, caller.cwd()),
    ),
    hostWriteOption(),
    repeated('--tmpfs <dst[:size]>', 'an empty file system in memory', parseTmpfs),
    repeated('--copy-in <src:dst>', 'copy a file or folder in before the start', (text) =>
      parseCopyIn(text, caller.cwd()),
    ),
    repeated('--env <name=value>', 'set a variable; NAME alone takes kiln’s own', (text) =>
      parseEnvironment(text, (name) => caller.variable(name)),
    ),
    new Option('--workdir <dir>', 'where the command starts'),
    new Option('--user <user>', 'NAME, UID or UID:GID; root for container root'),
    new Option('--hostname <name>', 'the host name it sees').argParser(parseHostname),
    new Option(
      '--network <network>',
      'private or none (only lo, as podman’s none), host, or a libvirt network: NAME[,address=IP/PREFIX[,gateway=IP]][,mac=MAC]; without an address by DHCP',
    ).default('private'),
    repeated(
      '--egress <host[:port]>',
      'let it reach this host by an HTTP proxy; *.HOST for all below it; see docs/sandboxes.md',
      parseEgress,
    ),
    new Option('--allow-host-network', 'confirm --network host: no isolation of the network'),
    ...limitOptions(),
    repeated('--cap-add <capability>', 'allow a capability more', parseCapability),
    new Option('--profile <profile>', 'nested: other sandboxes can be made in it')
      .choices(['default', 'nested'])
      .default('default'),
    new Option(
      '--seccomp <profile>',
      'default, build (tracing allowed), strict, or a JSON file in podman’s format',
    ).default('default'),
    new Option(
      '--label <label>',
      'SELinux, AppArmor: dynamic[:LABEL], static:LABEL, inherit or none; default: what the host has',
    ).argParser(parseLabelRequest),
    repeated(
      '--secret <name=file>',
      'show a file as /run/secrets/NAME, to the command’s user only',
      (text) => parseSecret(text, caller.cwd()),
    ),
    repeated(
      '--allow-missing <layer>',
      `go on without it where this host cannot give it: ${OPTIONAL_LAYERS.join(', ')}`,
      parseLayer,
    ),
    repeated('--artifact <glob>', 'copy these files out afterwards', (text) => text),
    new Option('--resultdir <dir>', 'where artifacts and result.json go'),
    new Option('--keep [time]', 'keep the sandbox afterwards, for an hour or this time')
      .argParser(parseTime)
      .preset('1h'),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

/** The libvirt network that a word of the command line names. */
export function libvirtNetwork(text: string, command: Command): LibvirtNetwork {
  const network = parseLibvirtNetwork(text);
  if (network !== undefined) return network;
  return command.error(
    `kiln: not a network: ${JSON.stringify(text)}: write NAME, or NAME,address=192.168.122.7/24,gateway=192.168.122.1`,
  );
}

function network(options: SandboxOptions, command: Command): SandboxSpecification['network'] {
  if (options.network === 'private' || options.network === 'none') return 'private';
  if (options.network !== 'host') return libvirtNetwork(options.network, command);
  if (options.allowHostNetwork === true) return 'host';
  return command.error(
    'kiln: --network host takes the network’s isolation away: confirm with --allow-host-network',
  );
}

/** Who a request is for. */
type RequestCaller = Pick<Caller, 'env' | 'cwd' | 'ids'> & Partial<Pick<Caller, 'handOver'>>;

/** Whether a seccomp profile is given as a file, not by the name of one of kiln's. */
export function isProfileFile(nameOrPath: string): boolean {
  return /[./]/.test(nameOrPath);
}

/** A descriptor of the caller's, as a shell writes `<(command)`. */
const DESCRIPTOR = /^\/dev\/(?:stdin|fd\/)|^\/proc\/(?:self|thread-self)\/fd\//;

/** A profile's name, or the path of its file, which is relative to the caller's directory. */
function profile(nameOrPath: string, caller: RequestCaller): string {
  if (!isProfileFile(nameOrPath)) return nameOrPath;
  if (caller.handOver !== undefined && DESCRIPTOR.test(nameOrPath)) {
    throw new KilnError(
      'E_SECCOMP_PROFILE',
      `the seccomp profile ${nameOrPath} is an open file of the caller, which the daemon does not have`,
      { hint: 'write it to a file, and name that' },
    );
  }
  return resolve(caller.cwd(), nameOrPath);
}

/** The request that options and a command line make. `image` is the id of an image. */
export function runRequest(
  options: SandboxOptions,
  image: string,
  argv: readonly string[],
  command: Command,
  caller: RequestCaller,
): RunRequest {
  if (options.artifact.length > 0 && options.resultdir === undefined) {
    command.error('kiln: --artifact needs --resultdir DIR, where the files go');
  }
  const nested = options.profile === 'nested';
  const keep = options.keep && options.keep / 1000;
  return {
    image,
    argv,
    env: Object.fromEntries(options.env),
    ...optional('workdir', options.workdir),
    ...optional('user', options.user),
    capAdd: options.capAdd,
    seccomp: nested && options.seccomp === 'default' ? 'nested' : profile(options.seccomp, caller),
    ...(nested ? { nested } : {}),
    ...optional('label', options.label),
    ...optional('secrets', options.secret.length === 0 ? undefined : options.secret),
    allowMissing:
      options.allowMissing.length > 0 ? options.allowMissing : allowedMissing(caller.env),
    network: network(options, command),
    ...optional('egress', options.egress.length === 0 ? undefined : options.egress),
    binds: options.bind,
    ...optional('allowHostWrite', options.allowHostWrite),
    tmpfs: options.tmpfs,
    ...optional('hostname', options.hostname),
    limits: {
      ...optional('memory', options.memory),
      ...optional('cpus', options.cpus),
      ...optional('pids', options.pids),
      ...optional('ioRead', options.ioRead),
      ...optional('ioWrite', options.ioWrite),
    },
    ...optional('disk', options.disk),
    time: {
      ...optional('timeout', options.timeout),
      ...optional('stallTimeout', options.stallTimeout),
    },
    copyIn: options.copyIn,
    artifacts: options.artifact,
    ...optional('resultDirectory', options.resultdir && resolve(caller.cwd(), options.resultdir)),
    ...optional('keepSeconds', keep),
    caller: caller.ids,
  };
}

function optional<Name extends string, Value>(
  name: Name,
  value: Value | undefined | '',
): { [Key in Name]?: Value } {
  return value === undefined || value === '' ? {} : ({ [name]: value } as { [Key in Name]: Value });
}
