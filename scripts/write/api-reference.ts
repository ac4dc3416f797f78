/** The pages docs/reference/api*.md, made from the comments of the interface, for scripts/write/wire.ts. */
import { join } from 'node:path';
import {
  INTERFACE_VERSION,
  parseInterface,
  type Struct,
  type Type,
} from '../../src/api/interface.ts';

const FOLDER = join(import.meta.dirname, '../../docs/reference');
const TYPES = 'api-types.md';
const COMMANDS = 'api-commands.md';
const JOBS = 'api-jobs.md';

/** Methods about one command or one sandbox; all others are on the page of jobs. */
const OF_COMMANDS =
  /^(?:GetVersion|Run|Fork|Rollback|\w*Snapshots?|(?:Open|Close|Kill)Sandbox|ListSandboxes|Execute|Send\w+|ResizeTerminal|(?:Read|Write)File)$/;

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
      return `[${type.name}](${TYPES}#type-${type.name.toLowerCase()})`;
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
  return `## type ${name}\n\n${text}${fields}`;
}

const page = (title: string, sections: readonly string[]): string =>
  `# The API: ${title}\n\nRules that hold for all methods are in [api.md](api.md). \\* marks what is always there.\n\n${sections.join('').trimEnd()}\n`;

/** The pages for an interface description, by their paths. */
export function apiPages(text: string): ReadonlyMap<string, string> {
  const of = parseInterface(text);
  const rules = of.doc.split('\n').filter((text) => text !== '');
  const names = [...of.methods.keys()];
  const methodsOf = (isOne: (name: string) => boolean) =>
    [...of.methods]
      .filter(([name]) => isOne(name))
      .map(
        ([name, { doc, input, output }]) =>
          `## ${name}\n\n${line(doc)}\n\n${table('parameter', input)}${table('reply', output)}`,
      );
  const errors = [...of.errors].map(
    ([name, { doc, type }]) => `## error ${name}\n\n${line(doc)}\n\n${table('field', type)}`,
  );
  const types = [...of.types].map(([name, { doc, type }]) => typeSection(name, doc, type));
  const rows = names.map((name) => {
    const [first = ''] = line(of.methods.get(name)?.doc ?? '').split(/(?<=\.) /);
    const place = OF_COMMANDS.test(name) ? COMMANDS : JOBS;
    return `| [${name}](${place}#${name.toLowerCase()}) | ${first} |\n`;
  });
  const index = `# The API: reference

Version ${INTERFACE_VERSION}. Written by \`npm run write-wire\` from \`src/api/io.kiln.varlink\`.

${rules.slice(rules.findIndex((text) => text.startsWith('- '))).join('\n')}

| method | |
| --- | --- |
${rows.join('')}
[Errors and types](${TYPES}).
`;
  return new Map([
    [join(FOLDER, 'api.md'), index],
    [
      join(FOLDER, COMMANDS),
      page(
        'commands and sandboxes',
        methodsOf((it) => OF_COMMANDS.test(it)),
      ),
    ],
    [
      join(FOLDER, JOBS),
      page(
        'builds, images, services',
        methodsOf((it) => !OF_COMMANDS.test(it)),
      ),
    ],
    [join(FOLDER, TYPES), page('errors and types', [...errors, ...types])],
  ]);
}
