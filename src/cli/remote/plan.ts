/** A command line that is to run on another machine: its words there, and the files that it names here. */
import { basename, dirname, isAbsolute, join, normalize, resolve } from 'node:path';
import { asideName } from '../../host/process/own-node.ts';
import { RecipeDocument, readRecipeText } from '../../recipe/document.ts';
import { INPUTS } from '../../remote/far.ts';
import type { Packer } from '../../remote/pack.ts';
import type { Caller } from '../caller/caller.ts';
import { type KilnCommand, wordsOf } from '../options/command.ts';
import {
  checkCommand,
  refusedError,
  type Way,
  wayOfArgument,
  wayOfImage,
  wayOfOption,
} from './ways.ts';

/** What a command writes there and this machine gets: into `place`, where one name may be all that is meant. */
interface Output {
  readonly name: string;
  readonly place: string;
  readonly only?: string | undefined;
}

/** The words of the command there, the variables that they name, and what travels. */
export async function planRemote(command: KilnCommand, caller: Caller) {
  const name = wordsOf(command);
  checkCommand(name);
  const plan = new Plan(caller.cwd());
  const options = command.opts();
  const given = command.written;
  const detaches = options.detach === true;
  const argv: string[] = name.split(' ');
  // Among the words, others on that machine could read the values of variables.
  const env: Record<string, string> = {};
  for (const { flag, attribute, text, row } of given) {
    if (detaches && attribute === 'resultDirectory') {
      throw refusedError(
        '--resultdir with --detach',
        `results wait there: \`kiln --host … results ID DIR\` fetches them`,
      );
    }
    const way = wayOfOption(row, options[attribute]);
    if (text === null) {
      if (typeof way === 'object' && 'refused' in way) throw refusedError(flag, way.refused);
      argv.push(flag);
    } else if (attribute === 'env' && !text.includes('=')) {
      const value = caller.variable(text);
      if (value === undefined) continue;
      argv.push(`${flag}=${text}`);
      env[asideName(text)] = value;
    } else argv.push(`${flag}=${await plan.word(flag, way, text, row.kind.pathIn?.(text))}`);
  }
  // What is so by default names a folder here as well, or an image.
  const isGiven = (attribute: string) => given.some((option) => option.attribute === attribute);
  if (name === 'build' && !isGiven('resultDirectory') && !detaches && options.schema !== true) {
    argv.push(
      `--resultdir=${await plan.word('--resultdir', { path: 'results' }, options.resultDirectory)}`,
    );
  }
  if (typeof options.image === 'string' && !isGiven('image')) {
    const way = wayOfImage(options.image);
    argv.push(`--image=${await plan.word('KILN_IMAGE', way, options.image)}`);
  }
  const args = [...command.args];
  if (name === 'results' && args.length === 1) args.push(command.processedArgs[1] as string);
  argv.push('--');
  const isCommand = name === 'run' || name === 'exec';
  for (const [index, word] of args.entries()) {
    argv.push(isCommand ? word : await plan.word(word, wayOfArgument(name, index, word), word));
  }
  const { outputs, names } = plan;
  // There, the folder has another name.
  const says = name === 'results' ? args[1] : undefined;
  return { argv, env, outputs, names, detaches, says, pack: (packer: Packer) => plan.pack(packer) };
}

class Plan {
  readonly outputs: Output[] = [];
  readonly names = new Map<string, string>();
  readonly #cwd: string;
  readonly #packing: ((packer: Packer) => Promise<void>)[] = [];
  #count = 0;

  constructor(cwd: string) {
    this.#cwd = cwd;
  }

  async pack(packer: Packer): Promise<void> {
    for (const pack of this.#packing) await pack(packer);
  }

  async word(
    what: string,
    way: Way,
    text: string,
    [from, to]: readonly [from: number, to: number] = [0, text.length],
  ): Promise<string> {
    if (way === 'as it is') return text;
    if ('refused' in way) throw refusedError(what, way.refused);
    const path = text.slice(from, to);
    return text.slice(0, from) + (await this.#path(way.path, path)) + text.slice(to);
  }

  async #path(
    kind: Exclude<Way, string | { refused: string }>['path'],
    path: string,
  ): Promise<string> {
    const near = resolve(this.#cwd, path);
    if (kind === 'results' || kind === 'lone results') return this.#output(path, near);
    if (kind === 'result') {
      return path === '-'
        ? path
        : `${this.#output(dirname(path), dirname(near), basename(near))}/${basename(near)}`;
    }
    const number = `${this.#count++}`;
    const far = `${INPUTS}/${number}/${basename(near) || 'files'}`;
    this.names.set(far, path);
    if (kind === 'file' && /\.ya?ml$/.test(near)) {
      for (const file of await recipeFiles(near)) {
        this.#packing.push((packer) =>
          packer.file(join(dirname(near), file), `${INPUTS}/${number}/${file}`),
        );
      }
    }
    if (kind === 'file') this.#packing.push((packer) => packer.file(near, far));
    else {
      const links = kind === 'sources' ? 'followed' : 'as they are';
      this.#packing.push((packer) => packer.tree(near, far, links));
    }
    // A slash, or `/.`, at its end has a meaning to whoever copies it on.
    const [end = ''] = kind === 'tree' ? (/\/\.?\/*$/.exec(path) ?? []) : [];
    return `${far}${end}`;
  }

  #output(path: string, place: string, only?: string): string {
    const name = `out${this.#count++}`;
    this.outputs.push({ name, place, only });
    this.names.set(name, path);
    return name;
  }
}

const HINT = 'name a recipe by the path of its file';

/**
 * The files that a recipe in YAML names beside itself, relative to its folder. Whoever runs the recipe says what else is
 * wrong with it.
 */
async function recipeFiles(recipe: string): Promise<readonly string[]> {
  const value = new RecipeDocument(recipe, await readRecipeText(recipe, HINT)).value();
  if (typeof value !== 'object' || value === null) return [];
  const { sources, image } = value as { readonly sources?: unknown; readonly image?: unknown };
  const named = Array.isArray(sources)
    ? sources.map((source: unknown) => (source as { readonly file?: unknown } | null)?.file)
    : [];
  const files = [
    ...named,
    typeof image === 'string' && /\.(?:ya?ml|json)$/.test(image) ? image : undefined,
  ];
  return files
    .filter((file) => typeof file === 'string')
    .map((file) => {
      const path = normalize(file);
      if (isAbsolute(path) || path.startsWith('..')) {
        throw refusedError(
          `${file}, which ${recipe} names,`,
          'what a recipe names travels from its own folder',
        );
      }
      return path;
    });
}
