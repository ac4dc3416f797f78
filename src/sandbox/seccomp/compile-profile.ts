import { z } from 'zod';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import type { Capability } from '../../host/process/process.ts';
import { compileFilter, FILTER_ACTIONS, FILTER_COMPARISONS } from '../../host/process/seccomp.ts';

const condition = z.object({ caps: z.array(z.string()), arches: z.array(z.string()) }).partial();

const number = z.number().int().nonnegative();

/** A seccomp profile as podman and Docker have it (containers/common `seccomp.json`). */
const profileSchema = z.object({
  comment: z.string().optional(),
  defaultAction: z.enum(FILTER_ACTIONS),
  defaultErrnoRet: number.nullish(),
  architectures: z.array(z.string()).nullish(),
  archMap: z
    .array(z.object({ architecture: z.string(), subArchitectures: z.array(z.string()).nullish() }))
    .nullish(),
  syscalls: z.array(
    z.object({
      comment: z.string().optional(),
      name: z.string().optional(),
      names: z.array(z.string()).nullish(),
      action: z.enum(FILTER_ACTIONS),
      errnoRet: number.nullish(),
      args: z
        .array(
          z.object({
            index: number.max(5),
            value: number,
            valueTwo: number.default(0),
            op: z.enum(FILTER_COMPARISONS),
          }),
        )
        .nullish(),
      includes: condition.nullish(),
      excludes: condition.nullish(),
    }),
  ),
});

type Profile = z.infer<typeof profileSchema>;

const EPERM = 1;

const NATIVE: Readonly<Record<string, { go: string; scmp: string }>> = {
  x64: { go: 'amd64', scmp: 'SCMP_ARCH_X86_64' },
  arm64: { go: 'arm64', scmp: 'SCMP_ARCH_AARCH64' },
};

function native() {
  const found = NATIVE[process.arch];
  if (found !== undefined) return found;
  throw new KilnError('E_SECCOMP', `there is no seccomp profile for ${process.arch}`, {
    hint: 'kiln runs on x86_64 and aarch64',
  });
}

/** `source` names it in errors. `asking` is left out if this host cannot ask. Throws E_SECCOMP_PROFILE, E_SECCOMP. */
export function compileProfile(
  text: string,
  source: string,
  capabilities: readonly Capability[],
): { readonly plain: Buffer; readonly asking?: Buffer } {
  const profile = parse(text, source);
  const { scmp } = native();
  const rules = rulesFor(profile, capabilities).map((rule) => ({
    names: rule.names ?? (rule.name === undefined ? [] : [rule.name]),
    action: rule.action,
    errno: rule.errnoRet ?? EPERM,
    args: rule.args ?? [],
  }));
  const others =
    profile.archMap?.find(({ architecture }) => architecture === scmp)?.subArchitectures ??
    profile.architectures ??
    [];
  const fallback = { action: profile.defaultAction, errno: profile.defaultErrnoRet ?? EPERM };
  const architectures = others.map((name) => name.replace('SCMP_ARCH_', '').toLowerCase());
  const plain = compileFilter(fallback, rules, architectures);
  // Where libseccomp or the kernel cannot ask, it refuses as reliably, but refusals cannot be counted.
  const asking = attempt(() => compileFilter(fallback, rules, architectures, true));
  return { plain, ...defined({ asking }) };
}

/** Those that hold here, with these capabilities. */
function rulesFor(profile: Profile, capabilities: readonly Capability[]): Profile['syscalls'] {
  const { go } = native();
  const held = new Set<string>(capabilities.map((name) => `CAP_${name}`));
  return profile.syscalls.filter(({ includes, excludes }) => {
    if (includes?.caps?.some((name) => !held.has(name))) return false;
    if (excludes?.caps?.some((name) => held.has(name))) return false;
    if (includes?.arches !== undefined && !includes.arches.includes(go)) return false;
    return !excludes?.arches?.includes(go);
  });
}

/** The calls that a profile allows: with all arguments, or only with some. */
export function callsAllowed(
  text: string,
  source: string,
  capabilities: readonly Capability[],
): ReadonlyMap<string, 'always' | 'sometimes'> {
  const allowed = new Map<string, 'always' | 'sometimes'>();
  for (const { name, names, action, args } of rulesFor(parse(text, source), capabilities)) {
    if (action !== 'SCMP_ACT_ALLOW') continue;
    const how = (args ?? []).length === 0 ? 'always' : 'sometimes';
    for (const call of names ?? (name === undefined ? [] : [name])) {
      if (allowed.get(call) !== 'always') allowed.set(call, how);
    }
  }
  return allowed;
}

function parse(text: string, source: string): Profile {
  try {
    return profileSchema.parse(JSON.parse(text));
  } catch (error) {
    const reason = error instanceof z.ZodError ? z.prettifyError(error) : String(error);
    throw new KilnError('E_SECCOMP_PROFILE', `${source} is not a seccomp profile: ${reason}`, {
      hint: 'the format is that of podman: see /usr/share/containers/seccomp.json',
    });
  }
}
