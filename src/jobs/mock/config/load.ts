import { existsSync, openSync, readlinkSync } from 'node:fs';
import { userInfo } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { closing } from '../../../host/calls/descriptor.ts';
import { attempt, hasErrno } from '../../../host/calls/libc.ts';
import { O_PATH } from '../../../host/files/at.ts';
import { foundAt } from '../../../host/files/held.ts';
import { openUserFile, readUserText } from '../../../host/files/user-file.ts';
import type { StateRoot } from '../../../host/state/paths.ts';
import {
  type ConfigChange,
  type ConfigJob,
  type EvaluatedConfig,
  evaluateConfigs,
} from './evaluate.ts';
import { asText, configError } from './values.ts';

export const SYSTEM_CONFIG = '/etc/mock';

/** Bytes of a configuration file; mock's largest have 20 KB. */
const CONFIG_SIZE_LIMIT = 1024 * 1024;

/** Files of one configuration; mock's have four. */
const MAX_FILES = 256;

/** Of all files of one configuration. */
const MAX_BYTES = 16 * 2 ** 20;

export interface LoadedConfig extends EvaluatedConfig {
  /** mock's `chroot_name`: the file's name without `.cfg`. */
  readonly name: string;
}

/** Where configurations are, for one caller. */
export interface ConfigPlace {
  readonly paths: StateRoot;
  readonly directory?: string | undefined;
  readonly arch: string;
  /** Where the caller's own configurations are; without it, none are read. */
  readonly home?: string | undefined;
  /** Folders that nobody but root writes to. */
  readonly trusted?: readonly string[];
}

/** The counterpart of /var/lib/mock, for result directories. */
export function mockDirectory(paths: StateRoot): string {
  return join(paths.root, 'mock');
}

/**
 * The file of `-r NAME`: a path if it ends in `.cfg`, otherwise NAME.cfg of ~/.config/mock or of the
 * configuration directory. Undefined if there is none.
 */
export function findConfig(
  name: string,
  { home, directory = SYSTEM_CONFIG }: ConfigPlace,
): string | undefined {
  if (name.endsWith('.cfg')) {
    const path = resolve(name);
    return existsSync(foundAt(path)) ? path : undefined;
  }
  return [...(home === undefined ? [] : [join(home, '.config', 'mock')]), directory]
    .map((folder) => resolve(folder, `${name}.cfg`))
    .find((path) => existsSync(foundAt(path)));
}

/**
 * Evaluates a configuration in mock's order: the defaults, site-defaults.cfg and chroot-aliases.cfg, the file itself,
 * then root's files (~/.mock/user.cfg, ~/.config/mock.cfg) and the changes. Without a path: the defaults and changes.
 * @throws KilnError E_MOCK_CONFIG, E_MOCK_PYTHON
 */
export async function loadConfig(
  path: string | undefined,
  place: ConfigPlace,
  changes: readonly ConfigChange[] = [],
): Promise<LoadedConfig> {
  const name = basename(path ?? '', '.cfg');
  for await (const config of evaluated([configJob(path, place, { changes })])) {
    if (config instanceof KilnError) throw config;
    if (path === undefined || config.options.has('root')) return { ...config, name };
    throw configError(`${path} does not set config_opts['root']`, undefined, {
      hint: "every configuration names its root: config_opts['root'] = 'name'",
    });
  }
  throw new TypeError('no answer about a configuration');
}

/** What each configuration says of itself; undefined for one that cannot be evaluated. @throws KilnError E_MOCK_PYTHON */
export async function* describeConfigs(
  files: readonly string[],
  place: ConfigPlace,
): AsyncGenerator<string | undefined> {
  for await (const config of loadConfigs(files, place, ['description'])) {
    // mock knows no default of it.
    yield attempt(() => asText((config as EvaluatedConfig).options.value('description') ?? ''));
  }
}

/** The options `only` of each configuration, or why there are none. */
export async function* loadConfigs(
  files: readonly string[],
  place: ConfigPlace,
  only?: readonly string[],
): AsyncGenerator<EvaluatedConfig | KilnError> {
  const waiting = files.map((path) => configJob(path, place, { only }));
  // A child that has died is replaced: the other configurations are still wanted.
  while (waiting.length > 0) {
    for await (const config of evaluated(waiting)) {
      waiting.shift();
      yield config;
    }
  }
}

/** All together may take a minute of the processor. */
const JOBS_OF_CHILD = 250;

/** As evaluateConfigs(), but the death of a child is the fault of the configuration that it has: the first one. */
async function* evaluated(jobs: readonly ConfigJob[]) {
  try {
    yield* evaluateConfigs(jobs.slice(0, JOBS_OF_CHILD));
  } catch (cause) {
    if (!(cause instanceof KilnError) || !/^E_CONFINE_(?!START)/.test(cause.code)) throw cause;
    yield configError(`${jobs[0]?.given.config_file} cannot be evaluated`, undefined, {
      cause,
      hint: 'it may take a minute of the processor and 512 MiB of memory',
    });
  }
}

function configJob(
  path: string | undefined,
  place: ConfigPlace,
  { changes = [], only }: Partial<ConfigJob>,
): ConfigJob {
  const { paths, arch, home, trusted = [] } = place;
  const directory = resolve(place.directory ?? SYSTEM_CONFIG);
  const { uid, gid } = userInfo();
  const files =
    path === undefined
      ? []
      : [
          ...['site-defaults.cfg', 'chroot-aliases.cfg'].map((name) => join(directory, name)),
          path,
          ...(home === undefined
            ? []
            : [join(home, '.mock/user.cfg'), join(home, '.config/mock.cfg')]),
        ];
  const folders = [directory, ...(path === undefined ? [] : [dirname(path)])];
  const reader = new ConfigFiles(files, { folders, trusted });
  const basedir = mockDirectory(paths);
  return {
    given: {
      basedir,
      cache_topdir: join(basedir, 'cache'),
      // mock uses the caller's ids. Here the caller is root, and the build user must not be.
      chrootuid: uid === 0 ? 1000 : uid,
      chrootgid: gid === 0 ? 135 : gid,
      host_arch: arch,
      target_arch: 'i386',
      config_path: directory,
      config_file: path ?? '',
      chroot_name: basename(path ?? '', '.cfg'),
    },
    directory,
    files: files.map((file) => [file, file === path]),
    changes,
    only,
    read: (file) => reader.read(file),
  };
}

/**
 * The files of one configuration, which is hostile: with the content of any file that kiln reads for it, it makes an
 * image. So it includes files that lie in the configuration folder or beside it; only where root wrote all that was
 * read so far, it includes what root can read.
 */
class ConfigFiles {
  readonly #named: ReadonlySet<string>;
  readonly #folders: readonly string[];
  readonly #trusted: readonly string[];
  #isTrusted = true;
  #count = 0;
  #bytes = 0;

  constructor(
    named: readonly string[],
    { folders, trusted }: Readonly<Record<'folders' | 'trusted', readonly string[]>>,
  ) {
    this.#named = new Set(named);
    this.#folders = folders.map(real);
    this.#trusted = trusted.map(real);
  }

  read(path: string): string | undefined {
    this.#count += 1;
    if (this.#count > MAX_FILES) throw new Error(`it includes more than ${MAX_FILES} files`);
    let opened: number;
    try {
      opened = openUserFile(path);
    } catch (error) {
      if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
      throw readError(path, error);
    }
    using file = closing(opened);
    const link = `/proc/self/fd/${file.fd}`;
    const place = readlinkSync(link);
    const lies = (folder: string) => place.startsWith(`${folder}/`);
    if (!this.#named.has(path) && !this.#isTrusted && !this.#folders.some(lies)) {
      throw new Error(
        `${path} is not included: it lies neither in the configuration folder nor beside the configuration`,
      );
    }
    this.#isTrusted &&= this.#trusted.some(lies);
    const text = readUserText(link, CONFIG_SIZE_LIMIT, (cause) => readError(path, cause));
    this.#bytes += text.length;
    if (this.#bytes > MAX_BYTES) throw new Error(`its files have more than ${MAX_BYTES} bytes`);
    return text;
  }
}

function readError(path: string, cause: unknown): Error {
  const why =
    cause instanceof Error ? cause.message.replaceAll(/\/proc\/self\/fd\/\d+/g, path) : cause;
  return new Error(`cannot read ${path}: ${why}`);
}

/** Without links, as the kernel tells it: a caller's folder may be held. */
function real(folder: string): string {
  const opened = attempt(() => closing(openSync(foundAt(folder), O_PATH)));
  if (opened === undefined) return folder;
  using held = opened;
  return readlinkSync(`/proc/self/fd/${held.fd}`);
}
