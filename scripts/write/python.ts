/** What of the Python package (packaging/python) is made from something else, for scripts/write/wire.ts. */
import { parseInterface, type Struct, type Type } from './varlink.ts';

const PLAIN = { bool: 'bool', int: 'int', float: 'float', string: 'str' } as const;

/** Words of Python's that fields are named like. */
const KEYWORDS = ['continue', 'from', 'with'];

/** Methods whose fields are arguments by name, without those that the package has otherwise. */
const OPTIONS: Readonly<Record<string, readonly string[]>> = {
  Run: ['argv', 'input', 'interactive', 'terminal'],
  OpenSandbox: [],
  Execute: ['sandbox', 'argv', 'input', 'interactive', 'terminal'],
  Build: ['sources'],
  Snapshot: ['sandbox'],
  Fork: ['from'],
  Rollback: ['sandbox'],
  Diff: ['of', 'patch'],
  Apply: ['sandbox', 'target'],
};

/** What has no name in the interface. */
const NAMED: readonly [method: string, of: 'input' | 'output', field: string, name: string][] = [
  ['Execute', 'input', 'terminal', 'Terminal'],
  ['ListSnapshots', 'output', 'snapshots', 'Snapshot'],
];

function typeText(type: Type): string {
  switch (type.kind) {
    case 'optional':
      return typeText(type.of);
    case 'array':
      return `list[${typeText(type.of)}]`;
    case 'map':
      return `dict[str, ${typeText(type.of)}]`;
    case 'enum':
      return `Literal[${type.values.map((value) => `"${value}"`).join(', ')}]`;
    case 'object':
      return 'dict[str, Any]';
    case 'named':
      return type.name;
    case 'struct':
      throw new Error('a struct without a name has no type in Python: add it to NAMED');
    default:
      return PLAIN[type.kind];
  }
}

function declaration(name: string, type: Type, without: readonly string[] = []): string {
  if (type.kind !== 'struct') return `${name}: TypeAlias = ${typeText(type)}\n`;
  const fields = type.fields
    .filter((field) => !without.includes(field.name))
    .map(({ name: field, doc, type: of }) => {
      const comment = doc === '' ? '' : `    # ${doc.replaceAll('\n', '\n    # ')}\n`;
      const text = typeText(of);
      const python = KEYWORDS.includes(field) ? `${field}_` : field;
      return `${comment}    ${python}: ${of.kind === 'optional' ? `NotRequired[${text}]` : text}\n`;
    });
  return `class ${name}(TypedDict):\n${fields.join('')}`;
}

function inner(struct: Struct, name: string): Type {
  let type = struct.fields.find((field) => field.name === name)?.type;
  while (type?.kind === 'optional' || type?.kind === 'array') type = type.of;
  if (type === undefined) throw new Error(`no field ${name}`);
  return type;
}

/** The text of kiln/types.py. */
export function pythonTypes(text: string): string {
  const { types, methods } = parseInterface(text);
  const method = (name: string) => {
    const found = methods.get(name);
    if (found === undefined) throw new Error(`no method ${name}`);
    return found;
  };
  const parts = [
    `"""What calls take and return: written by scripts/write/python.ts of kiln from io.kiln.varlink."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict
`,
    // An alias is evaluated where it stands: names that it has come before it.
    ...[...types]
      .sort(([, a], [, b]) => Number(a.type.kind === 'struct') - Number(b.type.kind === 'struct'))
      .map(([name, { type }]) => declaration(name, type)),
    ...NAMED.map(([of, end, field, name]) => declaration(name, inner(method(of)[end], field))),
    ...Object.entries(OPTIONS).map(([name, without]) =>
      declaration(`${name}Options`, method(name).input, without),
    ),
    declaration('ApplyReply', method('Apply').output),
  ];
  return parts.join('\n\n');
}

/** From asyncio to threads: the first that fits counts. */
const TO_THREADS: readonly (readonly [RegExp, string])[] = [
  [/^"""[\s\S]*?"""$/m, '"""kiln for threads: written by scripts/write/python.ts from aio.py."""'],
  [/\basync (?=def |with |for )/g, ''],
  [/\bawait /g, ''],
  [/\bAsyncIterator\b/g, 'Iterator'],
  [/\b__a(iter|enter|exit)__/g, '__$1__'],
  [/ \._asyncio /, ' ._threads '],
];

/** The text of kiln/sync.py, made of aio.py. */
export function pythonSync(aio: string): string {
  return TO_THREADS.reduce((text, [pattern, by]) => text.replace(pattern, by), aio);
}
