import { BootedSystem } from './boot/booted-system.ts';
import type { ServiceDefinition } from './definition.ts';
import { KilnUnits } from './kiln-units.ts';
import type { UnitManager } from './running-unit.ts';
import type { StoredService } from './store.ts';
import type { Tree } from './tree.ts';
import { listUnits, loadUnit, type UnitSurroundings, unitName } from './unit/load-unit.ts';
import { readUnit } from './unit/read-unit.ts';
import type { ServiceUnit } from './unit/service-unit.ts';
import type { UnitHost } from './unit-host.ts';
import { startOrder } from './unit-order.ts';

/** The unit that a service with a command instead of units has. */
const COMMAND_UNIT = 'command.service';

/**
 * The units of a service, those that they require of the image too, in the order of their start.
 * Throws E_UNIT.
 */
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

/** Who runs the units of a service: kiln, or a systemd that boots in the box. Throws E_UNIT. */
export function unitManager(host: UnitHost, { name, definition }: StoredService): UnitManager {
  if (definition.boot) return new BootedSystem(host, definition.units.map(unitName));
  const surroundings = {
    hostname: definition.hostname ?? name,
    machineId: host.tree.readText('/etc/machine-id')?.trim() ?? '',
  };
  return new KilnUnits(host, serviceUnits(host.tree, definition, surroundings));
}

/** A command as a unit: started again when it fails. */
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
    // Nothing in it is a variable: it came as separate words.
    literal: true,
    renamed: false,
  };
  return { ...unit, type: 'exec', commands: { ...unit.commands, start: [start] } };
}
