import { readdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { recipeNames } from '../../../image/find.ts';
import { hostArchitecture } from '../../../image/key.ts';
import { chrootOptions } from '../../../jobs/mock/chroot.ts';
import { asLiteral, type ConfigOptions } from '../../../jobs/mock/config/language/values.ts';
import {
  description,
  expandAll,
  loadConfig,
  SYSTEM_CONFIG,
} from '../../../jobs/mock/config/load.ts';
import { chrootRequest, type MockSession } from '../session.ts';

/** The width of a name's column, as in mock. */
const COLUMN = 34;

/** Files of a configuration directory that configure no chroot. */
const NO_CHROOTS = new Set(['site-defaults.cfg', 'chroot-aliases.cfg']);

/** `--list-chroots`: configurations and kiln's own recipes. */
export async function listChroots(session: MockSession): Promise<number> {
  const directory = session.line.value('configdir') ?? SYSTEM_CONFIG;
  const lines = [entry('config name', 'description'), 'Global configs:'];
  lines.push(...(await describeAll(session, directory, directory)));
  lines.push('Custom configs:');
  lines.push(...(await describeAll(session, join(homedir(), '.config', 'mock'), directory)));
  lines.push('kiln recipes:');
  for (const name of await recipeNames(session.engine.cwd())) lines.push(entry(name, ''));
  session.caller.stdout.say(`${lines.join('\n')}\n`);
  return 0;
}

async function describeAll(
  { engine }: MockSession,
  folder: string,
  directory: string,
): Promise<string[]> {
  const names = (await readdir(folder).catch(() => [])).sort();
  return names
    .filter((name) => name.endsWith('.cfg') && !NO_CHROOTS.has(name))
    .map((name) => {
      const settings = { paths: engine.paths, directory, arch: hostArchitecture() };
      const label = basename(name, '.cfg');
      try {
        return entry(label, description(loadConfig(join(folder, name), settings)));
      } catch {
        return entry(label, 'error during parsing the config file');
      }
    });
}

function entry(name: string, text: string): string {
  return `${name.padEnd(COLUMN)} ${text}`.trimEnd();
}

/** `--debug-config`: every option as written, or with `expanded` as it is used. */
export async function debugConfig(session: MockSession, expanded: boolean): Promise<number> {
  const request = chrootRequest(session);
  const options = await chrootOptions(session.engine, request);
  const values: Pick<ConfigOptions, 'get'> = expanded ? expandAll(options) : options;
  const lines = options
    .names()
    .sort()
    .map((name) => `config_opts[${asLiteral(name)}] = ${asLiteral(values.get(name))}\n`);
  session.caller.stdout.say(lines.join(''));
  return 0;
}
