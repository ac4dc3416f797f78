/** docs/reference/api.md, made from the comments of the interface, for scripts/write/wire.ts. */
import { join } from 'node:path';
import {
  INTERFACE_VERSION,
  parseInterface,
  type Struct,
  type Type,
} from '../../src/api/interface.ts';

export const API_PAGE = join(import.meta.dirname, '../../docs/reference/api.md');

const HEADING = '# The API: reference\n';

function typeText(type: Type): string {
  switch (type.kind) {
    case 'optional':
      return typeText(type.of);
    case 'array':
      return `list of ${typeText(type.of)}`;
    case 'map':
      return `map of ${typeText(type.of)}`;
    case 'enum':
      return type.values.join(', ');
    case 'struct':
      return `(${type.fields.map((field) => `${field.name}: ${typeText(field.type)}`).join(', ')})`;
    case 'named':
      return `[${type.name}](#type-${type.name.toLowerCase()})`;
    default:
      return type.kind;
  }
}

/** What a comment says, in one line. */
function line(doc: string): string {
  return doc.replaceAll('\n', ' ').replaceAll('|', '\\|');
}

function table(title: string, { fields }: Struct): string {
  if (fields.length === 0) return '';
  const rows = fields.map(({ name, type, doc }) => {
    const must = type.kind === 'optional' ? '' : ' \\*';
    return `| \`${name}\`${must} | ${typeText(type)} | ${line(doc)} |\n`;
  });
  return `| ${title} | type | |\n| --- | --- | --- |\n${rows.join('')}\n`;
}

function typeSection(name: string, doc: string, type: Type): string {
  const text = doc === '' ? '' : `${line(doc)}\n\n`;
  const fields = type.kind === 'struct' ? table('field', type) : `One of: ${typeText(type)}.\n\n`;
  return `### type ${name}\n\n${text}${fields}`;
}

/** The text of the page for an interface description. */
export function apiPage(text: string): string {
  const of = parseInterface(text);
  const rules = of.doc.split('\n').filter((text) => text !== '');
  const methods = [...of.methods].map(
    ([name, { doc, input, output }]) =>
      `### ${name}\n\n${line(doc)}\n\n${table('parameter', input)}${table('reply', output)}`,
  );
  const errors = [...of.errors].map(
    ([name, { doc, type }]) => `### error ${name}\n\n${line(doc)}\n\n${table('field', type)}`,
  );
  const types = [...of.types].map(([name, { doc, type }]) => typeSection(name, doc, type));
  return `${HEADING}
Version ${INTERFACE_VERSION}. Written by \`npm run write-wire\` from \`src/api/io.kiln.varlink\`. \\* marks what is always there.

${rules.slice(rules.findIndex((text) => text.startsWith('- '))).join('\n')}

## Methods

${methods.join('')}## Errors

${errors.join('')}## Types

${types.join('').trimEnd()}
`;
}
