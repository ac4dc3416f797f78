import { DIRECTORY_KINDS, type ExecPhase, KINDS, PHASES, undoneSettings } from './keys.ts';
import {
  exitStatusSet,
  plainWords,
  SettingList,
  signalOf,
  type UnitSetting,
  withoutPrefix,
} from './unit-file.ts';
import {
  type ExecCommand,
  expandSpecifiers,
  parseAssignments,
  parseExecLine,
  parseResourceLimit,
  parseTimeSpan,
  RESOURCE_NAMES,
  type SpecifierContext,
} from './values.ts';

/** systemd's defaults (systemd-system.conf(5)), milliseconds. */
const DEFAULT_TIMEOUT = 90_000;
const DEFAULT_RESTART_DELAY = 100;
const DEFAULT_START_LIMIT = { interval: 10_000, burst: 5 };

const SERVICE_TYPES = [
  ...(['simple', 'exec', 'forking', 'oneshot', 'notify', 'notify-reload', 'idle'] as const),
];
type ServiceType = (typeof SERVICE_TYPES)[number];

const RESTART_POLICIES = [
  ...(['no', 'always', 'on-success', 'on-failure'] as const),
  ...(['on-abnormal', 'on-abort', 'on-watchdog'] as const),
];
export type RestartPolicy = (typeof RESTART_POLICIES)[number];

const NOTIFY_ACCESS = ['none', 'main', 'exec', 'all'] as const;
const KILL_MODES = ['mixed', 'process', 'none'] as const;

function oneOf<Value extends string>(values: readonly Value[]) {
  return (text: string | undefined) => values.find((value) => value === text);
}

/** All tests without `|` must succeed. */
export interface UnitCondition {
  readonly kind: string;
  readonly path: string;
  readonly negated: boolean;
  readonly assertion: boolean;
}

/** No setting is ignored silently: see `warnings`. Never throws: a bad unit has no ExecStart. */
export function readUnit(
  settings: readonly UnitSetting[],
  context: SpecifierContext,
  files: readonly string[],
): ServiceUnit {
  return new Reader(settings, context).read(files);
}

/** Times are milliseconds, Infinity for none. */
export type ServiceUnit = Readonly<ReturnType<Reader['read']>>;

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

  read(files: readonly string[]) {
    this.#warnings.push(...undoneSettings(this.#settings));
    const service = this.#service;
    const commands = this.#commands();
    const type = this.#type(commands.start.length);
    const timeout = service.last('TimeoutSec');
    return {
      name: this.#context.unit,
      description: this.#expand(this.#unit.last('Description') ?? ''),
      type,
      commands,
      user: this.#text('User'),
      group: this.#text('Group'),
      environment: service
        .all('Environment')
        .flatMap((value) => parseAssignments(this.#expand(value))),
      environmentFiles: service.all('EnvironmentFile').map((path) => this.#path(path)),
      unsetEnvironment: service.all('UnsetEnvironment').flatMap(plainWords),
      workingDirectory: this.#workingDirectory(),
      umask: Number.parseInt(service.last('UMask') ?? '0022', 8) & 0o777,
      directories: this.#directories(),
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
      conditions: this.#conditions(),
      after: this.#unit.all('After').flatMap(plainWords),
      before: this.#unit.all('Before').flatMap(plainWords),
      requires: this.#unit.all('Requires', 'BindsTo', 'Requisite').flatMap(plainWords),
      files,
      warnings: this.#warnings,
    };
  }

  #expand(text: string): string {
    return expandSpecifiers(text, this.#context);
  }

  #path(value: string): { path: string; optional: boolean } {
    const path = this.#expand(value);
    const optional = path.startsWith('-');
    return { path: optional ? path.slice(1) : path, optional };
  }

  #text(key: string): string | undefined {
    const value = this.#service.last(key);
    return value === undefined ? undefined : this.#expand(value);
  }

  #commands(): Record<ExecPhase, ExecCommand[]> {
    const read = (key: string): ExecCommand[] =>
      this.#service.all(key).flatMap((value) => {
        const commands = parseExecLine(value, this.#context);
        if (commands === undefined) this.#warnings.push(`${key}= is not a command line: ${value}`);
        if (commands?.some((command) => command.renamed)) {
          this.#warnings.push(`${key}=: the prefix @ is not done: argv[0] is the path`);
        }
        return commands ?? [];
      });
    const entries = Object.entries(PHASES).map(([phase, key]) => [phase, read(key)] as const);
    return Object.fromEntries(entries) as Record<ExecPhase, ExecCommand[]>;
  }

  /** What a setting says; if it says nothing that is understood, there is a warning, and the fallback counts. */
  #parsed<Value>(
    value: string | undefined,
    parse: (text: string) => Value | undefined,
    fallback: Value,
    warning: string,
  ): Value {
    if (value === undefined) return fallback;
    const parsed = parse(value);
    if (parsed === undefined) this.#warnings.push(warning);
    return parsed ?? fallback;
  }

  #type(starts: number): ServiceType {
    const wanted = this.#service.last('Type');
    if (wanted === undefined) return starts === 0 ? 'oneshot' : 'simple';
    const warning = `Type=${wanted} is not done: run as simple`;
    return this.#parsed(wanted, oneOf(SERVICE_TYPES), 'simple', warning);
  }

  #restart(): RestartPolicy {
    const wanted = this.#service.last('Restart');
    const warning = `Restart=${wanted} is not a policy: never restarted`;
    return this.#parsed(wanted, oneOf(RESTART_POLICIES), 'no', warning);
  }

  #span(text: string | undefined, fallback: number): number {
    return this.#parsed(text, parseTimeSpan, fallback, `${text} is not a time span`);
  }

  /** Zero means no time-out, as in systemd. */
  #timeout(text: string | undefined, fallback: number): number {
    return this.#span(text, fallback) || Number.POSITIVE_INFINITY;
  }

  #startLimit() {
    const both = (...keys: string[]) => this.#unit.last(...keys) ?? this.#service.last(...keys);
    const interval = both('StartLimitIntervalSec', 'StartLimitInterval');
    return {
      interval: this.#span(interval, DEFAULT_START_LIMIT.interval),
      burst: Number(both('StartLimitBurst') ?? DEFAULT_START_LIMIT.burst),
    };
  }

  #workingDirectory() {
    const value = this.#service.last('WorkingDirectory');
    if (value === undefined) return undefined;
    const { path, optional } = this.#path(value);
    return { path: path === '~' ? this.#context.user.home : path, optional };
  }

  #limits() {
    return RESOURCE_NAMES.flatMap((name) => {
      const value = this.#service.last(`Limit${name}`);
      const parse = (text: string) => parseResourceLimit(name, text);
      return this.#parsed(value, parse, undefined, `Limit${name}=${value} is not a limit`) ?? [];
    });
  }

  #boundingSet() {
    if (!this.#service.has('CapabilityBoundingSet')) return undefined;
    const words = this.#service.all('CapabilityBoundingSet').flatMap(plainWords);
    const inverted = words[0]?.startsWith('~') ?? false;
    return { names: words.map((word) => withoutPrefix(word.replace(/^~/, ''))), inverted };
  }

  #pidFile(): string | undefined {
    const path = this.#text('PIDFile');
    return path === undefined || path.startsWith('/') ? path : `/run/${path}`;
  }

  #notifyAccess(type: ServiceType) {
    const known = oneOf(NOTIFY_ACCESS)(this.#service.last('NotifyAccess'));
    const fallback = type.startsWith('notify') ? 'main' : 'none';
    return known === undefined || (known === 'none' && fallback === 'main') ? fallback : known;
  }

  #killMode() {
    return oneOf(KILL_MODES)(this.#service.last('KillMode')) ?? 'control-group';
  }

  #signal(key: string, fallback: NodeJS.Signals): NodeJS.Signals {
    const value = this.#service.last(key);
    return this.#parsed(value, signalOf, fallback, `${key}=${value} is not a signal`);
  }

  #conditions(): UnitCondition[] {
    return ['Condition', 'Assert'].flatMap((prefix) =>
      KINDS.flatMap((kind) =>
        this.#unit.all(`${prefix}${kind}`).map((value): UnitCondition => {
          const [, marks = '', path = ''] = /^([|!]*)\s*(.*)$/.exec(this.#expand(value)) ?? [];
          if (marks.includes('|')) {
            this.#warnings.push(`${prefix}${kind}=${value}: | is not done, all must hold`);
          }
          return { kind, path, negated: marks.includes('!'), assertion: prefix === 'Assert' };
        }),
      ),
    );
  }

  /** systemd.exec(5). A link after a colon is not made, and a path that leads elsewhere is left out. */
  #directories() {
    return DIRECTORY_KINDS.flatMap(({ key, base, variable }) => {
      const mode = Number.parseInt(this.#service.last(`${key}Mode`) ?? '0755', 8) & 0o7777;
      // The others are the user's.
      const rootOwned = key === 'ConfigurationDirectory';
      return this.#service
        .all(key)
        .flatMap((value) => plainWords(this.#expand(value)))
        .map((word) => word.split(':')[0] ?? '')
        .filter((path) => /^[^/]/.test(path) && !path.split('/').includes('..'))
        .map((path) => ({ path: `${base}/${path}`, mode, variable, rootOwned }));
    });
  }
}
