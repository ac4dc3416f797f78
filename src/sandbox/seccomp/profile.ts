import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import type { StatePaths } from '../../state/paths.ts';
import type { Capability } from '../capabilities.ts';
import defaultProfile from './default.json' with { type: 'json' };
import { nestedProfile } from './nested.ts';

/** Names of the profiles that come with kiln. */
const SHIPPED: Readonly<Record<string, unknown>> = {
  default: defaultProfile,
  nested: nestedProfile(defaultProfile),
};

async function load(nameOrPath: string): Promise<string> {
  const shipped = SHIPPED[nameOrPath];
  if (shipped !== undefined) return JSON.stringify(shipped);
  try {
    return await readFile(nameOrPath, 'utf8');
  } catch (cause) {
    throw new KilnError('E_SECCOMP_PROFILE', `cannot read the seccomp profile ${nameOrPath}`, {
      cause,
      hint: `give a JSON file, or one of: ${Object.keys(SHIPPED).join(', ')}`,
    });
  }
}

/**
 * The filter of a profile (a shipped name, or a JSON file in the OCI runtimes' format) for a command
 * with these capabilities: struct sock_filter[]. Compiled once, then kept below `paths.cache`.
 *
 * Throws E_SECCOMP_PROFILE, E_SECCOMP.
 */
export async function seccompFilter(
  paths: StatePaths,
  nameOrPath: string,
  capabilities: readonly Capability[],
): Promise<Buffer> {
  const text = await load(nameOrPath);
  const key = createHash('sha256')
    .update(JSON.stringify([text, process.arch, [...capabilities].sort()]))
    .digest('hex');
  const directory = join(paths.cache, 'seccomp');
  const file = join(directory, `${key.slice(0, 32)}.bpf`);
  const cached = await readFile(file).catch(() => undefined);
  if (cached !== undefined && cached.length > 0 && cached.length % 8 === 0) return cached;
  // Late: the schema library costs more than everything else on the way.
  const { compileProfile } = await import('./compile-profile.ts');
  const filter = compileProfile(text, nameOrPath, capabilities);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const temporary = `${file}.${process.pid}`;
  await writeFile(temporary, filter);
  await rename(temporary, file);
  return filter;
}
