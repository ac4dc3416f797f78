import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { shellWord } from '../../shell-words.ts';
import { packageRoot } from '../../state/package-root.ts';
import type { Pair } from './mcs.ts';

/**
 * The types of kiln's policy module, policy/kiln.cil. `init`: may mount, and become one of the two
 * others. `command`: what every container of the policy may, less mounts. `nested`: may mount, too.
 */
const TYPES = { init: 'kiln_init_t', command: 'kiln_t', nested: 'kiln_nested_t' } as const;

/** What containers' files are, in Debian's and Fedora's policy: podman's are the same. */
const FILE_TYPE = 'container_file_t';

/** What a container may read and execute, never write: podman's images have it, too. */
const IMAGE_TYPE = 'container_ro_file_t';

/** libvirt's controller of a box, which starts the init, in Debian's and Fedora's policy. */
export const CONTROLLER = 'system_u:system_r:virtd_lxc_t:s0';

/** A context of a process of the system, at the lowest level with these categories. */
export function processContext(type: keyof typeof TYPES, pair: Pair): string {
  return `system_u:system_r:${TYPES[type]}:s0:${pair}`;
}

/** The context of files at `level`, such as `s0:c1,c2`, that a box may write to. */
export function fileContext(level: string): string {
  return `system_u:object_r:${FILE_TYPE}:${level}`;
}

/** The context of every file of the store: all boxes read them. */
export const IMAGE_CONTEXT = `system_u:object_r:${IMAGE_TYPE}:s0`;

/** The level of a context: all behind its third colon. Throws E_ARGUMENT when it has none. */
export function levelOf(context: string): string {
  const [, level] = /^[^:]+:[^:]+:[^:]+:(.+)$/.exec(context) ?? [];
  if (level !== undefined) return level;
  throw new KilnError('E_ARGUMENT', `not a context of SELinux: ${context}`, {
    hint: 'such as system_u:system_r:kiln_t:s0:c1,c2',
  });
}

/** The same context at another level. */
export function atLevel(context: string, level: string): string {
  return context.slice(0, -levelOf(context).length) + level;
}

/** Where kiln's policy module is, as a word for a shell: for `semodule -i`. */
export function policyModule(): string {
  return shellWord(join(packageRoot(), 'policy/kiln.cil'));
}

/** Whether the policy that is loaded knows a context. The kernel answers by taking it, or not. */
export function isValidContext(context: string): boolean {
  try {
    writeFileSync('/sys/fs/selinux/context', context, { flag: 'r+' });
    return true;
  } catch {
    return false;
  }
}

/** Throws E_LAYER_MISSING when kiln's policy module is not loaded, or knows no such context. */
export function requireContext(context: string): void {
  if (isValidContext(context)) return;
  const own = isValidContext(processContext('init', 'c0,c1'));
  throw new KilnError('E_LAYER_MISSING', `SELinux’ policy knows no context ${context}`, {
    hint: own
      ? '`seinfo -t` lists the types of the policy'
      : `load kiln’s module: semodule -i ${policyModule()}`,
    details: { layer: 'selinux' },
  });
}
