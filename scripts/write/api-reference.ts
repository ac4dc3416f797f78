/** The pages docs/reference/api*.md, made from the comments of the interface, for scripts/write/wire.ts. */
import { join } from 'node:path';
import { parseInterface, type Struct, type Type, versionOf } from './varlink.ts';

const FOLDER = join(import.meta.dirname, '../../docs/reference');
const TYPES = 'api-types.md';
const COMMANDS = 'api-commands.md';
const JOBS = 'api-jobs.md';
const SNAPSHOTS = 'api-snapshots.md';

const OF_SNAPSHOTS = /^(?:Fork|Rollback|CommitImage|Diff|Apply|Discard|\w*Snapshots?)$/;
const TYPES_OF_SNAPSHOTS = ['Change', 'EntryKind', 'LeftAlone'];
const TYPES_OF_JOBS = ['CheckStatus', 'Check'];

/** Methods about one command or one sandbox; all others are on the page of jobs. */
const OF_COMMANDS =
  /^(?:GetVersion|Run|(?:Open|Close|Kill)Sandbox|ListSandboxes|Execute|Send\w+|ResizeTerminal|(?:Read|Write)File)$/;

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
      return `[${type.name}](${pageOfType(type.name)}#type-${type.name.toLowerCase()})`;
    default:
      return type.kind;
  }
}

function pageOfType(name: string): string {
  if (TYPES_OF_JOBS.includes(name)) return JOBS;
  return TYPES_OF_SNAPSHOTS.includes(name) ? SNAPSHOTS : TYPES;
}

function pageOfMethod(name: string): string {
  if (OF_SNAPSHOTS.test(name)) return SNAPSHOTS;
  return OF_COMMANDS.test(name) ? COMMANDS : JOBS;
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
  const methodsOf = (place: string) =>
    [...of.methods]
      .filter(([name]) => pageOfMethod(name) === place)
      .map(
        ([name, { doc, input, output }]) =>
          `## ${name}\n\n${line(doc)}\n\n${table('parameter', input)}${table('reply', output)}`,
      );
  const errors = [...of.errors].map(
    ([name, { doc, type }]) => `## error ${name}\n\n${line(doc)}\n\n${table('field', type)}`,
  );
  const typesOf = (place: string) =>
    [...of.types]
      .filter(([name]) => pageOfType(name) === place)
      .map(([name, { doc, type }]) => typeSection(name, doc, type));
  const rows = names.map((name) => {
    const [first = ''] = line(of.methods.get(name)?.doc ?? '').split(/(?<=\.) /);
    return `| [${name}](${pageOfMethod(name)}#${name.toLowerCase()}) | ${first} |\n`;
  });
  const index = `# The API: reference

Version ${versionOf(of)}. Written by \`npm run write-wire\` from \`src/api/io.kiln.varlink\`.

${rules.slice(rules.findIndex((text) => text.startsWith('- '))).join('\n')}

| method | |
| --- | --- |
${rows.join('')}
[Errors and types](${TYPES}).
`;
  return new Map([
    [join(FOLDER, 'api.md'), index],
    [join(FOLDER, COMMANDS), page('commands and sandboxes', methodsOf(COMMANDS))],
    [join(FOLDER, JOBS), page('builds, images, services', [...methodsOf(JOBS), ...typesOf(JOBS)])],
    [
      join(FOLDER, SNAPSHOTS),
      page('snapshots and changes', [...methodsOf(SNAPSHOTS), ...typesOf(SNAPSHOTS)]),
    ],
    [join(FOLDER, TYPES), page('errors and types', [...errors, ...typesOf(TYPES)])],
  ]);
}
