import { KilnError } from '../errors.ts';
import { ProcessCgroups } from '../kernel/cgroup-files.ts';
import { domainPrefix } from '../sandbox/box-record.ts';
import type { Engine } from '../sandbox/open.ts';
import type { SandboxLimits } from '../sandbox/specification.ts';
import { boxProcesses } from './box-processes.ts';
import { HealthWatch } from './health-watch.ts';
import type { LogFile } from './log-file.ts';
import { type Publication, publishPort } from './publish.ts';
import { openServiceBox, serviceImage } from './service-box.ts';
import { serviceUnits } from './service-units.ts';
import type { ServiceState, ServiceStatus } from './status.ts';
import type { StoredService } from './store.ts';
import { tmpfilesPlan } from './tmpfiles.ts';
import { Tree } from './tree.ts';
import { NOTIFY_SOCKET } from './unit-command.ts';
import { namedCapabilities, type UnitHost } from './unit-host.ts';
import { UnitRunner } from './unit-runner.ts';

/** A service that runs: its box, its units, its ports. Its supervisor has exactly one. */
export class Instance {
  readonly #engine: Engine;
  readonly #service: StoredService;
  readonly #host: UnitHost;
  readonly #runners: readonly UnitRunner[];
  readonly #started = Date.now();
  #publications: Publication[] = [];
  #phase: 'starting' | 'up' | 'stopping' = 'starting';
  #restarting = 0;
  #health: HealthWatch | undefined;

  private constructor(engine: Engine, service: StoredService, host: UnitHost) {
    this.#engine = engine;
    this.#service = service;
    this.#host = host;
    const surroundings = {
      hostname: service.definition.hostname ?? service.name,
      machineId: host.tree.readText('/etc/machine-id')?.trim() ?? '',
    };
    const units = serviceUnits(host.tree, service.definition, surroundings);
    for (const unit of units) {
      for (const warning of unit.warnings) host.log.write('kiln', `${unit.name}: ${warning}`);
    }
    this.#runners = units.map((unit) => new UnitRunner(host, unit, () => undefined));
  }

  /** Opens the box of a service and its ports; no unit runs yet. Throws E_UNIT, E_IMAGE_MISSING, E_PUBLISH, and what opening a box throws. */
  static async open(engine: Engine, service: StoredService, log: LogFile): Promise<Instance> {
    await using image = await serviceImage(engine, service);
    const sandbox = await openServiceBox(engine, service, image);
    const tree = new Tree(sandbox.openRoot());
    try {
      const host: UnitHost = {
        paths: engine.paths,
        sandbox,
        control: sandbox.control(),
        tree,
        log,
        environment: { ...image.manifest.environment, ...service.definition.environment },
        capabilities: namedCapabilities(service.definition.capabilities),
      };
      const instance = new Instance(engine, service, host);
      await instance.#prepare();
      return instance;
    } catch (error) {
      tree[Symbol.dispose]();
      await sandbox.close();
      throw error;
    }
  }

  get units(): readonly UnitRunner[] {
    return this.#runners;
  }

  get host(): UnitHost {
    return this.#host;
  }

  /** Resolves when the box is gone, whoever ended it. */
  get gone(): Promise<void> {
    return this.#host.control.gone;
  }

  async #prepare(): Promise<void> {
    const { control, tree, log } = this.#host;
    // A port that somebody else has is found before anything runs.
    for (const port of this.#service.definition.publish) {
      this.#publications.push(await publishPort(control, port));
    }
    const plan = tmpfilesPlan(tree);
    const own = { path: '/run/kiln', mode: 0o755, uid: 0, gid: 0 };
    await control.makeDirectories([own, ...plan.directories]);
    for (const line of plan.undone) log.write('kiln', `tmpfiles.d: not done: ${line}`);
    await control.listenForNotifications(NOTIFY_SOCKET, (pid, text) => {
      for (const runner of this.#runners) runner.notified(pid, text);
    });
  }

  /** Starts the units in order. A unit that fails does not stop the others. Throws the first failure. */
  async start(): Promise<void> {
    const failures: unknown[] = [];
    for (const runner of this.#runners) {
      if (this.#phase === 'stopping') return;
      await runner.start().catch((error) => failures.push(error));
    }
    if (this.#phase === 'starting') this.#phase = 'up';
    const { health } = this.#service.definition;
    if (health !== undefined) {
      this.#health = new HealthWatch(this.#host, health, () => this.restart(undefined));
    }
    if (failures.length > 0) throw failures[0];
  }

  /** Stops ports and units, in reverse order, and ends the box. */
  async close(): Promise<void> {
    this.#phase = 'stopping';
    this.#health?.stop();
    for (const publication of this.#publications) await publication[Symbol.asyncDispose]();
    this.#publications = [];
    for (const runner of [...this.#runners].reverse()) {
      await runner.stop().catch((error) => this.#host.log.write('kiln', String(error)));
    }
    this.#host.tree[Symbol.dispose]();
    await this.#host.sandbox.close();
  }

  /** The unit of that name, or all. Throws E_UNIT. */
  chosen(name: string | undefined): readonly UnitRunner[] {
    if (name === undefined) return this.#runners;
    const found = this.#runners.filter(({ unit }) => unit.name === name);
    if (found.length > 0) return found;
    throw new KilnError('E_UNIT', `${this.#service.name} does not run ${name}`, {
      hint: `it runs ${this.#runners.map(({ unit }) => unit.name).join(', ')}`,
    });
  }

  /** Stops a unit or all, and starts them again. Throws the first failure. */
  async restart(name: string | undefined): Promise<void> {
    const runners = this.chosen(name);
    this.#restarting++;
    try {
      for (const runner of [...runners].reverse()) await runner.stop();
      for (const runner of runners) await runner.start();
    } finally {
      this.#restarting--;
    }
  }

  /** Nothing runs, and nothing will by itself. */
  get idle(): boolean {
    if (this.#restarting > 0 || this.#phase === 'starting') return false;
    return this.#runners.every(({ state }) => state === 'failed' || state === 'inactive');
  }

  /** Sets limits of the running box. Throws E_LIMIT. */
  async limit(limits: SandboxLimits): Promise<void> {
    const { sandbox } = this.#host;
    const cgroups = ProcessCgroups.of(sandbox.initPid);
    cgroups.limit(sandbox.initPid, sandbox.id, limits);
  }

  async status(): Promise<ServiceStatus> {
    const { sandbox } = this.#host;
    const units = this.#runners.map((runner) => runner.status());
    return {
      name: this.#service.name,
      state: this.#state(),
      image: this.#service.image,
      box: sandbox.id,
      domain: `${domainPrefix(this.#engine.paths)}${sandbox.id}`,
      supervisorPid: process.pid,
      initPid: sandbox.initPid,
      started: this.#started,
      restarts: units.reduce((sum, unit) => sum + unit.restarts, 0),
      health: this.#health?.health ?? null,
      units,
      publish: this.#publications.map(({ port }) => port),
      usage: await this.#usage(),
    };
  }

  #state(): ServiceState {
    if (this.#phase !== 'up') return this.#phase === 'starting' ? 'starting' : 'stopping';
    const states = this.#runners.map((runner) => runner.state);
    if (states.every((state) => state === 'failed')) return 'failed';
    const fine = states.every((state) => ['active', 'reloading', 'inactive'].includes(state));
    return fine && this.#health?.health.state !== 'unhealthy' ? 'running' : 'degraded';
  }

  async #usage(): Promise<ServiceStatus['usage']> {
    const { sandbox } = this.#host;
    const cgroups = ProcessCgroups.of(sandbox.initPid);
    const { cpuMicroseconds, peakMemoryBytes, oomKills } = cgroups.usage(sandbox.id);
    const all = {
      cpuMicroseconds,
      memoryBytes: cgroups.memoryBytes(),
      peakMemoryBytes,
      pids: boxProcesses(sandbox.initPid).length,
      oomKills,
    };
    return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  }
}
