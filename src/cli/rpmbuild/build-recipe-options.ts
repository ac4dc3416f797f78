import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Caller } from '../caller/caller.ts';
import { parseBind } from '../options/values.ts';

/** Options that only recipes have. */
export interface RecipeOptions {
  readonly param: readonly (readonly [string, string])[];
  readonly allowHost?: boolean;
  readonly allowHostWrite?: boolean;
  readonly bind: readonly ReturnType<typeof parseBind>[];
  readonly schema?: boolean;
}

/** For `kiln build --help`. */
export const RECIPE_EXAMPLES = `

The exit status of a recipe is that of the step that failed. kiln’s own: 124 the time limit was
reached; 125 kiln failed.

Recipes:
  kiln build recipes/builds/hello.yaml --resultdir out
  kiln build zlib --sources ~/tarballs --offline    # one of recipes/builds; nothing is downloaded
  kiln build ./release.ts --param version=1.2
  kiln build --schema                               # the JSON Schema of YAML recipes
`;

/** Adds the options that only recipes have. */
export function addRecipeOptions(command: Command, caller: Pick<Caller, 'cwd'>): Command {
  const options = [
    new Option('--param <name=value>', 'recipes: set a parameter of a TypeScript recipe')
      .argParser((text: string, before: (readonly [string, string])[] | undefined) => [
        ...(before ?? []),
        parseParameter(text),
      ])
      .default([] as (readonly [string, string])[], 'none'),
    new Option('--bind <src:dst[:ro|rw][,z|Z]>', 'recipes: bind-mount a host path')
      .argParser((text: string, before: ReturnType<typeof parseBind>[] | undefined) => [
        ...(before ?? []),
        parseBind(text, caller.cwd()),
      ])
      .default([] as ReturnType<typeof parseBind>[], 'none'),
    new Option('--allow-host', 'recipes: allow $host, binds and the network of the host'),
    new Option(
      '--allow-host-write',
      'recipes: allow writable binds of directories that the host itself needs; see docs/sandboxes.md',
    ),
    new Option('--schema', 'print the JSON Schema of YAML recipes and exit'),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

function parseParameter(text: string): [string, string] {
  const equals = text.indexOf('=');
  if (equals < 1) throw new InvalidArgumentError('write it as NAME=VALUE.');
  return [text.slice(0, equals), text.slice(equals + 1)];
}
