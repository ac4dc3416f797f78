import { readFile } from 'node:fs/promises';
import { KilnError } from '../../errors.ts';
import { runTool } from '../../kernel/child-process.ts';
import { type ProfileSet, profileSet } from './apparmor-profile.ts';

/** Every profile the kernel has, a line each: `NAME (MODE)`. */
const LOADED = '/sys/kernel/security/apparmor/profiles';

/** It compiles three small profiles, but the host may be busy. */
const PARSER_TIMEOUT = 120_000;

/** Names of the profiles that are in force, whatever their mode. */
async function loadedProfiles(): Promise<Set<string>> {
  const text = await readFile(LOADED, 'utf8').catch(() => '');
  return new Set(text.split('\n').map((line) => line.replace(/ \(\w+\)$/, '')));
}

/**
 * Loads kiln's profiles unless this boot has them already, and gives their names. With `label`, that
 * profile is the commands'; it must be loaded. Throws E_LAYER_MISSING.
 */
export async function ensureProfiles(label?: string): Promise<Omit<ProfileSet, 'text'>> {
  const loaded = await loadedProfiles();
  if (label !== undefined && !loaded.has(label)) {
    throw missing(`AppArmor has no profile ${label}`, '`aa-status` lists those that are loaded');
  }
  const { text, ...names } = profileSet(label);
  if (![names.init, names.command, names.nested].every((name) => loaded.has(name))) {
    await load(text);
  }
  return label === undefined ? names : { ...names, command: label, nested: label };
}

/** Makes the kernel take profiles. Two at once do the same thing twice. */
async function load(text: string): Promise<void> {
  const { failure } = await runTool('apparmor_parser', ['--replace', '--quiet'], {
    input: text,
    timeout: PARSER_TIMEOUT,
  });
  if (failure === undefined) return;
  throw missing(
    'AppArmor is this host’s security module, but kiln’s profiles cannot be loaded',
    'install the package apparmor and see `kiln doctor` (or do without the layer: --label none)',
    new Error(`apparmor_parser: ${failure}`),
  );
}

function missing(what: string, hint: string, cause?: unknown): KilnError {
  return new KilnError('E_LAYER_MISSING', what, { hint, cause, details: { layer: 'apparmor' } });
}
