/** TypeScript types of the interface of the daemon, for scripts/write/wire.ts. */
import {
  type Field,
  type Interface,
  interfaceTable,
  parseInterface,
  type Struct,
  type Type,
  versionOf,
} from './varlink.ts';

const PLAIN = { bool: 'boolean', int: 'number', float: 'number', string: 'string' } as const;

function typeText(type: Type): string {
  switch (type.kind) {
    case 'optional':
      return typeText(type.of);
    case 'array':
      return `readonly ${element(type.of)}[]`;
    case 'map':
      return `Readonly<Record<string, ${typeText(type.of)}>>`;
    case 'enum':
      return type.values.map((value) => `'${value}'`).join(' | ');
    case 'struct':
      return type.fields.length === 0 ? 'Readonly<Record<string, never>>' : fieldsText(type);
    case 'object':
      return 'Readonly<Record<string, unknown>>';
    case 'named':
      return type.name;
    default:
      return PLAIN[type.kind];
  }
}

function element(type: Type): string {
  const text = typeText(type);
  return /[ |]/.test(text) ? `(${text})` : text;
}

function fieldsText({ fields }: Struct): string {
  return `{\n${fields.map(fieldText).join('')}}`;
}

function fieldText({ name, doc, type }: Field): string {
  const isOptional = type.kind === 'optional';
  const orNot = isOptional ? ' | undefined' : '';
  return `${comment(doc)}readonly ${name}${isOptional ? '?' : ''}: ${typeText(type)}${orNot};\n`;
}

function comment(doc: string): string {
  if (doc === '') return '';
  const lines = doc.split('\n');
  if (lines.length === 1) return `/** ${doc} */\n`;
  return `/**\n${lines.map((line) => ` * ${line}\n`).join('')} */\n`;
}

function declaration(name: string, doc: string, type: Type): string {
  if (type.kind === 'struct' && type.fields.length > 0) {
    return `${comment(doc)}export interface ${name} ${fieldsText(type)}\n`;
  }
  return `${comment(doc)}export type ${name} = ${typeText(type)};\n`;
}

/** The text of src/api/io-kiln.ts. */
export function apiTypes(text: string): string {
  const of: Interface = parseInterface(text);
  const parts = [
    `// Written by scripts/write/wire.ts from io.kiln.varlink, which says what each is. Do not edit.
`,
    ...[...of.types].map(([name, { doc, type }]) => declaration(name, doc, type)),
    ...[...of.methods].flatMap(([name, { doc, input, output }]) => [
      declaration(`${name}Parameters`, doc, input),
      declaration(`${name}Reply`, `What {@link ${name}Parameters} are answered with.`, output),
    ]),
    `/** All methods: their parameters and replies. */
export interface Methods {
${[...of.methods.keys()].map((name) => `readonly ${name}: { readonly parameters: ${name}Parameters; readonly reply: ${name}Reply };\n`).join('')}}
`,
    `/** All errors: their parameters. */
export interface Errors {
${[...of.errors].map(([name, { type }]) => `readonly ${name}: ${typeText(type)};\n`).join('')}}
`,
    `export const INTERFACE_VERSION = ${versionOf(of)};

/** The interface itself, which src/api/interface.ts checks by. */
export const INTERFACE = ${interfaceTable(of)} as const;
`,
  ];
  return parts.join('\n');
}
