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

/** Where mock's configurations are, without `--configdir`. */
export const SYSTEM_CONFIG = '/etc/mock';

/** How deeply configurations may include each other. */
const MAX_INCLUDES = 16;

/** The most files that one configuration may read; mock's read four. */
const MAX_FILES = 256;

/** A configuration whose templates are not filled in yet. */
export interface LoadedConfig {
  /** mock's `chroot_name`: the file's name without `.cfg`. */
  readonly name: string;
  readonly options: ConfigOptions;
  /** All files that were read, in order. */
  readonly files: readonly string[];
  readonly warnings: ConfigWarning[];
}

/** What {@link loadConfig} and {@link findConfig} need to know. */
export interface LoadConfigOptions {
  readonly paths: Pick<StatePaths, 'root'>;
  /** `--configdir` */
  readonly directory?: string | undefined;
  /** This machine's architecture as rpm names it. */
  readonly arch: string;
  /** The home with ~/.config/mock; the caller's by default. */
  readonly home?: string;
  /** Applies the command line's options after all files. */
  readonly adjust?: (options: ConfigOptions) => void;
}

/**
 * The file of `-r NAME`: a path if it ends in `.cfg`, otherwise NAME.cfg of ~/.config/mock or of the
 * configuration directory. Undefined if there is none.
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
 * Reads a configuration in mock's order: the defaults, site-defaults.cfg and chroot-aliases.cfg, the file
 * itself, then the user's files (~/.mock/user.cfg, ~/.config/mock.cfg). @throws KilnError E_MOCK_CONFIG for an
 * unreadable or unknown part.
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
  /** The files included so far, and the file itself: mock reads each once. */
  readonly #included = new Set<string>();
  #depth = 0;

  constructor(options: ConfigOptions, directory: string) {
    this.#options = options;
    this.#directory = directory;
  }

  readIfThere(path: string): void {
    if (existsSync(path)) this.read(path);
  }

  /** `from` is the place of the include. */
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

  /** Included files lie in the configuration directory, wherever the including file is. */
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

/** A configuration's description of itself, for `--list-chroots`. */
export function description({ options }: LoadedConfig): string {
  return asText(new Templates(options).value('description') ?? '');
}
