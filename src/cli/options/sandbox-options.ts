import { defined } from '../../defined.ts';
import type { RunRequest } from '../../jobs/run/request.ts';
import type { Source } from '../../options/kind.ts';
import { SANDBOX, type SandboxOptions } from '../../options/sandbox.ts';
import { allowedMissing } from '../../sandbox/policy/layers.ts';
import { limitsOf } from '../../sandbox/policy/limits.ts';
import { type LibvirtNetwork, parseLibvirtNetwork } from '../../sandbox/policy/network.ts';
import { type SandboxSpecification, sharedTarget } from '../../sandbox/policy/specification.ts';
import type { Caller } from '../caller/caller.ts';
import type { KilnCommand } from './command.ts';
import { addOptions, some } from './shared-options.ts';

export function addSandboxOptions(command: KilnCommand, from: Source): KilnCommand {
  return addOptions(command, SANDBOX, from);
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

/** Opened by the caller. @throws KilnError E_RESULTDIR */
export async function heldResults(
  { resultDirectory }: Pick<SandboxOptions, 'resultDirectory'>,
  { paths }: Pick<Caller, 'paths'>,
): Promise<Pick<RunRequest, 'resultDirectory'>> {
  return resultDirectory ? { resultDirectory: await paths.results(resultDirectory) } : {};
}

export function runRequest(
  options: SandboxOptions,
  image: string,
  argv: readonly string[],
  command: KilnCommand,
  caller: RequestCaller,
): RunRequest {
  if (options.artifacts.length > 0 && options.resultDirectory === undefined) {
    command.error('kiln: --artifact needs --resultdir DIR, where the files go');
  }
  const nested = options.profile === 'nested';
  const {
    timeout,
    stallTimeout,
    capabilities: capAdd,
    tmpfs,
    copyIn,
    label,
    allowHostWrite,
    disk,
  } = options;
  const twice = sharedTarget([...options.binds, ...tmpfs]);
  if (twice !== undefined) {
    command.error(`kiln: two mounts are for ${twice}: the second would hide the first`);
  }
  return {
    ...{ image, argv, capAdd, tmpfs, copyIn },
    env: Object.fromEntries(options.env),
    seccomp: nested && options.seccomp === 'default' ? 'nested' : options.seccomp,
    allowMissing: some(options.allowMissing) ?? allowedMissing(caller.env),
    network: network(options, command),
    binds: options.binds,
    limits: limitsOf(options),
    time: defined({ timeout, stallTimeout }),
    artifacts: options.artifacts,
    caller: caller.ids,
    ...defined({
      ...{ label, allowHostWrite, disk },
      nested: nested || undefined,
      workdir: options.workdir || undefined,
      user: options.user || undefined,
      secrets: some(options.secrets),
      egress: some(options.egress),
      hostname: options.hostname || undefined,
      keepSeconds: options.keep && options.keep / 1000,
    }),
  };
}
