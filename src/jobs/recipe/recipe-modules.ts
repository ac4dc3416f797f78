/** Loading a recipe's modules in a process that has no file system: kiln is asked for each. */
import { registerHooks, stripTypeScriptTypes } from 'node:module';

/** The scheme of a recipe's own modules; the path is below the recipe's folder. */
export const RECIPE_SCHEME = 'kiln-recipe:';

type ProvidedModules = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

const PROVIDED = Symbol.for('kiln.recipe.modules');
const PROVIDED_SCHEME = 'kiln-provided:';

/**
 * Makes `import` in a recipe find its own modules through `read`, `provided` ones and Node's, nothing else.
 * Imports by kiln's own modules are left alone.
 */
export function serveModules(read: (path: string) => string, provided: ProvidedModules): void {
  Object.defineProperty(globalThis, PROVIDED, { value: provided });
  registerHooks({
    resolve(specifier, context, next) {
      const ours = [RECIPE_SCHEME, PROVIDED_SCHEME].includes(URL.parse(specifier)?.protocol ?? '');
      if (!ours && !context.parentURL?.startsWith(RECIPE_SCHEME)) return next(specifier, context);
      if (ours) return { url: specifier, shortCircuit: true };
      if (Object.hasOwn(provided, specifier)) {
        return { url: `${PROVIDED_SCHEME}${specifier}`, format: 'module', shortCircuit: true };
      }
      if (/^\.{1,2}\//.test(specifier)) {
        return { url: new URL(specifier, context.parentURL).href, shortCircuit: true };
      }
      if (specifier.startsWith('node:')) return next(specifier, context);
      throw new Error(
        `a recipe cannot import '${specifier}': only ${Object.keys(provided).join(', ')}, node: modules and files beside it`,
      );
    },
    load(url, context, next) {
      if (url.startsWith(PROVIDED_SCHEME)) {
        const name = url.slice(PROVIDED_SCHEME.length);
        return { format: 'module', source: providedSource(name, provided), shortCircuit: true };
      }
      if (!url.startsWith(RECIPE_SCHEME)) return next(url, context);
      const path = decodeURIComponent(new URL(url).pathname).replace(/^\/+/, '');
      const text = read(path);
      if (path.endsWith('.json')) return { format: 'json', source: text, shortCircuit: true };
      const source = /\.m?ts$/.test(path) ? withoutTypes(path, text) : text;
      return { format: 'module', source, shortCircuit: true };
    },
  });
  // Compiles the stripper of types while memory may still be mapped freely.
  stripTypeScriptTypes('0');
}

function withoutTypes(path: string, text: string): string {
  try {
    return stripTypeScriptTypes(text);
  } catch (error) {
    // Node has line and code in the stack's head, and no file.
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
    throw new SyntaxError(`${path}${stack.split('\n    at ')[0]}`, { cause: error });
  }
}

function providedSource(name: string, provided: ProvidedModules): string {
  const names = Object.keys(provided[name] ?? {}).filter(
    (key) => key !== 'default' && /^[$A-Z_a-z][$\w]*$/.test(key),
  );
  const list = names.join(', ');
  return `export const { ${list} } = globalThis[Symbol.for('kiln.recipe.modules')][${JSON.stringify(name)}];`;
}
