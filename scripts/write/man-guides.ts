/** Man pages of files and of the daemon, from pages of docs and the JSON Schema of service.yaml. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { lexer, type Token, type Tokens } from 'marked';
import { serviceJsonSchema } from '../../src/service/definition/definition.ts';
import { DOCUMENTATION, type PageSettings, plain, prose, verbatim } from './man.ts';

const DOCS = join(import.meta.dirname, '../../docs');

/** `docs/NAME`, or one of its sections. */
type Part = readonly [file: string, section?: string];

interface Guide {
  readonly name: string;
  readonly section: 5 | 8;
  readonly summary: string;
  readonly synopsis: readonly string[];
  /** Roff that comes before the pages of docs. */
  readonly first?: () => string;
  readonly parts: readonly Part[];
  readonly seeAlso: readonly string[];
}

const GUIDES: readonly Guide[] = [
  {
    name: 'kiln.yaml',
    section: 5,
    summary: 'defaults of options, repositories, and what users may',
    synopsis: ['/etc/kiln/kiln.yaml', '~/.config/kiln.yaml'],
    parts: [['configuration.md'], ['administration.md', '/etc/kiln/kiln.yaml']],
    seeAlso: ['kiln-config (1)', 'kilnd (8)'],
  },
  {
    name: 'kiln-recipe',
    section: 5,
    summary: 'what an image is made of, and what a build does',
    synopsis: [
      '/etc/kiln/recipes/NAME.yaml',
      '/usr/lib/kiln/recipes/images/NAME.yaml',
      'PATH.yaml',
    ],
    parts: [['recipes.md']],
    seeAlso: ['kiln-image (1)', 'kiln-build (1)'],
  },
  {
    name: 'service.yaml',
    section: 5,
    summary: 'what a service of kiln runs, and how',
    synopsis: ['/var/lib/kiln/services/NAME/service.yaml'],
    first: () => `.SH KEYS\n${keys(serviceJsonSchema() as Schema, '')}`,
    parts: [
      ['services.md', 'What a service is made of'],
      ['services.md', 'Changing one'],
    ],
    seeAlso: ['kiln-service (1)', 'kiln.yaml (5)'],
  },
  {
    name: 'kilnd',
    section: 8,
    summary: 'the daemon that runs commands for kiln',
    synopsis: ['/usr/lib/kiln/bin/kilnd'],
    parts: [
      ['engine.md', 'kilnd under systemd'],
      ['../README.md', 'What it needs'],
      ['administration.md', 'Users'],
      ['engine.md', 'When things die'],
    ],
    seeAlso: ['kiln (1)', 'kiln.yaml (5)', 'systemctl (1)'],
  },
];

interface Schema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
}

/** A key for each line of a file, those of lists and of maps below theirs. */
function keys({ properties = {}, items, anyOf = [] }: Schema, above: string): string {
  const own = Object.entries(properties).map(([name, schema]) => {
    const types = [schema.type ?? schema.anyOf?.map(({ type }) => type) ?? []].flat(2);
    const preset = schema.default;
    const isTold = preset !== undefined && JSON.stringify(preset).length > 2;
    const by = isTold ? `; by default \`${JSON.stringify(preset)}\`` : '';
    const path = `${above}${name}`;
    const kind = [...new Set(types)].filter((type) => type !== undefined).join(' or ');
    const text = `${schema.description ?? ''}${by}`.replace(/^; b/, 'B');
    return `.TP\n\\fB${plain(path)}\\fR (${plain(kind)})\n${prose(text) || '\\&'}\n${keys(schema, `${path}.`)}`;
  });
  const below = [...(items === undefined ? [] : [items]), ...anyOf];
  return [...own, ...below.map((schema) => keys(schema, above))].join('');
}

function inline(tokens: readonly Token[] = []): string {
  return tokens
    .map((token) => {
      if (token.type === 'codespan') return `\`${token.text}\``;
      if (token.type === 'strong') return `\`${inline(token.tokens).replaceAll('`', '')}\``;
      if (token.type === 'html') return '';
      // What is named as a file is one of docs, wherever the page lies.
      if (token.type === 'link' && /^[\w-]+\.md$/.test(token.text)) return `docs/${token.text}`;
      if (token.type === 'br') return ' ';
      if ('tokens' in token && token.tokens !== undefined) return inline(token.tokens);
      return 'text' in token ? String(token.text) : '';
    })
    .join('')
    .replaceAll(/\s*\n\s*/g, ' ');
}

function row(cells: readonly Tokens.TableCell[]): string {
  const [first = '', ...rest] = cells.map(({ tokens }) => inline(tokens));
  const head = prose(first).replaceAll('\n', ' ');
  return `.TP\n${head || '\\&'}\n${prose(rest.filter(Boolean).join('; ')) || '\\&'}\n`;
}

function item({ tokens }: Tokens.ListItem, mark: string): string {
  const [first = '', ...rest] = tokens
    .filter(({ type }) => type !== 'space')
    .map((token) => ('tokens' in token ? `${prose(inline(token.tokens))}\n` : block(token)));
  return `.IP ${mark} 3\n${first}${rest.length === 0 ? '' : `.RS 3\n${rest.join('')}.RE\n`}`;
}

function block(token: Token): string {
  const { type } = token;
  if (type === 'paragraph') return `.PP\n${prose(inline(token.tokens))}\n`;
  if (type === 'heading') return `.SS ${plain(inline(token.tokens).replaceAll('`', ''))}\n`;
  if (type === 'code') return `.PP\n${verbatim(String(token.text).split('\n'))}`;
  if (type === 'table') return (token as Tokens.Table).rows.map(row).join('');
  if (type !== 'list') return '';
  const { items, ordered } = token as Tokens.List;
  return items.map((each, at) => item(each, ordered ? `${at + 1}.` : '\\(bu')).join('');
}

/** What stands below a title, up to the next of its rank. */
function below(tokens: readonly Token[], title: string): readonly Token[] {
  const begin = tokens.findIndex((token) => token.type === 'heading' && token.text === title);
  if (begin < 0) throw new Error(`no page of docs has the section ${title}`);
  const end = tokens.findIndex(
    (token, at) => at > begin && token.type === 'heading' && token.depth <= 2,
  );
  return tokens.slice(begin, end < 0 ? undefined : end);
}

/** The whole page begins with what it is about. */
function part([file, section]: Part): string {
  const tokens = lexer(readFileSync(join(DOCS, file), 'utf8'));
  const meant = section === undefined ? tokens : below(tokens, section);
  return meant
    .map((token) => {
      if (token.type !== 'heading' || token.depth > 2) return block(token);
      const title = token.depth === 1 ? 'Description' : inline(token.tokens).replaceAll('`', '');
      return `.SH ${plain(title.toUpperCase())}\n`;
    })
    .join('');
}

/** All of them, by name and section: `kiln.yaml.5`. */
export function guidePages({
  date,
  version,
}: Pick<PageSettings, 'date' | 'version'>): ReadonlyMap<string, string> {
  return new Map(
    GUIDES.map(({ name, section, summary, synopsis, first, parts, seeAlso }) => {
      const text = [
        '.\\" Written by scripts/write/man-guides.ts from pages of docs.\n',
        `.TH ${plain(name.toUpperCase())} ${section} ${date} "kiln ${version}" "kiln"\n`,
        `.SH NAME\n${plain(name)} \\- ${plain(summary)}\n`,
        `.SH SYNOPSIS\n${synopsis.map((path) => `.I ${plain(path)}\n`).join('.br\n')}`,
        first?.() ?? '',
        ...parts.map(part),
        DOCUMENTATION,
        `.SH SEE ALSO\n${seeAlso.map((other, at) => `.BR ${plain(other)}${at === seeAlso.length - 1 ? '' : ' ,'}\n`).join('')}`,
      ].join('');
      return [`${name}.${section}`, text.replaceAll(/(\.S[HS] [^\n]*\n)\.PP\n/g, '$1')] as const;
    }),
  );
}
