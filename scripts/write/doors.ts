/** Writes docs/doors.md from the table that test/doors measures; a test compares. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  AROUND_MACHINES,
  type Around,
  aroundInMachine,
  closedInMachines,
  type Door,
  doorEntry,
  doorNames,
  EVERYWHERE,
  LAYERS,
} from '../../test/doors/table.ts';

export const DOORS_PAGE = join(import.meta.dirname, '../../docs/doors.md');

function row(cells: readonly string[]): string {
  return `| ${cells.map((cell) => (cell === '' ? '–' : cell)).join(' | ')} |\n`;
}

const quoted = (doors: readonly string[]) => doors.map((door) => `\`${door}\``).join(', ');

/** Doors with the same layers around them are one row, in the order of the table. */
function sheet(doors: readonly Door[], aroundOf: (door: Door) => Around): string {
  const rows = Map.groupBy(doors, (door) => {
    const around = aroundOf(door);
    return JSON.stringify(LAYERS.map((layer) => around[layer]));
  });
  const heads =
    row(['door', ...LAYERS]) + row(Array.from({ length: LAYERS.length + 1 }, () => '---'));
  return (
    heads + [...rows].map(([layers, names]) => row([quoted(names), ...JSON.parse(layers)])).join('')
  );
}

const list = (layers: Readonly<Record<string, string>>) =>
  Object.entries(layers)
    .map(([layer, value]) => `- ${layer}: ${value}\n`)
    .join('');

/** The text of docs/doors.md. */
export function doorsPage(): string {
  const closed = Map.groupBy(doorNames, (door) => closedInMachines(door)?.why);
  const open = closed.get(undefined) ?? [];
  const why = [...closed].flatMap(([reason, doors]) =>
    reason === undefined ? [] : [`- ${reason}: ${quoted(doors)}\n`],
  );
  return `<!-- Written by scripts/write/doors.ts from test/doors/table.ts. Do not edit. -->
# Doors: the layers around each way into a sandbox

One program goes into a sandbox by each of these ways and tries all layers from inside (\`test/doors\`). This
page lists what it must find. A way in, or a layer, that is not in the table fails the test.
[security.md](security.md) says what each layer is for.

## Behind every door

${list(EVERYWHERE)}
## By door

${sheet(doorNames, (door) => doorEntry(door).around)}
## By door, in a machine

With \`--isolation vm\` ([machines.md](machines.md)), measured by the same program (\`test/doors/machines.test.ts\`); what
is the same behind every door is so in a machine. A step of a recipe with its network has a way to one host there.

${sheet(open, aroundInMachine)}
These doors lead into no machine:

${why.join('')}
## Around every machine

Looked at from the host while the command runs:

${list(AROUND_MACHINES)}`;
}

if (import.meta.main) writeFileSync(DOORS_PAGE, doorsPage());
