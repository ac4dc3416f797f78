import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { KilnError, reasonOf } from '../../errors.ts';
import { parseCapability } from '../../sandbox/policy/specification.ts';
import { unitManager } from '../definition/service-units.ts';
import { tmpfilesPlan } from '../lifecycle/owned-paths.ts';
import { knownImage, type StoredService } from '../lifecycle/store.ts';
import { Tree } from '../lifecycle/tree.ts';
import type { LogFile } from '../log-file.ts';
import type { ServiceState, ServiceStatus } from '../status.ts';
import { HealthWatch } from './health.ts';
import { registerMachine } from './machined.ts';
import { writeNameServers } from './network.ts';
import { openServiceSandbox, serviceImage } from './service-sandbox.ts';
import type { LiveLimits } from './supervisor-client.ts';
import { NOTIFY_SOCKET, type RunningUnit, type UnitHost, type UnitManager } from './unit-host.ts';
import { sandboxProcesses } from './unit-processes.ts';

/** Where a service's machine has other files than its image, its /etc and /var. */
function mountedIn({ definition }: StoredService): string[] {
  const { mounts, tmpfs, 'guest-binds': guestBinds } = definition;
  return [...mounts, ...tmpfs, ...guestBinds].map(({ target }) => target);
}

export class Instance {
  readonly #service: StoredService;
  readonly host: UnitHost;
  readonly #manager: UnitManager;
  readonly #started = Date.now();
  #phase: 'starting' | 'up' | 'stopping' = 'starting';
  #restarting = 0;
  #health: HealthWatch | undefined;

  private constructor(service: StoredService, host: UnitHost) {
    this.#service = service;
    this.host = host;
    this.#manager = unitManager(host, service);
  }

  static async open(engine: Engine, service: StoredService, log: LogFile): Promise<Instance> {
    await using image = await serviceImage(engine.paths, service);
    // Before anything runs: programs may look for it only once.
    const sandbox = await openServiceSandbox(engine, service, image, (lease) => {
      writeNameServers(service.files.etc, lease.nameServers);
      log.write('kiln', `${lease.interface} has ${lease.address}, leased by ${lease.server}`);
    });
    const isMachine = sandbox.ground.machine !== undefined;
    let tree: Tree | undefined;
    try {
      tree = isMachine
        ? Tree.withOwn(image.tree, service.files.directory, mountedIn(service))
        : new Tree(sandbox.tree.openRoot());
      const host: UnitHost = {
        sandbox,
        control: sandbox.control,
        tree,
        log,
        environment: { ...image.manifest.environment, ...service.definition.environment },
        capabilities: service.definition.capabilities.map(parseCapability),
        seccomp: service.definition.seccomp,
      };
      const instance = new Instance(service, host);
      // What machined would note of a machine is its relay.
      if (!isMachine) await tellMachined(service.name, sandbox.initPid, log);
      await instance.#prepare();
      return instance;
    } catch (error) {
      tree?.[Symbol.dispose]();
      await sandbox.close();
      throw error;
    }
  }

  get units(): readonly RunningUnit[] {
    return this.#manager.units;
  }

  get failures(): string[] {
    const { failure } = this.#manager;
    const units = this.units.filter(({ state }) => state === 'failed');
    return [
      ...(failure === undefined ? [] : [failure]),
      ...units.map((unit) => `${unit.name}: ${unit.status().reason}`),
    ];
  }

  get gone(): Promise<void> {
    const ends = [this.host.control.gone, this.#manager.lost];
    const lost = this.host.sandbox.addressLost;
    if (lost !== undefined) ends.push(lost.then(() => undefined));
    return Promise.race(ends);
  }

  async #prepare(): Promise<void> {
    const { control, tree, log } = this.host;
    this.host.sandbox.addressLost
      ?.then((reason) => {
        if (reason !== undefined) log.write('kiln', reasonOf(reason));
      })
      .catch(() => undefined);
    // A systemd in the sandbox reads tmpfiles.d itself.
    const plan = this.#service.definition.boot ? undefined : tmpfilesPlan(tree);
    const own = { path: '/run/kiln', mode: 0o755, uid: 0, gid: 0 };
    await control.makeDirectories([own, ...(plan?.directories ?? [])]);
    for (const line of plan?.undone ?? []) log.write('kiln', `tmpfiles.d: not done: ${line}`);
    await control.listenForNotifications(NOTIFY_SOCKET, (pid, text) =>
      this.#manager.notified(pid, text),
    );
  }

  /** A failed unit does not stop the others. Throws the first failure. */
  async start(): Promise<void> {
    try {
      await this.#manager.start();
    } finally {
      if (this.#phase === 'starting') {
        this.#phase = 'up';
        const { health } = this.#service.definition;
        const restart = () => this.restart(undefined);
        if (health !== undefined) this.#health = new HealthWatch(this.host, health, restart);
      }
    }
  }

  async close(): Promise<void> {
    this.#phase = 'stopping';
    this.#health?.stop();
    try {
      await this.host.sandbox.ports.close();
      await this.#manager.stop();
    } finally {
      // Whatever went wrong: a service without a supervisor counts as stopped.
      this.host.tree[Symbol.dispose]();
      await this.host.sandbox.close();
    }
  }

  chosen(name: string | undefined): readonly RunningUnit[] {
    if (name === undefined) return this.units;
    const found = this.units.filter((unit) => unit.name === name);
    if (found.length > 0) return found;
    throw new KilnError('E_UNIT', `${this.#service.name} does not run ${name}`, {
      hint: `it runs ${this.units.map((unit) => unit.name).join(', ')}`,
    });
  }

  async restart(name: string | undefined): Promise<void> {
    const units = name === undefined ? [] : this.chosen(name);
    this.#restarting++;
    try {
      if (name === undefined) await this.#manager.restart();
      for (const unit of units) await unit.stop();
      for (const unit of units) await unit.start();
    } finally {
      this.#restarting--;
    }
  }

  get idle(): boolean {
    if (this.#restarting > 0 || this.#phase === 'starting') return false;
    return this.#manager.idle;
  }

  async limit(limits: LiveLimits): Promise<void> {
    const { sandbox } = this.host;
    await sandbox.ground.limit(limits);
  }

  async status(): Promise<ServiceStatus> {
    const { sandbox } = this.host;
    await this.#manager.refresh();
    const units = this.units.map((unit) => unit.status());
    return {
      name: this.#service.name,
      state: this.#state(),
      image: knownImage(this.#service),
      sandbox: sandbox.id,
      domain: sandbox.domain,
      supervisorPid: process.pid,
      initPid: sandbox.initPid,
      started: this.#started,
      restarts: units.reduce((sum, unit) => sum + unit.restarts, 0),
      health: this.#health?.health ?? null,
      units,
      publish: this.#service.definition.publish,
      address: sandbox.addresses.join(' ') || null,
      usage: await this.#usage(),
    };
  }

  #state(): ServiceState {
    if (this.#phase !== 'up') return this.#phase === 'starting' ? 'starting' : 'stopping';
    const states = this.units.map((unit) => unit.state);
    if (states.length > 0 && states.every((state) => state === 'failed')) return 'failed';
    const fine = states.every((state) => ['active', 'reloading', 'inactive'].includes(state));
    return fine && this.#health?.health.state !== 'unhealthy' ? 'running' : 'degraded';
  }

  async #usage(): Promise<ServiceStatus['usage']> {
    const { sandbox } = this.host;
    const { cpuMicroseconds, memoryBytes, peakMemoryBytes, oomKills } = sandbox.ground.usage();
    return defined({
      cpuMicroseconds,
      memoryBytes,
      peakMemoryBytes,
      // While it is being stopped they may be gone, and their /proc with them.
      pids: await sandboxProcesses(this.host).then(
        ({ length }) => length,
        () => undefined,
      ),
      oomKills,
    });
  }
}

/** A service runs without it, too. */
async function tellMachined(name: string, initPid: number, log: LogFile): Promise<void> {
  try {
    if (await registerMachine(name, initPid)) log.write('kiln', `machinectl knows it as ${name}`);
  } catch (error) {
    log.write('kiln', `machinectl does not know it: ${reasonOf(error)}`);
  }
}
