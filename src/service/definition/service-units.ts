import { KilnError } from '../../errors.ts';
import { BootedSystem } from '../boot/booted-system.ts';
import type { StoredService } from '../lifecycle/store.ts';
import type { Tree } from '../lifecycle/tree.ts';
import type { UnitHost, UnitManager } from '../supervisor/unit-host.ts';
import { UnitRunner } from '../supervisor/unit-runner.ts';
import { listUnits, loadUnit, unitName } from '../unit/load-unit.ts';
import { readUnit, type ServiceUnit } from '../unit/read-unit.ts';
import type { UnitSurroundings } from '../unit/values.ts';
import type { ServiceDefinition } from './definition.ts';

const COMMAND_UNIT = 'command.service';

export function serviceUnits(
  tree: Tree,
  definition: ServiceDefinition,
  surroundings: UnitSurroundings,
): ServiceUnit[] {
  if (definition.command !== undefined) return [commandUnit(definition, surroundings)];
  const wanted = definition.units.map(unitName);
  const known = new Set(listUnits(tree));
  const units = new Map<string, ServiceUnit>();
  for (let name = wanted.shift(); name !== undefined; name = wanted.shift()) {
    if (units.has(name)) continue;
    const unit = loadUnit(tree, name, surroundings);
    units.set(name, unit);
    wanted.push(...unit.requires.filter((other) => known.has(other)));
  }
  return startOrder([...units.values()]);
}

export function unitManager(host: UnitHost, { name, definition }: StoredService): UnitManager {
  if (definition.boot) return new BootedSystem(host, definition.units.map(unitName));
  const surroundings = {
    hostname: definition.hostname ?? name,
    machineId: host.tree.readText('/etc/machine-id')?.trim() ?? '',
  };
  return new KilnUnits(host, serviceUnits(host.tree, definition, surroundings));
}

function commandUnit(definition: ServiceDefinition, surroundings: UnitSurroundings): ServiceUnit {
  const { command = [], user, workdir, description } = definition;
  const text = (value: string) => value.replaceAll('%', '%%');
  const settings = [
    ['Unit', 'Description', text(description || command.join(' '))],
    ['Service', 'Restart', 'on-failure'],
    ['Service', 'RestartSec', '1'],
    ['Service', 'User', user ?? ''],
    ['Service', 'WorkingDirectory', text(workdir ?? '')],
  ].map(([section = '', key = '', value = ''], index) => ({
    section,
    key,
    value,
    file: 'service.yaml',
    line: index + 1,
  }));
  const root = { name: user ?? 'root', uid: 0, home: '/root' };
  const context = {
    ...surroundings,
    unit: COMMAND_UNIT,
    user: root,
    group: { name: 'root', gid: 0 },
  };
  const unit = readUnit(settings, context, []);
  const [path = '', ...rest] = command;
  const start = {
    path,
    words: rest.map((word) => ({ text: word, quoted: true })),
    ignoreFailure: false,
    privileged: false,
    // The command came as separate words, so nothing in it is a variable.
    literal: true,
    renamed: false,
  };
  return { ...unit, type: 'exec', commands: { ...unit.commands, start: [start] } };
}

/** As After= and Before= allow; units without order keep their place. Throws E_UNIT for a cycle. */
export function startOrder(units: readonly ServiceUnit[]): ServiceUnit[] {
  const ordered: ServiceUnit[] = [];
  const visiting = new Set<ServiceUnit>();
  const precedes = (a: ServiceUnit, b: ServiceUnit) =>
    b.after.includes(a.name) || a.before.includes(b.name);
  const visit = (unit: ServiceUnit): void => {
    if (ordered.includes(unit)) return;
    if (visiting.has(unit)) {
      throw new KilnError('E_UNIT', `${unit.name} is ordered to start after itself`, {
        hint: 'its After= and Before= make a circle with those of the other units',
      });
    }
    visiting.add(unit);
    for (const other of units) if (precedes(other, unit)) visit(other);
    visiting.delete(unit);
    ordered.push(unit);
  };
  for (const unit of units) visit(unit);
  return ordered;
}

class KilnUnits implements UnitManager {
  readonly #host: UnitHost;
  readonly units: readonly UnitRunner[];
  readonly failure = undefined;
  readonly lost = new Promise<void>(() => undefined);
  #stopping = false;

  constructor(host: UnitHost, units: readonly ServiceUnit[]) {
    this.#host = host;
    for (const unit of units) {
      for (const warning of unit.warnings) host.log.write('kiln', `${unit.name}: ${warning}`);
    }
    this.units = units.map((unit) => new UnitRunner(host, unit));
  }

  get idle(): boolean {
    return this.units.every(({ state }) => state === 'failed' || state === 'inactive');
  }

  async start(): Promise<void> {
    const failures: unknown[] = [];
    for (const runner of this.units) {
      if (this.#stopping) return;
      await runner.start().catch((error) => failures.push(error));
    }
    if (failures.length > 0) throw failures[0];
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    for (const runner of [...this.units].reverse()) {
      await runner.stop().catch((error) => this.#host.log.write('kiln', String(error)));
    }
  }

  async restart(): Promise<void> {
    for (const runner of [...this.units].reverse()) await runner.stop();
    for (const runner of this.units) await runner.start();
  }

  async refresh(): Promise<void> {}

  notified(pid: number, text: string): void {
    for (const runner of this.units) runner.notified(pid, text);
  }
}
