import { hash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { KilnError } from '../../errors.ts';
import { runTool } from '../../host/process/child-process.ts';
import type { LabelRequest } from '../policy/label-request.ts';
import { labelMissingError, ownLabel, type SandboxLabels } from './module.ts';

/** The kernel's list of profiles, one a line: `NAME (MODE)`. */
const LOADED = '/sys/kernel/security/apparmor/profiles';

/** Compiling three small profiles is quick, but the host may be busy. */
const PARSER_TIMEOUT = 120_000;

async function loadedProfiles(): Promise<Set<string>> {
  const text = await readFile(LOADED, 'utf8').catch(() => '');
  return new Set(text.split('\n').map((line) => line.replace(/ \(\w+\)$/, '')));
}

/** The labels of a sandbox's processes. @throws KilnError E_LAYER_MISSING */
export async function apparmorLabels(
  request: Exclude<LabelRequest, { kind: 'none' }>,
): Promise<SandboxLabels> {
  if (request.kind === 'dynamic' && request.label !== undefined) {
    throw labelMissingError(
      `--label dynamic:${request.label}: AppArmor has no categories to add to it`,
      'on this host: auto, dynamic, static:PROFILE, inherit, none',
    );
  }
  if (request.kind === 'inherit') {
    const own = ownLabel('apparmor') ?? 'unconfined';
    return { module: 'apparmor', init: own, command: own, nested: own };
  }
  const profiles = await ensureProfiles(request.kind === 'static' ? request.label : undefined);
  return { module: 'apparmor', ...profiles };
}

async function ensureProfiles(label?: string) {
  const loaded = await loadedProfiles();
  if (label !== undefined && !loaded.has(label)) {
    throw missingError(
      `AppArmor has no profile ${label}`,
      '`aa-status` lists those that are loaded',
    );
  }
  const { text, ...names } = profileSet(label);
  if (![names.init, names.command, names.nested].every((name) => loaded.has(name))) {
    await load(text);
  }
  return label === undefined ? names : { ...names, command: label, nested: label };
}

/** Without it AppArmor 4 refuses new user namespaces. */
const USER_NAMESPACES = '  userns,\n';

async function load(text: string): Promise<void> {
  const parse = async (input: string) => {
    const options = { input, timeout: PARSER_TIMEOUT };
    return (await runTool('apparmor_parser', ['--replace', '--quiet'], options)).failure;
  };
  let failure = await parse(text);
  // A parser before AppArmor 4 does not know the rule, and what it compiles leaves user namespaces alone.
  if (failure !== undefined) failure = await parse(text.replace(USER_NAMESPACES, ''));
  if (failure === undefined) return;
  throw missingError(
    'AppArmor is this host’s security module, but kiln’s profiles cannot be loaded',
    'install the package apparmor and see `kiln doctor` (or do without the layer: --label none)',
    new Error(`apparmor_parser: ${failure}`),
  );
}

function missingError(what: string, hint: string, cause?: unknown): KilnError {
  return new KilnError('E_LAYER_MISSING', what, { hint, cause, details: { layer: 'apparmor' } });
}

/**
 * Files below /proc and /sys that a command may not write and, the last ones, not read: docker's and podman's
 * list. `/proc/sys/kernel/shm*` and `/proc/sys/net` are the sandbox's own.
 */
const KNOBS = `
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^kn]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny @{PROC}/kallsyms rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,`;

/** They do not restrict files: the sandbox has only its own. They refuse mounts, the host, processes of others. */
function commandRules(name: string, more: string): string {
  return `profile ${name} flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  unix,
  signal (send, receive) peer=${name},
  signal (receive) peer=unconfined,
  signal (receive) peer=@{init},
  signal (receive) peer=libvirtd,
  ptrace (trace, read, tracedby, readby) peer=${name},
  ptrace (readby) peer=unconfined,
  # It takes the listener of a command's seccomp filter (pidfd_getfd(2)).
  ptrace (readby, tracedby) peer=@{init},
${more}${KNOBS}
}`;
}

/** The init may build a sandbox and become one of the other profiles, never unconfined. */
function initRules(name: string, targets: readonly string[]): string {
  const changes = targets
    .map((target) => `  change_profile -> ${target},\n  ptrace (read, trace) peer=${target},`)
    .join('\n');
  return `profile ${name} flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  unix,
  mount,
  remount,
  umount,
  pivot_root,
  signal,
${changes}
  deny @{PROC}/sys/kernel/core_pattern w,
  deny @{PROC}/sys/kernel/modprobe w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny /sys/kernel/security/** rwklx,
}`;
}

/** Names contain a digest of the content: sandboxes of another version keep theirs. @param target one more to become */
export function profileSet(target?: string) {
  const build = (init: string, command: string, nested: string) =>
    [
      '@{PROC}=/proc/',
      `@{init}=${init}`,
      initRules(init, [command, nested, ...(target === undefined ? [] : [target])]),
      commandRules(command, ''),
      commandRules(nested, `  mount,\n  remount,\n  umount,\n  pivot_root,\n${USER_NAMESPACES}`),
      '',
    ].join('\n');
  const digest = hash('sha256', build('i', 'c', 'n')).slice(0, 8);
  // Debian's profile of libvirtd lets it signal and trace `libvirt-*`: it must be able to destroy sandboxes.
  const names = {
    init: `libvirt-kiln-init-${digest}`,
    command: `libvirt-kiln-sandbox-${digest}`,
    nested: `libvirt-kiln-nested-${digest}`,
  };
  return { ...names, text: build(names.init, names.command, names.nested) };
}
