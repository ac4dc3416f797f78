import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, isAbsolute, join, resolve } from 'node:path';
import { readUserFile } from '../../../host/files/user-file.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { completeArchitectures } from './architecture.ts';
import { defaultOptions } from './defaults.ts';
import { evaluate } from './language/evaluate.ts';
import { parse } from './language/parse.ts';
import { type ConfigWarning, configError, type Place } from './language/problem.ts';
import { Templates } from './language/template.ts';
import { CONFIG_SIZE_LIMIT } from './language/tokens.ts';
import { asText, type ConfigOptions, type ConfigValue } from './language/values.ts';

/** Where mock's configurations are found, unless `--configdir` says otherwise. */
export const SYSTEM_CONFIG = '/etc/mock';

/** How deep configurations may include one another. */
const MAX_INCLUDES = 16;

/** Files that one configuration may read, however often it includes which; mock's have four. */
const MAX_FILES = 256;

/** A configuration that was read, its templates not filled in yet. */
export interface LoadedConfig {
  /** mock's `chroot_name`: the file's name without `.cfg`. */
  readonly name: string;
  readonly options: ConfigOptions;
  /** All files that were read, in their order. */
  readonly files: readonly string[];
  readonly warnings: ConfigWarning[];
}

/** What {@link loadConfig} and {@link findConfig} need to know. */
export interface LoadConfigOptions {
  readonly paths: Pick<StatePaths, 'root'>;
  /** `--configdir` */
  readonly directory?: string | undefined;
  /** This machine's architecture, as rpm calls it. */
  readonly arch: string;
  /** Where ~/.config/mock is looked for; the caller's home unless given. */
  readonly home?: string;
  /** Does what the command line says about options, after all files. */
  readonly adjust?: (options: ConfigOptions) => void;
}

/**
 * The file that `-r NAME` means: a path if it ends in `.cfg`, else NAME.cfg of ~/.config/mock or of
 * the configuration directory. Undefined if there is none.
 */
export function findConfig(name: string, options: LoadConfigOptions): string | undefined {
  if (name.endsWith('.cfg')) {
    const path = resolve(name);
    return existsSync(path) ? path : undefined;
  }
  const home = options.home ?? homedir();
  return [join(home, '.config', 'mock'), options.directory ?? SYSTEM_CONFIG]
    .map((directory) => resolve(directory, `${name}.cfg`))
    .find((path) => existsSync(path));
}

/**
 * Reads a configuration as mock does: its defaults, then site-defaults.cfg and chroot-aliases.cfg,
 * then the file itself, then the user's own (~/.mock/user.cfg, ~/.config/mock.cfg).
 * @throws KilnError E_MOCK_CONFIG for what cannot be read or is not understood.
 */
export function loadConfig(path: string, settings: LoadConfigOptions): LoadedConfig {
  const options = defaultOptions(settings.paths, settings);
  const directory = resolve(settings.directory ?? SYSTEM_CONFIG);
  const reader = new Reader(options, directory);
  const home = settings.home ?? homedir();
  const name = basename(path).replace(/\.cfg$/, '');
  options.set('config_path', directory);
  options.set('chroot_name', name);
  options.set('config_file', path);
  for (const file of ['site-defaults.cfg', 'chroot-aliases.cfg']) {
    reader.readIfThere(join(directory, file));
  }
  reader.read(path);
  reader.readIfThere(join(home, '.mock', 'user.cfg'));
  reader.readIfThere(join(home, '.config', 'mock.cfg'));
  settings.adjust?.(options);
  completeArchitectures(options);
  if (!options.has('root')) {
    throw configError(`${path} does not set config_opts['root']`, undefined, {
      hint: "every configuration names its root: config_opts['root'] = 'name'",
    });
  }
  return { name, options, files: reader.files, warnings: reader.warnings };
}

class Reader {
  readonly files: string[] = [];
  readonly warnings: ConfigWarning[] = [];
  readonly #options: ConfigOptions;
  readonly #directory: string;
  /** What the file that is read includes, and itself: mock reads each of these once. */
  readonly #included = new Set<string>();
  #depth = 0;

  constructor(options: ConfigOptions, directory: string) {
    this.#options = options;
    this.#directory = directory;
  }

  readIfThere(path: string): void {
    if (existsSync(path)) this.read(path);
  }

  /** `from`: where it is included. */
  read(path: string, from?: Place): void {
    if (from === undefined) this.#included.clear();
    if (this.#included.has(path)) {
      this.#warn(`${path} is included more than once: it is read once, as by mock`, from);
      return;
    }
    this.#included.add(path);
    if (this.#depth === MAX_INCLUDES) {
      throw configError(`more than ${MAX_INCLUDES} files include one another`, from);
    }
    if (this.files.length === MAX_FILES) {
      throw configError(`more than ${MAX_FILES} files are included`, from);
    }
    const text = readText(path, from);
    this.files.push(path);
    this.#depth++;
    evaluate(parse(text, path), {
      options: this.#options,
      file: path,
      include: (name, place) => this.read(this.#inDirectory(name), place),
      warn: (message, place) => this.#warn(message, place),
    });
    this.#depth--;
  }

  /** What is included lies in the configuration directory, wherever the file that includes it is. */
  #inDirectory(name: string): string {
    return isAbsolute(name) ? resolve(name) : resolve(this.#directory, name);
  }

  #warn(message: string, place: Place | undefined): void {
    this.warnings.push({ message, place });
  }
}

function readText(path: string, from: Place | undefined): string {
  try {
    return readUserFile(path, CONFIG_SIZE_LIMIT).toString('utf8');
  } catch (cause) {
    throw configError(`cannot read ${path}`, from, { cause });
  }
}

/** All options with their templates filled in, as `--debug-config-expanded` shows them. */
export function expandAll(options: ConfigOptions): Map<string, ConfigValue> {
  const templates = new Templates(options);
  return new Map(options.names().map((name) => [name, templates.value(name)]));
}

/** A configuration's own words about itself, for `--list-chroots`. */
export function description({ options }: LoadedConfig): string {
  return asText(new Templates(options).value('description') ?? '');
}
