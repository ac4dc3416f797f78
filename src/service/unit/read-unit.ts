import { type ExecCommand, parseAssignments, parseExecLine } from './exec-line.ts';
import { undoneSettings } from './keys.ts';
import {
  type ExecPhase,
  RESTART_POLICIES,
  type RestartPolicy,
  SERVICE_TYPES,
  type ServiceType,
  type ServiceUnit,
  type UnitCondition,
  type UnitDirectory,
} from './service-unit.ts';
import { expandSpecifiers, type SpecifierContext } from './specifiers.ts';
import { parseResourceLimit, parseTimeSpan, RESOURCE_NAMES } from './time-span.ts';
import {
  exitStatusSet,
  optionalPath,
  plainWords,
  SettingList,
  signalOf,
  type UnitSetting,
  withoutPrefix,
} from './unit-file.ts';

/** systemd's defaults (systemd-system.conf(5)), milliseconds. */
const DEFAULT_TIMEOUT = 90_000;
const DEFAULT_RESTART_DELAY = 100;
const DEFAULT_START_LIMIT = { interval: 10_000, burst: 5 };

const PHASES: readonly (readonly [ExecPhase, string])[] = [
  ['condition', 'ExecCondition'],
  ['startPre', 'ExecStartPre'],
  ['start', 'ExecStart'],
  ['startPost', 'ExecStartPost'],
  ['reload', 'ExecReload'],
  ['stop', 'ExecStop'],
  ['stopPost', 'ExecStopPost'],
];

/**
 * Interprets the settings of a service unit. Unsupported settings are in `warnings`: none is ignored silently.
 * Never throws: a unit that cannot work has no ExecStart.
 */
export function readUnit(
  settings: readonly UnitSetting[],
  context: SpecifierContext,
  files: readonly string[],
): ServiceUnit {
  return new Reader(settings, context).read(files);
}

class Reader {
  readonly #warnings: string[] = [];
  readonly #settings: readonly UnitSetting[];
  readonly #service: SettingList;
  readonly #unit: SettingList;
  readonly #context: SpecifierContext;

  constructor(settings: readonly UnitSetting[], context: SpecifierContext) {
    this.#settings = settings;
    this.#context = context;
    this.#service = new SettingList(settings.filter(({ section }) => section === 'Service'));
    this.#unit = new SettingList(settings.filter(({ section }) => section === 'Unit'));
  }

  read(files: readonly string[]): ServiceUnit {
    this.#warnings.push(...undoneSettings(this.#settings));
    const service = this.#service;
    const commands = this.#commands();
    const type = this.#type(commands.start.length);
    const timeout = service.last('TimeoutSec');
    const unit: Omit<ServiceUnit, 'warnings'> = {
      name: this.#context.unit,
      description: this.#expand(this.#unit.last('Description') ?? ''),
      type,
      commands,
      user: this.#text('User'),
      group: this.#text('Group'),
      environment: service
        .all('Environment')
        .flatMap((value) => parseAssignments(this.#expand(value))),
      environmentFiles: service
        .all('EnvironmentFile')
        .map((value) => optionalPath(this.#expand(value))),
      unsetEnvironment: service.all('UnsetEnvironment').flatMap(plainWords),
      workingDirectory: this.#workingDirectory(),
      umask: Number.parseInt(service.last('UMask') ?? '0022', 8) & 0o777,
      directories: readDirectories(service, (text) => this.#expand(text)),
      limits: this.#limits(),
      boundingSet: this.#boundingSet(),
      ambient: service.all('AmbientCapabilities').flatMap(plainWords).map(withoutPrefix),
      pidFile: this.#pidFile(),
      notifyAccess: this.#notifyAccess(type),
      remainAfterExit: service.boolean('RemainAfterExit', false),
      guessMainPid: service.boolean('GuessMainPID', true),
      restart: this.#restart(),
      restartDelay: this.#span(service.last('RestartSec'), DEFAULT_RESTART_DELAY),
      startLimit: this.#startLimit(),
      successExitStatus: exitStatusSet(service.all('SuccessExitStatus')),
      restartPrevent: exitStatusSet(service.all('RestartPreventExitStatus')),
      restartForce: exitStatusSet(service.all('RestartForceExitStatus')),
      startTimeout: this.#timeout(
        service.last('TimeoutStartSec') ?? timeout,
        type === 'oneshot' ? Number.POSITIVE_INFINITY : DEFAULT_TIMEOUT,
      ),
      stopTimeout: this.#timeout(service.last('TimeoutStopSec') ?? timeout, DEFAULT_TIMEOUT),
      killMode: this.#killMode(),
      killSignal: this.#signal('KillSignal', 'SIGTERM'),
      reloadSignal: this.#signal('ReloadSignal', 'SIGHUP'),
      sendKill: service.boolean('SendSIGKILL', true),
      sendHangup: service.boolean('SendSIGHUP', false),
      discardOutput: service.last('StandardOutput') === 'null',
      conditions: readConditions(this.#unit, (text) => this.#expand(text), this.#warnings),
      after: this.#unit.all('After').flatMap(plainWords),
      before: this.#unit.all('Before').flatMap(plainWords),
      requires: this.#unit.all('Requires', 'BindsTo', 'Requisite').flatMap(plainWords),
      wants: this.#unit.all('Wants').flatMap(plainWords),
      files,
    };
    return { ...unit, warnings: this.#warnings };
  }

  #expand(text: string): string {
    return expandSpecifiers(text, this.#context);
  }

  #text(key: string): string | undefined {
    const value = this.#service.last(key);
    return value === undefined ? undefined : this.#expand(value);
  }

  #commands(): Record<ExecPhase, ExecCommand[]> {
    const read = (key: string): ExecCommand[] =>
      this.#service.all(key).flatMap((value) => {
        const commands = parseExecLine(value, this.#context);
        if (commands === undefined) this.#warnings.push(`${key}= is no command line: ${value}`);
        if (commands?.some((command) => command.renamed)) {
          this.#warnings.push(`${key}=: the prefix @ is not done: argv[0] is the path`);
        }
        return commands ?? [];
      });
    const entries = PHASES.map(([phase, key]) => [phase, read(key)] as const);
    return Object.fromEntries(entries) as Record<ExecPhase, ExecCommand[]>;
  }

  #type(starts: number): ServiceType {
    const wanted = this.#service.last('Type');
    const found = SERVICE_TYPES.find((type) => type === wanted);
    if (found !== undefined) return found;
    if (wanted !== undefined) this.#warnings.push(`Type=${wanted} is not done: run as simple`);
    return wanted === undefined && starts === 0 ? 'oneshot' : 'simple';
  }

  #restart(): RestartPolicy {
    const wanted = this.#service.last('Restart') ?? 'no';
    const found = RESTART_POLICIES.find((policy) => policy === wanted);
    if (found !== undefined) return found;
    this.#warnings.push(`Restart=${wanted} is no policy: never restarted`);
    return 'no';
  }

  #span(text: string | undefined, fallback: number): number {
    if (text === undefined) return fallback;
    const span = parseTimeSpan(text);
    if (span === undefined) this.#warnings.push(`${text} is no time span`);
    return span ?? fallback;
  }

  /** Zero means no time-out, as in systemd. */
  #timeout(text: string | undefined, fallback: number): number {
    return this.#span(text, fallback) || Number.POSITIVE_INFINITY;
  }

  #startLimit(): ServiceUnit['startLimit'] {
    const both = (...keys: string[]) => this.#unit.last(...keys) ?? this.#service.last(...keys);
    const interval = both('StartLimitIntervalSec', 'StartLimitInterval');
    return {
      interval: this.#span(interval, DEFAULT_START_LIMIT.interval),
      burst: Number(both('StartLimitBurst') ?? DEFAULT_START_LIMIT.burst),
    };
  }

  #workingDirectory(): ServiceUnit['workingDirectory'] {
    const value = this.#text('WorkingDirectory');
    if (value === undefined) return undefined;
    const { path, optional } = optionalPath(value);
    return { path: path === '~' ? this.#context.user.home : path, optional };
  }

  #limits(): ServiceUnit['limits'] {
    return RESOURCE_NAMES.flatMap((name) => {
      const value = this.#service.last(`Limit${name}`);
      if (value === undefined) return [];
      const limit = parseResourceLimit(name, value);
      if (limit === undefined) this.#warnings.push(`Limit${name}=${value} is no limit`);
      return limit === undefined ? [] : [limit];
    });
  }

  #boundingSet(): ServiceUnit['boundingSet'] {
    if (!this.#service.has('CapabilityBoundingSet')) return undefined;
    const words = this.#service.all('CapabilityBoundingSet').flatMap(plainWords);
    const inverted = words[0]?.startsWith('~') ?? false;
    return { names: words.map((word) => withoutPrefix(word.replace(/^~/, ''))), inverted };
  }

  #pidFile(): string | undefined {
    const path = this.#text('PIDFile');
    return path === undefined || path.startsWith('/') ? path : `/run/${path}`;
  }

  #notifyAccess(type: ServiceType): ServiceUnit['notifyAccess'] {
    const wanted = this.#service.last('NotifyAccess');
    const known = (['none', 'main', 'exec', 'all'] as const).find((access) => access === wanted);
    const fallback = type.startsWith('notify') ? 'main' : 'none';
    return known === undefined || (known === 'none' && fallback === 'main') ? fallback : known;
  }

  #killMode(): ServiceUnit['killMode'] {
    const wanted = this.#service.last('KillMode') ?? 'control-group';
    const modes = ['control-group', 'mixed', 'process', 'none'] as const;
    return modes.find((mode) => mode === wanted) ?? 'control-group';
  }

  #signal(key: string, fallback: NodeJS.Signals): NodeJS.Signals {
    const value = this.#service.last(key);
    if (value === undefined) return fallback;
    const found = signalOf(value);
    if (found === undefined) this.#warnings.push(`${key}=${value} is no signal`);
    return found ?? fallback;
  }
}

/** The conditions of systemd.unit(5) that test a path. */
const KINDS = [
  ...['PathExists', 'PathIsDirectory', 'PathIsSymbolicLink'],
  ...['FileNotEmpty', 'FileIsExecutable', 'DirectoryNotEmpty'],
];

/** Condition…= and Assert…= of a unit; unsupported ones are added to `warnings`. */
function readConditions(
  unit: SettingList,
  expand: (text: string) => string,
  warnings: string[],
): UnitCondition[] {
  return ['Condition', 'Assert'].flatMap((prefix) =>
    KINDS.flatMap((kind) =>
      unit.all(`${prefix}${kind}`).map((value): UnitCondition => {
        const [, marks = '', path = ''] = /^([|!]*)\s*(.*)$/.exec(expand(value)) ?? [];
        if (marks.includes('|')) {
          warnings.push(`${prefix}${kind}=${value}: | is not done, all must hold`);
        }
        return { kind, path, negated: marks.includes('!'), assertion: prefix === 'Assert' };
      }),
    ),
  );
}

const DIRECTORY_KINDS = [
  { key: 'RuntimeDirectory', base: '/run', variable: 'RUNTIME_DIRECTORY' },
  { key: 'StateDirectory', base: '/var/lib', variable: 'STATE_DIRECTORY' },
  { key: 'CacheDirectory', base: '/var/cache', variable: 'CACHE_DIRECTORY' },
  { key: 'LogsDirectory', base: '/var/log', variable: 'LOGS_DIRECTORY' },
  { key: 'ConfigurationDirectory', base: '/etc', variable: 'CONFIGURATION_DIRECTORY' },
] as const;

/**
 * The directories of RuntimeDirectory= and the like (systemd.exec(5)). A link after a colon is not made, and a
 * path that leads elsewhere is left out.
 */
function readDirectories(service: SettingList, expand: (text: string) => string): UnitDirectory[] {
  return DIRECTORY_KINDS.flatMap(({ key, base, variable }) => {
    const mode = Number.parseInt(service.last(`${key}Mode`) ?? '0755', 8) & 0o7777;
    const rootOwned = key === 'ConfigurationDirectory';
    return service
      .all(key)
      .flatMap((value) => plainWords(expand(value)))
      .map((word) => word.split(':')[0] ?? '')
      .filter((path) => /^[^/]/.test(path) && !path.split('/').includes('..'))
      .map((path) => ({ path: `${base}/${path}`, mode, variable, rootOwned }));
  });
}
