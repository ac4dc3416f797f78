import { KilnError } from '../errors.ts';
import { ProcessCgroups } from '../kernel/cgroup-files.ts';
import type { Connection } from '../libvirt/connection.ts';
import type { StatePaths } from '../state/paths.ts';
import { Box, startDomain } from './box.ts';
import type { BindOwners } from './filesystem.ts';
import { claimParked } from './parking.ts';
import { Sandbox } from './sandbox.ts';
import type { SandboxSpecification } from './specification.ts';

/** Where sandboxes live, and how to reach the libvirt that runs them. */
export interface Engine {
  readonly paths: StatePaths;
  /** Called when libvirt is needed; a parked box is claimed without it. Gives one connection. */
  readonly connect: () => Promise<Connection>;
}

/** Who a sandbox is for. */
export interface SandboxUse extends BindOwners {
  /** What `kiln ps` shows. */
  readonly command?: readonly string[];
}

/**
 * Takes a parked box that fits, or starts one, and puts the image and everything else into it.
 * Dispose of the result, or `close()` it: nothing is left then.
 *
 * Throws E_LIMIT, E_SETUP, E_LAYER_MISSING, E_BIND, E_IDMAP, E_NO_RANGE, LibvirtError.
 */
export async function openSandbox(
  engine: Engine,
  specification: SandboxSpecification,
  use: SandboxUse,
): Promise<Sandbox> {
  const box = await takeBox(engine, specification.network);
  try {
    await box.describe({
      ...(specification.image === undefined ? {} : { image: specification.image }),
      ...(use.command === undefined ? {} : { command: use.command }),
    });
  } catch (error) {
    await box.destroy();
    throw new KilnError('E_STATE', `cannot write to ${box.directory}`, { cause: error });
  }
  try {
    const cgroups = await ProcessCgroups.of(box.channel.initPid);
    cgroups.limit(box.channel.initPid, box.id, specification.limits);
  } catch (error) {
    await box.destroy();
    throw error;
  }
  return await Sandbox.open(box, specification, use);
}

async function takeBox(engine: Engine, network: SandboxSpecification['network']): Promise<Box> {
  if (network === 'private') {
    const parked = await claimParked(engine.paths, engine.connect);
    if (parked !== undefined) return parked;
  }
  const connection = await engine.connect();
  const started = await startDomain(engine.paths, connection, engine.paths.boxes, {
    network,
    autodestroy: true,
  });
  return await Box.own(engine.paths, started, engine.connect);
}
