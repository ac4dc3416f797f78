/** What values of options and arguments are, by the names that help has for them: shells complete them. */
import type { ValueDescription } from './describe.ts';

/** What `kiln complete` lists. */
export const LISTED = ['image', 'recipe', 'sandbox', 'service'] as const;
export type Listed = (typeof LISTED)[number];

/**
 * `file` and `folder`: of the host. `image`, `recipe`: also files. `text`: nothing is known about it.
 * `command`: what follows is the sandbox's.
 */
export type ValueKind = Listed | 'file' | 'folder' | 'command' | 'text';

/** By the name in help, in small letters; what follows the first sign that is no letter does not count. */
const KINDS: Readonly<Record<string, ValueKind>> = {
  image: 'image',
  recipe: 'recipe',
  // kiln-mock's -r: a recipe, or a file of mock's.
  config: 'recipe',
  // Of `build`: a source package or a recipe.
  source: 'recipe',
  id: 'sandbox',
  service: 'service',
  command: 'command',
  file: 'file',
  path: 'file',
  src: 'file',
  // A profile of --seccomp; --profile has choices.
  profile: 'file',
  step: 'file',
  dir: 'folder',
  directory: 'folder',
};

/** Names of values that nothing is known about. */
const TEXTS: ReadonlySet<string> = new Set([
  ...[
    'addr',
    'arch',
    'capability',
    'chain',
    'check',
    'condition',
    'count',
    'dst',
    'glob',
    'host',
    'how',
  ],
  ...['key', 'kind', 'label', 'layer', 'lines', 'macro', 'name', 'network', 'number', 'option'],
  ...['options', 'package', 'phases', 'plugin', 'rate', 'repo', 'repository', 'seconds', 'setting'],
  ...[
    'shell',
    'size',
    'stage',
    'status',
    'template',
    'text',
    'time',
    'unit',
    'uri',
    'url',
    'user',
    'what',
  ],
]);

/** What a value is. @throws Error for a name that is in neither list: add it to one of them */
export function valueKind({
  name,
  choices = [],
}: Pick<ValueDescription, 'name'> & Partial<ValueDescription>): ValueKind {
  const [word = ''] = /[a-z]+/.exec(name.toLowerCase()) ?? [];
  if (name === 'name=file') return 'text';
  if (choices.length > 0) return 'text';
  const kind = KINDS[word] ?? (TEXTS.has(word) ? 'text' : undefined);
  if (kind !== undefined) return kind;
  throw new Error(`src/cli/reference/value-kinds.ts does not say what a value called ${name} is`);
}
