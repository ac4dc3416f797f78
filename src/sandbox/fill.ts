import { isKilnCode } from '../errors.ts';
import { span, traceSandbox } from '../host/trace/trace.ts';
import { awaitedLater } from '../promise.ts';
import { SandboxControl } from './command/control.ts';
import { readSandboxFacts, type SandboxFacts } from './command/facts.ts';
import { setupError } from './command/failures.ts';
import type { SandboxDomain } from './domain/sandbox-domain.ts';
import { labelOperation } from './labels/labels.ts';
import { relabelSources } from './labels/relabel.ts';
import {
  INTERFACE,
  type LeasedAddress,
  type LeaseRequest,
  leaseAddress,
} from './network/dhcp-client.ts';
import { type BindOwners, planFilesystem, procOperations } from './policy/filesystem.ts';
import { refuseHostWrites } from './policy/host-write.ts';
import { requireLayer } from './policy/layers.ts';
import type { SandboxSpecification } from './policy/specification.ts';
import { encodeRequest } from './wire/encode.ts';
import type { Parts } from './wire/table.ts';

/** A sandbox that is ready for commands. */
export interface FilledSandbox {
  readonly domain: SandboxDomain;
  readonly facts: SandboxFacts;
  readonly lease?: LeasedAddress | undefined;
}

/**
 * Puts an image and everything else of a specification into a sandbox. Throws E_SETUP with what the init
 * could not do, E_LAYER_MISSING when it measured a hole, E_NO_LEASE when the network gave no address,
 * E_STATE, and the signal's reason; the sandbox is destroyed then.
 */
export async function fillSandbox(
  domain: SandboxDomain,
  specification: SandboxSpecification,
  owners: BindOwners,
  signal?: AbortSignal,
): Promise<FilledSandbox> {
  let lease: LeasedAddress | undefined;
  try {
    using _ = span('fill the sandbox');
    const { labels } = domain.record;
    const label = labelOperation(labels);
    const asks = leaseRequest(specification);
    const fixed = fixedAddress(specification);
    // libvirt gives it to a container before its init runs.
    const isUnset = fixed !== undefined && domain.ground.machine !== undefined;
    // Check before any label on the host changes.
    if (labels !== undefined) refuseHostWrites(domain.paths, specification, owners.caller);
    await relabelSources(specification, labels);
    const rules = specification.nested ? [] : procOperations();
    const prepare = domain.prepared ? undefined : encodeRequest('prepare', [...label, ...rules]);
    const isSent = asks !== undefined || isUnset;
    if (isSent && prepare !== undefined) await domain.prepare(prepare);
    const control = new SandboxControl(domain.channel);
    if (asks !== undefined) lease = await leaseAddress(control, { ...asks, signal });
    if (isUnset) await control.setAddress(INTERFACE, fixed);
    using plan = planFilesystem(
      specification,
      { range: domain.range, initPid: domain.channel.initPid },
      owners,
      domain.paths,
      lease ?? fixed ?? {},
    );
    const { sources } = plan;
    // Listen before sending: an init that could not prepare sends the reason and hangs up.
    const filled = awaitedLater(
      domain.channel.ask((answer) => {
        if (answer.type === 'failed') {
          throw setupError(answer, { sources, binds: specification.binds, labels });
        }
        return answer.type === 'ready' ? answer.facts : undefined;
      }),
    );
    const send = (message: Buffer, fds: readonly number[] = []) => {
      try {
        domain.channel.send(message, fds);
      } catch (error) {
        if (!isKilnCode(error, 'E_SANDBOX_GONE')) throw error;
      }
    };
    if (prepare !== undefined && !isSent) send(prepare);
    send(encodeRequest('setup', [...label, ...plan.operations]), plan.fds);
    domain.writeRecord();
    const text = await filled;
    traceSandbox(domain.channel.initPid, text);
    const { network, allowMissing } = specification;
    const facts = readSandboxFacts(text, {
      network: network === 'host' ? 'host' : 'own',
      range: domain.range,
      operations: plan.operations,
      time: requireLayer('time-namespace', allowMissing),
      labels,
      around: await domain.ground.around(),
    });
    return { domain, facts, lease };
  } catch (error) {
    lease?.close();
    await domain.destroy();
    throw error;
  }
}

function leaseRequest({ network, hostname }: SandboxSpecification): LeaseRequest | undefined {
  if (typeof network === 'string' || network.dhcp === false) return undefined;
  if (network.address !== undefined || network.mac === undefined) return undefined;
  return { mac: network.mac, hostname };
}

/** As the init takes it. The mask is for machines, which have no addresses of IPv6. */
function fixedAddress({ network }: SandboxSpecification): Parts<'address'> | undefined {
  if (typeof network === 'string' || network.address === undefined) return undefined;
  const { address: given, gateway = '0.0.0.0' } = network;
  const [address = '', prefix] = given.split('/');
  const mask = Buffer.alloc(4);
  mask.writeUInt32BE((2 ** 32 - 2 ** (32 - Number(prefix))) >>> 0);
  return { address, mask: [...mask].join('.'), gateway };
}
