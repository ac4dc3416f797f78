import { KilnError } from '../errors.ts';
import { type LeasedImage, leaseImage } from '../image/store/images.ts';
import type { LibvirtNetwork } from '../sandbox/domain-xml.ts';
import { type Engine, openSandbox } from '../sandbox/open.ts';
import type { Sandbox } from '../sandbox/sandbox.ts';
import { sandboxSpecification } from '../sandbox/specification.ts';
import type { ServiceDefinition } from './definition.ts';
import type { StoredService } from './store.ts';
import { varVolume } from './var-volume.ts';

type ServiceNetwork = ServiceDefinition['network'];

const NO_OPTIONS = { address: undefined, gateway: undefined, filter: undefined };

/** Takes a service's image into use. Throws E_IMAGE_MISSING. */
export async function serviceImage(engine: Engine, service: StoredService): Promise<LeasedImage> {
  const image = await leaseImage(engine.paths, service.image);
  if (image !== undefined) return image;
  throw new KilnError('E_IMAGE_MISSING', `the image of ${service.name} is gone: ${service.image}`, {
    hint: `\`kiln service upgrade ${service.name}\` makes it anew from ${service.definition.image}`,
  });
}

/** Opens the box of a service: the image, /usr read-only, over it the service's own /etc and /var. */
export async function openServiceBox(
  engine: Engine,
  { name, files, definition }: StoredService,
  image: LeasedImage,
): Promise<Sandbox> {
  const { network, hostname, mounts, disk, memory, cpus, pids, user, label } = definition;
  const { 'io-read': ioRead, 'io-write': ioWrite } = definition;
  const specification = sandboxSpecification({
    root: image.tree,
    image: image.manifest.id,
    hostname: hostname ?? name,
    network: network === 'private' ? 'private' : boxNetwork(network),
    volumes: [
      { source: files.etc, target: '/etc' },
      { source: varVolume(files), target: '/var' },
    ],
    readonlyPaths: ['/usr'],
    binds: mounts,
    limits: {
      ...(memory === undefined ? {} : { memory }),
      ...(cpus === undefined ? {} : { cpus }),
      ...(pids === undefined ? {} : { pids }),
      ...(ioRead === undefined ? {} : { ioRead }),
      ...(ioWrite === undefined ? {} : { ioWrite }),
    },
    ...(disk === undefined ? {} : { disk }),
    ...(label === undefined ? {} : { label }),
  });
  const owner = { uid: Number(user) || 0, gid: Number(user) || 0 };
  return await openSandbox(engine, specification, {
    user: owner,
    caller: { uid: 0, gid: 0 },
    command: ['service', name],
    // It ends with its supervisor's connection; a libvirtd that restarts does not end it.
    outlives: true,
  });
}

/** Unless its peers are allowed, nothing of the same network reaches a service but its host. */
function boxNetwork({ peers, ...network }: Exclude<ServiceNetwork, 'private'>): LibvirtNetwork {
  const { name, address, gateway, filter } = { ...NO_OPTIONS, ...network };
  return {
    name,
    isolated: !peers,
    ...(address === undefined ? {} : { address }),
    ...(gateway === undefined ? {} : { gateway }),
    ...(filter === undefined ? {} : { filter }),
  };
}
