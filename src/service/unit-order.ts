import { KilnError } from '../errors.ts';
import type { ServiceUnit } from './unit/service-unit.ts';

/**
 * The units in an order that After= and Before= allow; those that do not care stay as they are.
 * Throws E_UNIT for a cycle.
 */
export function startOrder(units: readonly ServiceUnit[]): ServiceUnit[] {
  const ordered: ServiceUnit[] = [];
  const visiting = new Set<ServiceUnit>();
  const precedes = (a: ServiceUnit, b: ServiceUnit) =>
    b.after.includes(a.name) || a.before.includes(b.name);
  const visit = (unit: ServiceUnit): void => {
    if (ordered.includes(unit)) return;
    if (visiting.has(unit)) {
      throw new KilnError('E_UNIT', `${unit.name} is to start after itself`, {
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
