/** kiln.yaml: gives options that nobody gives its values, and `kiln config`, which shows and checks it. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Command, Option } from 'commander';
import { Document } from 'yaml';
import { KilnError } from '../errors.ts';
import { choosesMachines } from '../host/libvirt/pick-engine.ts';
import { flag } from '../options/kind.ts';
import { flagOf, row, usersRule, type ValuesOf } from '../options/row.ts';
import { SANDBOX } from '../options/sandbox.ts';
import { withoutCredentials } from '../packages/repository/transport/location.ts';
import {
  asConfigured,
  type Configuration,
  callersConfiguration,
  checkConfiguration,
  currentConfiguration,
  groupNumber,
  readConfiguration,
} from '../users/configuration.ts';
import {
  type DefaultKey,
  defaultsSchema,
  type Repositories,
  usuallyParked,
} from '../users/defaults.ts';
import type { Caller } from './caller/caller.ts';
import { KilnCommand, RowOption, wordsOf } from './options/command.ts';
import { printError, printWarning } from './output/errors.ts';
import { printJson } from './output/print.ts';
import { check } from './users/user-guard.ts';

const ENVIRONMENT: Readonly<Record<string, string>> = {
  image: 'KILN_IMAGE',
  parked: 'KILN_PARKED',
  'parked-vms': 'KILN_PARKED_VMS',
};

/** Asked for when it is shown: a machine without /proc is told so, and not while this module is loaded. */
function builtIn(): Readonly<Record<string, unknown>> {
  return { disk: '8G', network: 'private', parked: usuallyParked(), 'parked-vms': 0 };
}

/** The caller's own file comes first. @throws RecipeError for one with mistakes */
function configurationsOf({ configuration: { file, own }, user }: Caller): Configuration[] {
  const roots = currentConfiguration(file);
  return own === undefined ? [roots] : [callersConfiguration(own, user === undefined), roots];
}

function placeOf({ file, lineOf }: Configuration, path: readonly string[]): string {
  return `${file}:${lineOf(path)}`;
}

function nearest(
  configurations: readonly Configuration[],
  path: readonly string[],
): Configuration | undefined {
  return configurations.find(({ written }) => written(path) !== undefined);
}

function takesDefault(option: Option, words: string): boolean {
  return option instanceof RowOption && option.row.defaults?.includes(words) === true;
}

/**
 * Gives options that nobody gave the values of kiln.yaml, before anything else looks at them. Their source is the
 * place of the default: see getOptionValueSource().
 */
export function fillDefaults(program: Command, caller: Caller): void {
  program.hook('preAction', (_, action) => {
    // What it starts are runs.
    const words = wordsOf(action).replace(/^mcp$/, 'run');
    const { resume, egress = [] } = action.opts();
    // What is entered again has limits and a network already.
    const isAgain = resume !== undefined || (words === 'shell' && action.args.length > 0);
    const options = action.options.filter(
      (option) => takesDefault(option, words) && (!isAgain || option.name() === 'detach-keys'),
    );
    if (options.length === 0) return;
    if (choosesMachines(caller.env)) chooseMachines(action, options);
    const configurations = configurationsOf(caller);
    for (const option of options) {
      const name = option.attributeName();
      // It is called as the option.
      const key = option.name() as DefaultKey;
      const found = nearest(configurations, ['defaults', key]);
      if (found === undefined) continue;
      const isGiven = ['cli', 'env'].includes(action.getOptionValueSource(name) ?? '');
      if (isGiven || caller.env[ENVIRONMENT[key] ?? '']) continue;
      // A list of hosts is for a sandbox without another network.
      if (key === 'network' && egress.length > 0) continue;
      const place = `${placeOf(found, ['defaults', key])}: defaults.${key}`;
      action.setOptionValueWithSource(name, found.defaults[key], place);
    }
  });
}

function chooseMachines(action: Command, options: readonly Option[]): void {
  const name = options.find((option) => option.name() === 'isolation')?.attributeName();
  if (name === undefined || action.getOptionValueSource(name) === 'cli') return;
  action.setOptionValueWithSource(name, 'vm', 'env');
}

/** The caller's own mirrors and proxies, and root's for the rest. @throws RecipeError for a file with mistakes */
export function repositoriesOf(caller: Caller): Repositories {
  const [first, second = first] = configurationsOf(caller).map(({ repositories }) => repositories);
  return {
    mirrors: { ...second?.mirrors, ...first?.mirrors },
    proxy: { ...second?.proxy, ...first?.proxy },
  };
}

interface Row {
  readonly path: readonly string[];
  /** As the file has it; null if there is none. */
  readonly value: unknown;
  readonly origin: string;
}

function rowsOf(caller: Caller): Row[] {
  const configurations = configurationsOf(caller);
  const roots = currentConfiguration(caller.configuration.file);
  const row = (path: readonly string[], usual: unknown, variables: readonly string[] = []): Row => {
    const variable = variables.find((name) => caller.env[name]);
    if (variable !== undefined) {
      const text = caller.env[variable];
      const value = typeof usual === 'number' ? Number(text) : text;
      return { path, value, origin: `environment: ${variable}` };
    }
    const found = nearest(configurations, path);
    if (found === undefined) return { path, value: usual, origin: 'built in' };
    return { path, value: found.written(path), origin: placeOf(found, path) };
  };
  const users = leavesOf(asConfigured(roots.policy)).map(([path, value]) => {
    const isWritten = roots.written(path) !== undefined;
    return { path, value, origin: isWritten ? placeOf(roots, path) : 'built in' };
  });
  const defaults = Object.keys(defaultsSchema.shape).map((key) =>
    row(['defaults', key], builtIn()[key] ?? null, ENVIRONMENT[key] ? [ENVIRONMENT[key]] : []),
  );
  const written = configurations.flatMap(({ written }) =>
    Object.keys(written(['repositories', 'mirrors']) ?? {}),
  );
  const mirrors = [...new Set(written)].map((url) => row(['repositories', 'mirrors', url], null));
  const proxies = ['http', 'https', 'no_proxy'].map((key) => {
    const name = key === 'no_proxy' ? key : `${key}_proxy`;
    const proxy = row(['repositories', 'proxy', key], null, [name, name.toUpperCase()]);
    if (key === 'no_proxy' && typeof proxy.value === 'string') {
      return { ...proxy, value: proxy.value.split(',') };
    }
    // Anybody may look.
    const isUrl = typeof proxy.value === 'string' && URL.canParse(proxy.value);
    return isUrl ? { ...proxy, value: withoutCredentials(String(proxy.value)) } : proxy;
  });
  return [...users, ...defaults, ...mirrors, ...proxies];
}

function leavesOf(value: object, above: readonly string[] = []): [readonly string[], unknown][] {
  return Object.entries(value).flatMap(([key, each]) => {
    const path = [...above, key];
    const isMap = typeof each === 'object' && each !== null && !Array.isArray(each);
    return isMap ? leavesOf(each, path) : [[path, each]];
  });
}

function yamlOf(rows: readonly Row[]): string {
  const document = new Document({});
  for (const { path, value, origin } of rows.filter(({ value }) => value !== null)) {
    const node = document.createNode(value, { flow: true });
    node.comment = ` ${origin}`;
    document.setIn(path, node);
  }
  const unset = rows.filter(({ value }) => value === null).map(({ path }) => path.join('.'));
  return `${document.toString({ lineWidth: 0 })}# without a value: ${unset.join(', ')}\n`;
}

const EXAMPLES = `
/etc/kiln/kiln.yaml is root's: what users may, defaults, mirrors and proxies. ~/.config/kiln.yaml has your own
defaults. An option counts first, then the environment, your file, root's file.

Examples:
  kiln config check
  kiln config check new.yaml
  kiln config show
  kiln config show --json | jq -r '.[] | select(.key == "defaults.image").value'`;

const SHOW = {
  json: row(flag, 'open', { help: 'print a list of keys, values and origins as JSON' }),
};

export function command(caller: Caller): KilnCommand {
  const it = new KilnCommand('config')
    .description('Show and check kiln.yaml: what users who are not root may do, and defaults.')
    .addHelpText('after', EXAMPLES);
  it.command('show')
    .description('Print the value in force of each key, and where it comes from.')
    .rows(SHOW)
    .examples('kiln config show')
    .action(({ json }: ValuesOf<typeof SHOW>) => {
      const rows = rowsOf(caller);
      if (json !== true) caller.stdout.say(yamlOf(rows));
      else {
        const keyed = rows.map(({ path, ...rest }) => ({ key: path.join('.'), ...rest }));
        printJson(caller.stdout, keyed, 2);
      }
    });
  it.command('check')
    .description('Read root’s file and your own, or FILE, and say all that is wrong.')
    .argument('[file]', 'a file that may become root’s; by default the files in force')
    .examples('kiln config check', 'kiln config check new.yaml')
    .action((file: string | undefined) => checkFiles(file, caller));
  return it;
}

function checkFiles(wanted: string | undefined, caller: Caller): void {
  const { file, own } = caller.configuration;
  const name = wanted && (caller.paths.nameOf(wanted) ?? resolve(caller.cwd(), wanted));
  const failures: unknown[] = [];
  const tryFile = (path: string, found: string, read: () => Configuration) => {
    try {
      const configuration = read();
      caller.stdout.say(`${path}: ${found}\n`);
      return configuration;
    } catch (error) {
      failures.push(error);
      return undefined;
    }
  };
  const FINE = 'no mistakes';
  let roots: Configuration | undefined;
  if (wanted === undefined) {
    const found = existsSync(file) ? FINE : 'there is none; all is as by default';
    roots = tryFile(file, found, () => readConfiguration(file));
  } else if (name !== own?.file) {
    roots = tryFile(wanted, FINE, () => checkConfiguration(wanted, caller.user === undefined));
  }
  if (own !== undefined && (wanted === undefined || name === own.file)) {
    tryFile(own.file, FINE, () => callersConfiguration(own, caller.user === undefined));
  }
  if (roots !== undefined && caller.user === undefined) warnOfRoots(roots, caller);
  for (const failure of failures.slice(1)) printError(failure, caller.stderr);
  if (failures[0] !== undefined) throw failures[0];
}

function warnOfRoots({ policy, defaults }: Configuration, { stderr }: Caller): void {
  const { group } = policy;
  if (groupNumber(group) === undefined) {
    const message = `there is no group ${group}, so only root can use kiln: groupadd --system ${group}`;
    printWarning({ code: 'no-group', message }, stderr);
  }
  const rows = new Map(Object.entries(SANDBOX).map(([name, row]) => [flagOf(name, row), row]));
  for (const [key, value] of Object.entries(defaults)) {
    const found = rows.get(`--${key}`);
    try {
      if (found !== undefined) check(`--${key}`, usersRule(found), value, { policy }, {});
    } catch (error) {
      if (!(error instanceof KilnError)) throw error;
      const message = `defaults.${key}: ${error.message}: users who do not give it are refused`;
      printWarning({ code: 'refused-default', message }, stderr);
    }
  }
}
