import { Option } from 'commander';
import { defined } from '../../defined.ts';
import type { RunRequest } from '../../jobs/run/request.ts';
import { type LibvirtNetwork, parseLibvirtNetwork } from '../../sandbox/domain/domain-xml.ts';
import { parseLabelRequest } from '../../sandbox/labels/labels.ts';
import { allowedMissing, OPTIONAL_LAYERS, parseLayer } from '../../sandbox/policy/layers.ts';
import { limitsOf } from '../../sandbox/policy/limits.ts';
import {
  type Bind,
  parseCapability,
  type SandboxSpecification,
  sharedTarget,
} from '../../sandbox/policy/specification.ts';
import type { Caller } from '../caller/caller.ts';
import type { KilnCommand } from './command.ts';
import {
  allowHostOption,
  envOption,
  hostWriteOption,
  imageOption,
  keepOption,
  type LimitValues,
  limitOptions,
  parsed,
  quietOption,
  repeated,
  some,
} from './shared-options.ts';
import {
  parseBind,
  parseCopyIn,
  parseEgress,
  parseHostname,
  parseSecret,
  parseTmpfs,
} from './values.ts';

/** Options that are called as what they are of a request. */
type Same = 'allowHostWrite' | 'tmpfs' | 'copyIn' | 'workdir' | 'user' | 'hostname' | 'capAdd';

export interface SandboxOptions
  extends LimitValues,
    Pick<RunRequest, Same | 'seccomp' | 'label'>,
    Required<Pick<RunRequest, 'egress' | 'allowMissing'>> {
  readonly image?: string;
  readonly bind: readonly Bind[];
  readonly env: readonly (readonly [string, string])[];
  readonly network: string;
  readonly allowHost?: boolean;
  readonly allowHostNetwork?: boolean;
  readonly profile: 'default' | 'nested';
  readonly secret: NonNullable<RunRequest['secrets']>;
  readonly artifact: readonly string[];
  readonly resultdir?: string;
  /** Milliseconds. */
  readonly keep?: number;
  readonly quiet?: boolean;
}

export function copyInOption(caller: Pick<Caller, 'cwd'>): Option {
  return repeated(
    '--copy-in <src:dst>',
    'copy a file or folder of the host into the sandbox before the command starts',
    (text) => parseCopyIn(text, caller.cwd()),
  );
}

/**
 * Adds the options of a sandbox. A recipe's `sandbox:` block has the same names; docs/recipes.md says which
 * options a recipe cannot have.
 */
export function addSandboxOptions(
  command: KilnCommand,
  caller: Pick<Caller, 'env' | 'cwd' | 'variable'>,
): KilnCommand {
  const options = [
    imageOption('use', caller),
    repeated(
      '-v, --bind <src:dst[:ro|rw][,z|Z][,nolinks]>',
      'bind-mount a host path; z or Z relabels it for SELinux, see docs/labels.md; nolinks refuses one with symbolic links in it',
      (text) => parseBind(text, caller.cwd()),
    ),
    allowHostOption(),
    hostWriteOption(),
    repeated('--tmpfs <dst[:size]>', 'mount an empty file system that lives in memory', parseTmpfs),
    copyInOption(caller),
    envOption(
      '-e, --env <name=value>',
      'set an environment variable; NAME alone copies it from the caller, if it is set there',
      caller,
    ),
    new Option('-w, --workdir <dir>', 'start the command in this directory of the sandbox'),
    new Option(
      '-u, --user <user>',
      'run the command as NAME, UID or UID:GID; root is root of the sandbox only',
    ),
    parsed('--hostname <name>', 'give the sandbox this host name', parseHostname),
    new Option(
      '--network <network>',
      'choose the network: private or none (loopback only), host, or a libvirt network as NAME[,address=IP/PREFIX[,gateway=IP]][,mac=MAC] (without an address DHCP gives one)',
    ).default('private'),
    repeated(
      '--egress <host[:port]>',
      'let the command reach this host through an HTTP proxy; *.HOST allows its subdomains; see docs/sandboxes.md',
      parseEgress,
    ),
    new Option(
      '--allow-host-network',
      'allow --network host, which takes the isolation of the network away',
    ),
    ...limitOptions(),
    repeated(
      '--cap-add <capability>',
      'give the command one more capability, such as NET_BIND_SERVICE',
      parseCapability,
    ),
    new Option(
      '--profile <profile>',
      'choose what the sandbox is for; nested allows sandboxes inside it',
    )
      .choices(['default', 'nested'])
      .default('default'),
    new Option(
      '--seccomp <profile>',
      'filter system calls by this profile: default, build (allows tracing), strict, aio (allows io_setup), or a JSON file in podman’s format',
    ).default('default'),
    parsed(
      '--label <label>',
      'choose the SELinux or AppArmor label: auto, dynamic[:LABEL], static:LABEL, inherit or none',
      parseLabelRequest,
    ),
    repeated(
      '--secret <name=file>',
      'put a file of the host at /run/secrets/NAME, readable by the user of the command only',
      (text) => parseSecret(text, caller.cwd()),
    ),
    repeated(
      '--allow-missing <layer>',
      `run without this layer of protection if the host does not support it: ${OPTIONAL_LAYERS.join(', ')}`,
      parseLayer,
    ),
    repeated(
      '--artifact <glob>',
      'copy the files that match this pattern to --resultdir afterwards',
      String,
    ),
    new Option('--resultdir <dir>', 'write artifacts and result.json to this directory'),
    keepOption(
      'keep the sandbox afterwards for this time, 1h by default; `kiln shell ID` enters it',
    ),
    quietOption(),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

export function libvirtNetwork(text: string, command: KilnCommand): LibvirtNetwork {
  const network = parseLibvirtNetwork(text);
  if (network !== undefined) return network;
  return command.error(
    `kiln: not a network: ${JSON.stringify(text)}: write NAME, or NAME,address=192.168.122.7/24,gateway=192.168.122.1`,
  );
}

function network(options: SandboxOptions, command: KilnCommand): SandboxSpecification['network'] {
  if (options.network === 'private' || options.network === 'none') return 'private';
  if (options.network !== 'host') return libvirtNetwork(options.network, command);
  if (options.allowHostNetwork === true) return 'host';
  return command.error(
    'kiln: --network host takes the network’s isolation away: confirm with --allow-host-network',
  );
}

type RequestCaller = Pick<Caller, 'env' | 'ids'>;

export function isProfileFile(nameOrPath: string): boolean {
  return /[./]/.test(nameOrPath);
}

/** Opened by the caller. @throws KilnError E_RESULTDIR */
export async function heldResults(
  { resultdir }: Pick<SandboxOptions, 'resultdir'>,
  { paths }: Pick<Caller, 'paths'>,
): Promise<Pick<RunRequest, 'resultDirectory'>> {
  return resultdir ? { resultDirectory: await paths.results(resultdir) } : {};
}

export function runRequest(
  options: SandboxOptions,
  image: string,
  argv: readonly string[],
  command: KilnCommand,
  caller: RequestCaller,
): RunRequest {
  if (options.artifact.length > 0 && options.resultdir === undefined) {
    command.error('kiln: --artifact needs --resultdir DIR, where the files go');
  }
  const nested = options.profile === 'nested';
  const { timeout, stallTimeout, capAdd, tmpfs, copyIn, label, allowHostWrite, disk } = options;
  const twice = sharedTarget([...options.bind, ...tmpfs]);
  if (twice !== undefined) {
    command.error(`kiln: two mounts are for ${twice}: the second would hide the first`);
  }
  return {
    ...{ image, argv, capAdd, tmpfs, copyIn },
    env: Object.fromEntries(options.env),
    seccomp: nested && options.seccomp === 'default' ? 'nested' : options.seccomp,
    allowMissing: some(options.allowMissing) ?? allowedMissing(caller.env),
    network: network(options, command),
    binds: options.bind,
    limits: limitsOf(options),
    time: defined({ timeout, stallTimeout }),
    artifacts: options.artifact,
    caller: caller.ids,
    ...defined({
      ...{ label, allowHostWrite, disk },
      nested: nested || undefined,
      workdir: options.workdir || undefined,
      user: options.user || undefined,
      secrets: some(options.secret),
      egress: some(options.egress),
      hostname: options.hostname || undefined,
      keepSeconds: options.keep && options.keep / 1000,
    }),
  };
}
