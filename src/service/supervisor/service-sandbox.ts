import { existsSync } from 'node:fs';
import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { LibvirtError } from '../../host/libvirt/errors.ts';
import { runsItself } from '../../host/process/architecture.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { type LeasedImage, leaseImage } from '../../image/store/images.ts';
import type { ImageManifest } from '../../image/store/manifest.ts';
import { unpackDisks } from '../../jobs/run/disk-images.ts';
import { SANDBOX_LIMITS } from '../../options/sandbox.ts';
import { keyOf, valuesOfKeys } from '../../options/yaml.ts';
import { planSandbox } from '../../sandbox/door/plan.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { OpenIo } from '../../sandbox/door/supervise.ts';
import { can } from '../../sandbox/policy/ground-kinds.ts';
import { LIMIT_NAMES, LIMITS } from '../../sandbox/policy/limits.ts';
import { systemFiles } from '../boot/booted-system.ts';
import { definedMounts } from '../definition/definition.ts';
import { knownImage, refuseVarImage, type StoredService, varVolume } from '../lifecycle/store.ts';
import { unitName } from '../unit/load-unit.ts';
import { networksOf } from './network.ts';

/** Namespaces of each kind for units of a booted service: PrivateTmp=, PrivateNetwork= and so on. */
const BOOT_NAMESPACES = 256;

export async function serviceImage(
  paths: StatePaths,
  service: StoredService,
): Promise<LeasedImage> {
  const id = knownImage(service);
  const image = await leaseImage(paths, id);
  if (image !== undefined) return image;
  throw new KilnError('E_IMAGE_MISSING', `the image of ${service.name} is gone: ${id}`, {
    hint: `\`kiln service upgrade ${service.name}\` makes it again from ${service.definition.image}`,
  });
}

export async function openServiceSandbox(
  engine: Engine,
  service: StoredService,
  image: LeasedImage,
  onLease: OpenIo['onLease'],
): Promise<PlannedSandbox> {
  const { name, files, definition } = service;
  const { arch } = image.manifest;
  if (definition.boot && !runsItself(arch)) {
    throw new KilnError(
      'E_BOOT',
      `${name} cannot boot: its image is for ${arch}, which is emulated`,
      {
        hint: 'systemd needs what no emulator of programs does: use an image for this machine, or leave out --boot',
      },
    );
  }
  refuseVarImage(definition, existsSync(files.varImage));
  const mounts = can(definition.isolation, 'mountsImages');
  const { boot, hostname, isolation, tmpfs, disk, user, label, publish } = definition;
  const limits = valuesOfKeys(SANDBOX_LIMITS, definition);
  const binds = definedMounts(definition.mounts);
  const caller = { uid: 0, gid: 0 };
  await using disks = await unpackDisks(engine, {
    ...{ ...limits, binds, caller, isolation },
    ...defined({ disk }),
  });
  const plan = planSandbox(
    {
      hostname: hostname ?? name,
      // The service's own /etc has these files.
      names: false,
      network: networksOf(service),
      volumes: [
        { source: files.etc, target: '/etc' },
        { source: varVolume(files), target: '/var' },
        ...disks.volumes,
      ],
      readonlyPaths: ['/usr'],
      boot,
      namespaces: boot ? BOOT_NAMESPACES : 0,
      files: boot ? systemFiles(definition.units.map(unitName)) : [],
      binds: binds.filter(({ image: isDisk }) => mounts || isDisk !== true),
      tmpfs: tmpfs.map(({ target, size }) => ({ target, ...defined({ size }) })),
      guestBinds: definition['guest-binds'],
      isolation,
      allowHostWrite: definition['allow-host-write'],
      // Its data are nobody's checkout.
      protectedPaths: [],
      ...{ limits, disk, publish },
      label: label ?? { kind: 'auto' },
      ...{ privateTmp: true, nested: false, egress: undefined, caller },
      allowMissing: [...engine.allowMissing(), ...definition['allow-missing']],
      owner: bindOwner(image.manifest, user),
      shownAs: ['service', name],
      // The sandbox ends with its supervisor's connection, not with a restart of libvirtd.
    },
    // systemd sets the environment of the units.
    { tree: image.tree, id: image.manifest.id, arch, environment: {} },
  );
  try {
    return await PlannedSandbox.open(engine, plan, { onLease });
  } catch (error) {
    throw withServiceHint(name, error);
  }
}

/** The ids in the sandbox that stand for the host's root in mounts: the command's user, as with `kiln run`. */
function bindOwner({ accounts }: ImageManifest, user = 'root'): { uid: number; gid: number } {
  const [name] = user.split(':');
  const account = accounts.find((each) => each.name === name || String(each.uid) === name);
  const uid = account?.uid ?? (Number(name) || 0);
  return { uid, gid: account?.gid ?? uid };
}

const HINTS: readonly (readonly [RegExp, string])[] = [
  [
    /no connection driver available for nwfilter/,
    'the libvirtd has no nwfilter: install libvirt-daemon-driver-nwfilter, and start the service again when no sandbox runs any more',
  ],
  [/referenced filter '.*' is missing/, '`virsh nwfilter-list` shows the rule sets'],
  [/variable '?\w+'?.*(?:missing|not)|unresolvable variable/i, 'give it as filter.VARIABLE=VALUE'],
  [/[Nn]etwork not found|network .* is not active/, '`virsh net-list --all` shows the networks'],
];

const OF_LAYERS: ReadonlySet<string> = new Set(['E_LAYER_MISSING', 'E_LIMIT']);

function withServiceHint(service: string, error: unknown): unknown {
  if (error instanceof LibvirtError) {
    const hint = HINTS.find(([pattern]) => pattern.test(error.message))?.[1];
    return hint === undefined
      ? error
      : new KilnError('E_NETWORK', error.message, { hint: error.hint ?? hint, cause: error });
  }
  if (error instanceof KilnError && error.code === 'E_PUBLISH') {
    const port = error.details?.sandboxPort;
    const hint = `\`kiln service set ${service} --publish HOSTPORT:${port}\` publishes another port; \`ss -ltnp\` shows who has one`;
    return new KilnError(error.code, error.message, { hint, cause: error });
  }
  if (!(error instanceof KilnError) || !OF_LAYERS.has(error.code)) return error;
  const { code, message, cause, details = {} } = error;
  const settings = LIMIT_NAMES.filter((name) => LIMITS[name] === details.layer);
  if (settings.length === 0) return error;
  const keys = settings.map((name) => keyOf(name, SANDBOX_LIMITS[name])).join(', ');
  const more = code === 'E_LIMIT' ? error.hint : '`kiln doctor` tells what this host lacks';
  const hint = `\`kiln service set ${service}\` changes ${keys}; ${more}`;
  return new KilnError(code, message, { hint, cause, details });
}
