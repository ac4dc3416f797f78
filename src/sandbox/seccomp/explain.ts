/** What would let a refused system call through: the shipped profiles and capabilities, asked one after another. */
import { CAPABILITIES, type Capability } from '../../host/process/process.ts';
import { callsAllowed } from './compile-profile.ts';
import { loadProfile } from './profile.ts';

export interface FilterInForce {
  /** A name of kiln's, or the path of a file. */
  readonly profile: string;
  readonly capabilities: readonly Capability[];
}

export interface Remedy {
  /** Words of the command line, the least first; empty: no profile of kiln's and no capability allows it. */
  readonly options: readonly string[];
  /** The profile in force allows the call, so what refused it is a wall that no profile moves. */
  readonly isGuarded: boolean;
}

/** How much a call may do. */
const RANK = { never: 0, sometimes: 1, always: 2 };

/** The profiles that somebody may choose in place of the one in force, by their options. */
const CHOICES: readonly (readonly [profile: string, option: string])[] = [
  ['build', '--seccomp build'],
  ['default', '--seccomp default'],
  ['aio', '--seccomp aio'],
  ['nested', '--profile nested'],
];

/** @param call its name, as the kernel has it */
export async function remedyFor(
  call: string,
  { profile, capabilities }: FilterInForce,
): Promise<Remedy> {
  const rank = async (name: string, held: readonly Capability[]) => {
    const allowed = callsAllowed(await loadProfile(name), name, held);
    return RANK[allowed.get(call) ?? 'never'];
  };
  const now = await rank(profile, capabilities);
  if (now === RANK.always) return { options: [], isGuarded: true };
  const options: string[] = [];
  for (const [name, option] of CHOICES) {
    if (name !== profile && (await rank(name, capabilities)) > now) options.push(option);
  }
  for (const more of CAPABILITIES.filter((name) => !capabilities.includes(name))) {
    if ((await rank(profile, [...capabilities, more])) > now) options.push(`--cap-add ${more}`);
  }
  // With some arguments it is allowed, and with these it is not.
  return { options, isGuarded: options.length === 0 && now === RANK.sometimes };
}
