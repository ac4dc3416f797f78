import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { execa } from 'execa';
import { KilnError } from '../../src/errors.ts';
import type { EvaluatedConfig } from '../../src/jobs/mock/config/evaluate.ts';
import { type LoadedConfig, loadConfig } from '../../src/jobs/mock/config/load.ts';

const DEFAULTS = join(import.meta.dirname, '../../src/jobs/mock/config/python/defaults.py');

/** Of each option of a configuration what Python shows of it: as it is written, and filled in. Or the error. */
type Opinion = Readonly<
  Record<string, readonly [raw: string | null, value: string | null] | string>
>;

/** What mock's way of evaluating makes of configurations of a folder: of all, unless some are named. */
export async function secondOpinion(
  directory: string,
  files: readonly string[] = [],
): Promise<Readonly<Record<string, Opinion>>> {
  const script = join(import.meta.dirname, 'load-configs.py');
  const { stdout } = await execa(
    '/usr/bin/python3',
    ['-W', 'ignore', script, directory, DEFAULTS, 'x86_64', ...files],
    { maxBuffer: 2 ** 30 },
  );
  return JSON.parse(stdout) as Readonly<Record<string, Opinion>>;
}

/** What kiln makes of one. */
export async function kilnsOpinion(directory: string, name: string): Promise<LoadedConfig> {
  return await loadConfig(join(directory, `${name}.cfg`), {
    paths: { root: '/var/lib/kiln-test' },
    directory,
    arch: 'x86_64',
  });
}

/** The names of options that differ. */
export function differences(ours: EvaluatedConfig | KilnError, theirs: Opinion): string[] {
  if (ours instanceof KilnError) return 'error' in theirs ? [] : [`kiln: ${ours.message}`];
  if ('error' in theirs) return [`mock: ${theirs.error}`];
  const { options } = ours;
  const names = new Set([...options.names(), ...Object.keys(theirs)]);
  names.delete('config_paths');
  return [...names].flatMap((name) => {
    const [raw, value] = theirs[name] ?? [];
    const shown = (expanded: boolean) => {
      try {
        return options.literal(name, { expanded });
      } catch {
        return null;
      }
    };
    const [ourRaw, ourValue] = [shown(false), shown(true)];
    if (ourRaw === raw && ourValue === value) return [];
    return [`${name}: ${ourRaw} → ${ourValue}, but mock: ${raw} → ${value}`.slice(0, 1000)];
  });
}

/** Compares all configurations of a folder, and returns the names of those that load. */
export async function compareFolder(t: ExecutionContext, directory: string): Promise<string[]> {
  const loaded: string[] = [];
  for (const [name, theirs] of Object.entries(await secondOpinion(directory))) {
    const ours = await kilnsOpinion(directory, name).catch((error: unknown) => error);
    t.true(ours instanceof KilnError || !(ours instanceof Error), name);
    t.deepEqual(differences(ours as LoadedConfig | KilnError, theirs), [], name);
    if (!('error' in theirs)) loaded.push(name);
  }
  return loaded;
}
