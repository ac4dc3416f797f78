import type { Capability } from '../../host/process/process.ts';
import { landlockAbi } from '../../host/process/process.ts';
import type { ImageManifest } from '../../image/store/manifest.ts';
import { securityModule, selinuxEnforces } from '../../sandbox/labels/module.ts';
import { SHOWN } from '../../sandbox/policy/ground-kinds.ts';
import type { LabelRequest } from '../../sandbox/policy/label-request.ts';
import { type OptionalLayer, whyUnavailable } from '../../sandbox/policy/layers.ts';
import {
  DEFAULT_PIDS,
  LIMIT_NAMES,
  LIMITS,
  type LimitName,
  type SandboxLimits,
} from '../../sandbox/policy/limits.ts';
import { formatPublish } from '../../sandbox/policy/network.ts';
import { landlockWalls, mayMount } from '../../sandbox/policy/policy.ts';
import {
  type SandboxSpecification,
  type Surroundings,
  surroundingsOf,
  type WantedBind,
} from '../../sandbox/policy/specification.ts';
import { type CallersLayers, planRun } from './plan.ts';
import type { RunRequest } from './request.ts';

/** One layer around a command, as planned. What is in force is measured later: result.json. */
interface PlannedLayer {
  readonly layer: string;
  readonly state: 'on' | 'off' | 'missing';
  readonly detail: string;
}

export function explainLayers(
  engine: CallersLayers,
  request: RunRequest,
  image: ImageManifest,
): PlannedLayer[] {
  const { sandbox, command, egress, publish } = planRun(engine, request, {
    tree: image.id,
    manifest: image,
  });
  const { disk, allowMissing, nested, isolation } = sandbox;
  const { wall, image: mounted } = SHOWN[isolation];
  const { capabilities, user } = command.policy;
  const surroundings = surroundingsOf(sandbox);
  const { timeout } = command.time;
  const written = sandbox.upperOnDisk === true ? 'the disk (the root) and memory' : 'memory';
  const writable = request.binds.filter((bind) => !bind.readonly).map((bind) => bind.target);
  return [
    ...(wall === undefined ? [] : [on('machine', wall)]),
    on(
      'user-namespace',
      'root of the sandbox is nobody on the host; 65536 ids no other sandbox has',
    ),
    on('user', `${user} (uid ${user.split(':')[0]})`),
    on('mount-namespace', mountsOf(image)),
    on('pid-namespace', 'nested: the command can neither trace the init nor see its parent'),
    on('ipc, uts, cgroup-namespace', 'own'),
    optional('time-namespace', 'own', allowMissing),
    networkLayer(sandbox.network, egress),
    ...publish.map((port) =>
      off(
        'published port',
        `${formatPublish(port)}: who reaches it on the host reaches the command`,
      ),
    ),
    on('files', `nosuid, nodev everywhere; written to: ${written}, ${size(disk)} a file system`),
    ...(sandbox.readonlyRoot
      ? [on('read-only', 'the root; /tmp, /var/tmp, /run, /dev/shm, --tmpfs and binds are as ever')]
      : []),
    writable.length === 0 ? on('binds', 'none writable') : off('binds', `writable: ${writable}`),
    ...request.binds
      .filter(({ image: isDisk }) => isDisk === true)
      .map((bind) => on('file system', shownImage(bind, mounted(size(disk))))),
    ...sandbox.guestBinds.map(({ source, target, readonly }) =>
      on('guest bind', `${source} of the sandbox at ${target}${readonly ? ', read-only' : ''}`),
    ),
    nested
      ? off(
          'proc',
          'nothing masked: else no /proc can be mounted in it (--profile nested); no /sys',
        )
      : on('proc', 'what tells of the host is masked, what acts on it is read-only; no /sys'),
    on('devices', 'null, zero, full, random, urandom, tty, pts, shm'),
    nested
      ? on('user-limits', 'an eighth of the host’s namespaces, inotify and fanotify')
      : on('user-limits', 'no new namespaces; an eighth of the host’s inotify and fanotify'),
    on('capabilities', capabilities.length === 0 ? 'none' : capabilities.join(', ')),
    on('no_new_privs', 'setuid programs and file capabilities give nothing'),
    on('seccomp', `profile ${command.policy.seccomp}; refused calls are counted by name`),
    labelLayer(sandbox.label),
    landlockLayer(command.policy.seccomp, capabilities, surroundings),
    setIdLayer(surroundings),
    on('descriptors', 'stdin, stdout, stderr'),
    on('core dumps', 'none'),
    ...limitLayers(sandbox.limits),
    limit('time-limit', timeout === undefined ? undefined : `${timeout / 1000} s`, undefined),
    on('end', 'when kiln ends, everything in the sandbox does'),
  ];
}

function mountsOf({ host }: ImageManifest): string {
  if (host === undefined)
    return 'the image read-only below an overlay; nothing of the host but binds';
  return `${host.join(', ')} of the host, read-only and nobody’s; nothing else of the host but binds`;
}

function shownImage({ source, target }: WantedBind, how: string): string {
  return `${source} at ${target}, read-only; ${how}`;
}

function on(layer: string, detail: string): PlannedLayer {
  return { layer, state: 'on', detail };
}

function off(layer: string, detail: string): PlannedLayer {
  return { layer, state: 'off', detail };
}

function optional(
  layer: OptionalLayer,
  detail: string,
  allowMissing: readonly OptionalLayer[],
): PlannedLayer {
  const why = whyUnavailable(layer);
  if (why === undefined) return on(layer, detail);
  const then = allowMissing.includes(layer)
    ? 'allowed'
    : `refused without --allow-missing ${layer}`;
  return { layer, state: 'missing', detail: `${why}: ${then}` };
}

function networkLayer(
  network: SandboxSpecification['network'],
  egress: readonly string[] | undefined,
): PlannedLayer {
  if (egress !== undefined) {
    return on('net-namespace', `own, with nothing but lo; a proxy to ${egress.join(', ')}`);
  }
  if (network === 'private') return on('net-namespace', 'own, with nothing but lo');
  if (network === 'host') return off('net-namespace', 'the host’s, as asked for');
  const names = network.map(({ name }) => name).join(', ');
  return on('net-namespace', `own, on libvirt’s network ${names}`);
}

function labelLayer(label: LabelRequest): PlannedLayer {
  const module = securityModule();
  if (module === undefined) return off('label', 'this host has neither SELinux nor AppArmor');
  if (label.kind === 'none') return off('label', `no label of kiln’s for ${module} (--label none)`);
  if (label.kind === 'static') return on('label', `${module}: ${label.label}`);
  if (label.kind === 'inherit') return on('label', `${module}: this process’s own`);
  if (module === 'apparmor') return on('label', 'apparmor: kiln’s profile for commands');
  const force = selinuxEnforces() ? '' : '; SELinux only logs on this host';
  return on('label', `selinux: a pair of categories of its own${force}`);
}

function landlockLayer(
  seccomp: string,
  capabilities: readonly Capability[],
  surroundings: Surroundings,
): PlannedLayer {
  if (whyUnavailable('landlock') !== undefined) {
    return optional('landlock', '', surroundings.allowMissing);
  }
  // Where a wall is missing, the plan says so; the run itself would be refused.
  const walls = landlockWalls({
    capabilities,
    seccomp,
    surroundings: { ...surroundings, allowMissing: ['landlock'] },
  });
  const which = `${walls.join(', ')} (ABI ${landlockAbi()})`;
  if (!mayMount(capabilities, surroundings)) return on('landlock', which);
  const none = 'not around files: mounts were asked for, behind such a wall nothing can be mounted';
  return off('landlock', walls.length === 0 ? none : `${none}; ${which}`);
}

function setIdLayer({ hostFiles }: Surroundings): PlannedLayer {
  return hostFiles
    ? on('set-id', 'no file gets a set-id bit or capabilities: it could be one of the host’s')
    : off('set-id', 'nothing of the host can be written to');
}

const LIMIT_WORDS: Readonly<Record<LimitName, (value: number) => string>> = {
  memory: size,
  cpus: String,
  pids: String,
  ioRead: (rate) => `read ${size(rate)}/s from each disk it reaches`,
  ioWrite: (rate) => `written ${size(rate)}/s to each disk it reaches`,
};

const USUAL: Readonly<Partial<Record<OptionalLayer, string>>> = {
  'memory-limit': '90 % of the host’s',
  'pids-limit': String(DEFAULT_PIDS),
};

function limitLayers(limits: SandboxLimits): PlannedLayer[] {
  const layers = [...new Set(LIMIT_NAMES.map((name) => LIMITS[name]))];
  return layers.map((layer) => {
    const words = LIMIT_NAMES.filter((name) => LIMITS[name] === layer).flatMap((name) => {
      const value = limits[name];
      return value === undefined ? [] : [LIMIT_WORDS[name](value)];
    });
    return limit(layer, words.length === 0 ? undefined : words.join(', '), USUAL[layer]);
  });
}

function limit(layer: string, asked: string | undefined, usual: string | undefined): PlannedLayer {
  if (asked !== undefined) return on(layer, asked);
  return usual === undefined ? off(layer, 'none') : on(layer, `${usual} (default)`);
}

function size(bytes: number): string {
  const power = Math.min(3, Math.floor(Math.log2(Math.max(bytes, 1)) / 10));
  return `${Math.round((bytes / 1024 ** power) * 10) / 10} ${['B', 'KiB', 'MiB', 'GiB'][power]}`;
}
