import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Caller } from './caller.ts';
import { parseBind } from './values.ts';

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

A recipe’s exit status is that of the step that failed. 124: out of time. 125: kiln failed.

Recipes:
  kiln build recipes/builds/hello.yaml --resultdir out
  kiln build zlib --sources ~/tarballs --offline    # one of recipes/builds; nothing is downloaded
  kiln build ./release.ts --param version=1.2
  kiln build --schema                               # the JSON Schema of YAML recipes
`;

/** Adds the options that only recipes have. */
export function addRecipeOptions(command: Command, caller: Pick<Caller, 'cwd'>): Command {
  const options = [
    new Option('--param <name=value>', 'recipes: what a TypeScript one finds in `parameters`')
      .argParser((text: string, before: (readonly [string, string])[] | undefined) => [
        ...(before ?? []),
        parseParameter(text),
      ])
      .default([] as (readonly [string, string])[], 'none'),
    new Option('--bind <src:dst[:ro|rw][,z|Z]>', 'recipes: show a file or folder of the host')
      .argParser((text: string, before: ReturnType<typeof parseBind>[] | undefined) => [
        ...(before ?? []),
        parseBind(text, caller.cwd()),
      ])
      .default([] as ReturnType<typeof parseBind>[], 'none'),
    new Option('--allow-host', 'recipes: allow $host, binds and the host’s network'),
    new Option(
      '--allow-host-write',
      'recipes: confirm writable binds of what the host lives on; see docs/sandboxes.md',
    ),
    new Option('--schema', 'print the JSON Schema of YAML recipes, and do nothing else'),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

function parseParameter(text: string): [string, string] {
  const equals = text.indexOf('=');
  if (equals < 1) throw new InvalidArgumentError('write it as NAME=VALUE.');
  return [text.slice(0, equals), text.slice(equals + 1)];
}
