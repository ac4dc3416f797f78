import { existsSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { readUserText } from '../../../host/files/user-file.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { defaultOptions } from './defaults.ts';
import { evaluate } from './language/evaluate.ts';
import { parse } from './language/parse.ts';
import { Templates } from './language/template.ts';
import { CONFIG_SIZE_LIMIT } from './language/tokens.ts';
import {
  asText,
  type ConfigOptions,
  type ConfigValue,
  type ConfigWarning,
  configError,
  isDict,
  isTrue,
  type Place,
} from './language/values.ts';

export const SYSTEM_CONFIG = '/etc/mock';

const MAX_INCLUDES = 16;

/** Files of one configuration; mock's have four. */
const MAX_FILES = 256;

export interface LoadedConfig {
  /** mock's `chroot_name`: the file's name without `.cfg`. */
  readonly name: string;
  readonly options: ConfigOptions;
  readonly files: readonly string[];
  readonly warnings: ConfigWarning[];
}

interface LoadConfigOptions {
  readonly paths: Pick<StatePaths, 'root'>;
  readonly directory?: string | undefined;
  readonly arch: string;
  /** Where the caller's own configurations are; without it, none are read. */
  readonly home?: string | undefined;
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
  const { home, directory = SYSTEM_CONFIG } = options;
  return [...(home === undefined ? [] : [join(home, '.config', 'mock')]), directory]
    .map((directory) => resolve(directory, `${name}.cfg`))
    .find((path) => existsSync(path));
}

/**
 * Reads a configuration in mock's order: the defaults, site-defaults.cfg and chroot-aliases.cfg, the file
 * itself, then the user's files (~/.mock/user.cfg, ~/.config/mock.cfg).
 * @throws KilnError E_MOCK_CONFIG for an unreadable or unknown part
 */
export function loadConfig(path: string, settings: LoadConfigOptions): LoadedConfig {
  const options = defaultOptions(settings.paths, settings);
  const directory = resolve(settings.directory ?? SYSTEM_CONFIG);
  const reader = new Reader(options, directory);
  const { home } = settings;
  const name = basename(path).replace(/\.cfg$/, '');
  options.set('config_path', directory);
  options.set('chroot_name', name);
  options.set('config_file', path);
  for (const file of ['site-defaults.cfg', 'chroot-aliases.cfg']) {
    reader.readIfThere(join(directory, file));
  }
  reader.read(path);
  if (home !== undefined) {
    reader.readIfThere(join(home, '.mock', 'user.cfg'));
    reader.readIfThere(join(home, '.config', 'mock.cfg'));
  }
  settings.adjust?.(options);
  completeArchitectures(options);
  if (!options.has('root')) {
    throw configError(`${path} does not set config_opts['root']`, undefined, {
      hint: "every configuration names its root: config_opts['root'] = 'name'",
    });
  }
  return { name, options, files: reader.files, warnings: reader.warnings };
}

/** Sets `rpmbuild_arch` and `repo_arch` for templates, as mock does after reading all files and the command line. */
function completeArchitectures(options: ConfigOptions): void {
  const templates = new Templates(options);
  const target = asText(templates.value('target_arch'));
  if (options.get('rpmbuild_arch') === null) options.set('rpmbuild_arch', target);
  if (isTrue(options.get('repo_arch'))) return;
  const map = templates.value('repo_arch_map');
  options.set('repo_arch', (isDict(map) ? map.get(target) : undefined) ?? target);
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
    const text = readUserText(path, CONFIG_SIZE_LIMIT, (cause) =>
      configError(`cannot read ${path}`, from, { cause }),
    );
    this.files.push(path);
    this.#depth++;
    evaluate(parse(text, path), {
      options: this.#options,
      file: path,
      // Included files lie in the configuration directory, wherever the including file is.
      include: (name, place) => this.read(resolve(this.#directory, name), place),
      warn: (message, place) => this.#warn(message, place),
    });
    this.#depth--;
  }

  #warn(message: string, place: Place | undefined): void {
    this.warnings.push({ message, place });
  }
}

export function expandAll(options: ConfigOptions): Map<string, ConfigValue> {
  const templates = new Templates(options);
  return new Map(options.names().map((name) => [name, templates.value(name)]));
}

export function description({ options }: LoadedConfig): string {
  return asText(new Templates(options).value('description') ?? '');
}
