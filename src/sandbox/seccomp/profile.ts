import { hash } from 'node:crypto';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import type { Capability } from '../../host/process/process.ts';
import { shortHash } from '../../host/process/short-hash.ts';
import { SmallCache } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { compileProfile } from './compile-profile.ts';
import defaultProfile from './default.json' with { type: 'json' };
import {
  aioProfile,
  bootProfile,
  buildProfile,
  nestedProfile,
  offlineProfile,
  onDiskProfile,
  strictProfile,
} from './variants.ts';

/** The profiles that come with kiln, by name, made when asked for. docs/security.md says what each is for. */
const SHIPPED: Readonly<Record<string, () => unknown>> = {
  default: () => defaultProfile,
  build: () => buildProfile(defaultProfile),
  nested: () => nestedProfile(defaultProfile),
  strict: () => strictProfile(defaultProfile),
  aio: () => aioProfile(defaultProfile),
  boot: () => bootProfile(defaultProfile),
  'default-on-disk': () => onDiskProfile(defaultProfile),
  'default-offline': () => offlineProfile(defaultProfile),
  'build-offline': () => offlineProfile(buildProfile(defaultProfile)),
  'nested-offline': () => offlineProfile(nestedProfile(defaultProfile)),
  'strict-offline': () => strictProfile(defaultProfile),
};

/** Profiles that people may choose. The others are used only where kiln knows that they suffice. */
export const CHOSEN_PROFILES: readonly string[] = ['default', 'build', 'strict', 'aio'];

export function isShipped(name: string): boolean {
  return Object.hasOwn(SHIPPED, name);
}

/**
 * A name is never that of a file.
 * @throws KilnError E_SECCOMP_PROFILE, also for one of kiln's own that alone would protect less than `default`
 */
export function chosenProfile(nameOrPath: string, nested: boolean): string {
  if (nameOrPath.startsWith('/') || CHOSEN_PROFILES.includes(nameOrPath)) return nameOrPath;
  if (nested && nameOrPath === 'nested') return nameOrPath;
  if (!isShipped(nameOrPath)) {
    throw new KilnError('E_SECCOMP_PROFILE', `there is no seccomp profile ${nameOrPath}`, {
      hint: `there are ${CHOSEN_PROFILES.join(', ')}; a JSON file is named by a path, as ./${nameOrPath}`,
    });
  }
  throw new KilnError('E_SECCOMP_PROFILE', `the seccomp profile ${nameOrPath} is kiln’s own`, {
    hint:
      nameOrPath === 'nested'
        ? 'it comes with --profile nested'
        : `give a JSON file, or one of: ${CHOSEN_PROFILES.join(', ')}`,
  });
}

/** The profile for a sandbox whose upper directory may lie on the disk. */
export function profileFor(
  profile: string,
  { upperOnDisk }: { readonly upperOnDisk?: boolean | undefined },
): string {
  return upperOnDisk === true && profile === 'default' ? 'default-on-disk' : profile;
}

/** The most bytes of a profile; podman's has 15 KB. */
const MAX_PROFILE = 4 * 2 ** 20;

export interface SeccompFilter {
  readonly name: string;
  readonly plain: Buffer;
  /** Asks the init instead of refusing, so that refusals can be counted and named. */
  readonly asking?: Buffer;
}

/** The text of a profile, in podman's format. @throws KilnError E_SECCOMP_PROFILE */
export async function loadProfile(nameOrPath: string): Promise<string> {
  const shipped = isShipped(nameOrPath) ? SHIPPED[nameOrPath] : undefined;
  if (shipped !== undefined) return JSON.stringify(shipped());
  try {
    return readUserFile(nameOrPath, MAX_PROFILE, 'anything').toString('utf8');
  } catch (cause) {
    throw new KilnError('E_SECCOMP_PROFILE', `cannot read the seccomp profile ${nameOrPath}`, {
      cause,
      hint: `give a JSON file, or one of: ${CHOSEN_PROFILES.join(', ')}`,
    });
  }
}

const known = new Map<string, SeccompFilter>();

export async function seccompFilter(
  paths: StatePaths,
  nameOrPath: string,
  capabilities: readonly Capability[],
): Promise<SeccompFilter> {
  const name = [nameOrPath, ...capabilities].join(' ');
  const before = known.get(name);
  if (before !== undefined) return before;
  const filter = await findFilter(paths, nameOrPath, capabilities);
  // A file of the user's may change, so it is not kept.
  if (isShipped(nameOrPath)) known.set(name, filter);
  return filter;
}

async function findFilter(
  paths: StatePaths,
  nameOrPath: string,
  capabilities: readonly Capability[],
): Promise<SeccompFilter> {
  const text = await loadProfile(nameOrPath);
  const cache = new SmallCache(join(paths.cache, 'seccomp'), KEPT);
  const file = cacheName(nameOrPath, text, capabilities);
  const cached = await cache.read(file);
  if (cached !== undefined) return { name: nameOrPath, ...unpack(cached) };
  const filter = compileProfile(text, nameOrPath, capabilities);
  await cache.write(file, pack(filter));
  return { name: nameOrPath, ...filter };
}

function cacheName(nameOrPath: string, text: string, capabilities: readonly Capability[]): string {
  const inputs = JSON.stringify([CACHE_FORMAT, text, process.arch, [...capabilities].sort()]);
  if (isShipped(nameOrPath)) return `${nameOrPath}-${shortHash(inputs)}`;
  return hash('sha256', inputs, 'hex').slice(0, 32);
}

const CACHE_FORMAT = 3;

/** Filters that are cached: those of callers' own profiles may be many. */
const KEPT = 200;

interface Programs {
  readonly plain: Buffer;
  readonly asking?: Buffer;
}

function pack({ plain, asking }: Programs): string {
  return JSON.stringify([plain, asking].map((program) => program?.toString('base64')));
}

function unpack(text: string): Programs {
  const [plain, asking] = (JSON.parse(text) as (string | null)[]).map(
    (program) => program && Buffer.from(program, 'base64'),
  );
  return { plain: plain || Buffer.alloc(0), ...(asking ? { asking } : {}) };
}
