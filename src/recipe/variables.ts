import { suggest } from './problem.ts';

/**
 * The variables a recipe may use in repository settings and in `files[].source`, as `$name` or
 * `${name}`. Nowhere else: the content of a file or an environment value is taken literally, since
 * shells use the same notation.
 */
export interface RecipeVariables {
  /** The state directory, absolute. */
  readonly KILN_STATE: string;
  /** Where the fixture repositories lie, absolute: `KILN_FIXTURES`, or `fixtures` in the state directory. */
  readonly KILN_FIXTURES: string;
  /** The folder of the recipe that uses the variable, absolute. */
  readonly recipe_dir: string;
}

/** Left for the repository to fill in (`resolveRepository`). */
const REPOSITORY_VARIABLES = ['arch', 'basearch', 'releasever'];

/** A variable that has no value, for the caller to report with its place. */
export interface UnknownVariable {
  readonly name: string;
  readonly hint: string;
}

/** `text` with kiln's own variables replaced; unknown ones stay and are listed. */
export function expandVariables(
  text: string,
  variables: RecipeVariables,
): { readonly text: string; readonly unknown: readonly UnknownVariable[] } {
  const values = new Map<string, string>(Object.entries(variables));
  const known = [...values.keys(), ...REPOSITORY_VARIABLES];
  const unknown: UnknownVariable[] = [];
  const replace = (whole: string, braced: string | undefined, bare: string | undefined) => {
    const name = braced ?? bare ?? '';
    const value = values.get(name);
    if (value !== undefined) return value;
    if (!REPOSITORY_VARIABLES.includes(name)) {
      const near = suggest(name, known);
      const hint =
        near === undefined ? `known variables: ${known.join(', ')}` : `did you mean $${near}?`;
      unknown.push({ name, hint });
    }
    return whole;
  };
  return { text: text.replace(/\$(?:\{([^}]*)\}|(\w+))/g, replace), unknown };
}
