import { z } from 'zod';
import { defined } from '../defined.ts';
import { HOSTNAME } from '../options/measures.ts';
import { LIMITS } from '../options/sandbox.ts';
import { network } from '../options/texts.ts';
import { environment, keysOf, size, time, valuesOfKeys, yaml } from '../options/yaml.ts';
import { sharedTarget } from '../sandbox/policy/specification.ts';
import { RecipeDocument, readRecipeText } from './document.ts';
import { RecipeError } from './problem.ts';

function text(most: number) {
  return z
    .string()
    .min(1)
    .max(most)
    .regex(/^[^\0]*$/, 'no NUL byte');
}

const absolutePath = z
  .string()
  .max(4095)
  .regex(/^\/(?!.*(?:^|\/)\.\.(?:\/|$))[^\0]*$/, 'an absolute path without ..');

const sandboxPath = text(4095).describe(
  'Absolute, or relative to the working directory of the recipe',
);

const user = z
  .string()
  .regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(?::\d{1,5})?$/, 'NAME, UID or UID:GID');

const sha256 = z.string().regex(/^[0-9a-f]{64}$/, '64 hexadecimal digits, in lower case');

const sourceName = z
  .string()
  .max(255)
  .regex(/^(?!\.{1,2}$)[^/\0\n]+$/, 'a file name without a slash');

const url = z
  .string()
  .max(4096)
  .refine((text) => {
    const parsed = URL.parse(text);
    return parsed !== null && ['http:', 'https:'].includes(parsed.protocol);
  }, 'an http or https URL');

const source = z
  .strictObject({
    url: z
      .union([url, z.array(url).min(1).max(16)])
      .optional()
      .describe('Where it is fetched from before the build; a list is tried in its order'),
    file: text(4095).optional().describe('A file beside the recipe or below'),
    sha256: sha256.optional().describe('Its digest; only a file beside the recipe may go without'),
    name: sourceName.optional().describe('What it is called in /sources; as in the URL by default'),
    'max-size': size.optional().describe('Bytes it may have; 4G by default'),
  })
  .superRefine(({ url, file, sha256, name }, context) => {
    const refuse = (message: string) => context.addIssue({ code: 'custom', message });
    if (url !== undefined && file !== undefined) refuse('url and file exclude each other');
    if (file === undefined && sha256 === undefined) {
      refuse('sha256 is missing: without it nobody knows what will be built');
    }
    if (url === undefined && file === undefined && name === undefined) {
      refuse('one of url, file and name is needed (name alone: the file comes by --sources)');
    }
  });

const bind = z.strictObject({
  source: absolutePath.describe('On the host'),
  target: absolutePath,
  readonly: z.boolean().default(false),
});

const networkName = z
  .string()
  .regex(/^[A-Za-z0-9_.-]{1,64}$/, 'private, host, or the name of a libvirt network');

const sandboxKeys = z.strictObject({
  user: user.optional().describe("Who runs the steps; the image's user by default"),
  workdir: absolutePath.optional().describe("Where steps start; the image's by default"),
  hostname: z.string().regex(HOSTNAME, 'letters, digits, . and - only').optional(),
  env: environment.default({}),
  network: yaml({ ...network, yaml: networkName })
    .default('private')
    .describe('private (none but lo), the name of a libvirt network, or host (needs --allow-host)'),
  egress: z
    .array(z.string().max(300))
    .min(1)
    .max(1000)
    .optional()
    .describe(
      'Hosts that steps with `network: true` reach by an HTTP proxy: HOST, HOST:PORT, *.HOST; needs --allow-host for addresses that are not public',
    ),
  profile: z
    .enum(['default', 'build', 'strict', 'nested'])
    .default('default')
    .describe(
      'What the sandbox lets its commands do: build: trace, strict: less, nested: make sandboxes',
    ),
  ...keysOf(LIMITS),
  timeout: time.optional().describe('For all steps together'),
  tmpfs: z
    .array(z.strictObject({ target: absolutePath, size: size.exactOptional() }))
    .max(64)
    .default([]),
  bind: z.array(bind).max(64).default([]).describe('Parts of the host; needs --allow-host'),
});

/** As the options of the same names are in a request. `profile` says two of them at once. */
const sandbox = sandboxKeys.transform(({ profile, bind: binds, ...keys }) => {
  const { user, workdir, hostname, env, network, egress = [], tmpfs } = keys;
  return {
    ...{ env, network, egress, tmpfs, binds },
    ...(profile === 'nested'
      ? { profile, seccomp: 'default' }
      : { profile: 'default' as const, seccomp: profile }),
    ...defined({ user, workdir, hostname }),
    ...valuesOfKeys(LIMITS, keys),
  };
});

const stepShape = {
  name: z
    .string()
    .min(1)
    .max(80)
    .regex(/^[^\p{Cc}]*$/u, 'no control character')
    .optional()
    .describe('What messages and result.json call it'),
  workdir: sandboxPath.optional(),
  env: environment.default({}),
  user: user.optional().describe('Instead of the user of the recipe; root for container root'),
  timeout: time.optional(),
  network: z.boolean().default(false).describe("Whether it may use the sandbox's network"),
};

const script = text(256 * 1024).describe(
  'For bash -euo pipefail, or sh -eu where the image has no bash',
);

function recipe<Run extends z.ZodType>(run: Run) {
  return z
    .strictObject({
      description: z.string().max(1000).optional().describe('One line for people'),
      image: z
        .string()
        .min(1)
        .max(4095)
        .optional()
        .describe('As -r of kiln run takes it; a path is relative to the recipe'),
      fromSnapshot: z
        .string()
        .min(1)
        .max(64)
        .optional()
        .describe(
          'Instead of an image: a snapshot, by its name or id, whose files steps begin with',
        ),
      sandbox: sandbox.default(() => sandbox.parse({})),
      sources: z.array(source).max(1000).default([]).describe('Files that lie in /sources'),
      steps: z
        .array(z.union([script, z.strictObject({ ...stepShape, run })]))
        .min(1)
        .max(1000),
      artifacts: z
        .array(text(4095))
        .max(1000)
        .default([])
        .describe('Patterns of what is taken out; see docs/artifacts.md'),
    })
    .superRefine((value, context) => {
      if ((value.image === undefined) === (value.fromSnapshot === undefined)) {
        const message = 'one of image and fromSnapshot is needed, and not both';
        context.addIssue({ code: 'custom', message, path: ['image'] });
      }
      // What has a mistake is still as it was written.
      if (!Object.hasOwn(value.sandbox, 'binds')) return;
      const twice = sharedTarget([...value.sandbox.tmpfs, ...value.sandbox.binds]);
      if (twice !== undefined) {
        const message = `two mounts are for ${twice}: the second would hide the first`;
        context.addIssue({ code: 'custom', message, path: ['sandbox'] });
      }
      if (value.sandbox.network !== 'private' || value.sandbox.egress.length > 0) return;
      for (const [index, step] of value.steps.entries()) {
        if (typeof step === 'string' || !step.network) continue;
        const message =
          'the sandbox has no network: sandbox.network or sandbox.egress says which it is to have';
        context.addIssue({ code: 'custom', message, path: ['steps', index, 'network'] });
      }
    })
    .meta({
      description: 'A kiln build: an image, sources, steps that run in a sandbox, artifacts',
      oneOf: [{ required: ['image'] }, { required: ['fromSnapshot'] }],
    });
}

export const buildRecipeSchema = recipe(script);

/** Stands for a function when a recipe leaves its process. */
const functionMark = z.custom<{ readonly function: true }>(
  (value) => (value as { function?: unknown } | null)?.function === true,
  'must be a script (a string) or a function',
);

const scriptRecipeSchema = recipe(z.union([script, functionMark]));

/** Sizes are bytes, times milliseconds. */
export type BuildRecipe = z.output<typeof scriptRecipeSchema>;
export type BuildRecipeInput = z.input<typeof buildRecipeSchema>;
export type RecipeSource = BuildRecipe['sources'][number];

/** Its time is milliseconds. */
export type RecipeStep = Readonly<ReturnType<typeof stepsOf>[number]>;

export function stepsOf({ steps }: BuildRecipe) {
  return steps.map((step, index) => {
    const isMap = typeof step !== 'string';
    const run = isMap ? step.run : step;
    const { name, workdir, env = {}, user: who, timeout, network = false } = isMap ? step : {};
    return {
      name: name ?? String(index + 1),
      script: typeof run === 'string' ? run : undefined,
      workdir,
      env,
      user: who,
      timeout,
      network,
    };
  });
}

export function buildRecipeJsonSchema(): unknown {
  return z.toJSONSchema(buildRecipeSchema, { io: 'input', unrepresentable: 'any' });
}

const HINT =
  'docs/recipes.md describes every key; `kiln build --schema` prints the JSON Schema for editors';

const MISSING = 'check the path; recipes/builds has examples';

/** @throws RecipeError (`E_RECIPE`) with all its problems, each with line and column; KilnError `E_RECIPE_READ` */
export async function loadBuildRecipe(path: string): Promise<BuildRecipe> {
  const document = new RecipeDocument(path, readRecipeText(path, MISSING));
  const value = document.value();
  const recipe = value === undefined ? undefined : document.check(buildRecipeSchema, value);
  if (recipe === undefined || document.problems.length > 0) {
    throw new RecipeError(path, document.problems, HINT);
  }
  return recipe;
}

/** Marks replace functions. @throws RecipeError (`E_RECIPE`) with all problems; they have no line */
export function checkScriptRecipe(path: string, exported: unknown): BuildRecipe {
  if (typeof exported !== 'object' || exported === null) {
    const message = 'it must have a default export: export default defineRecipe({ … })';
    throw new RecipeError(path, [{ file: path, line: 0, column: 0, path: '', message }], HINT);
  }
  const document = new RecipeDocument(path, '');
  const recipe = document.check(scriptRecipeSchema, exported);
  if (recipe !== undefined) return recipe;
  const problems = document.problems.map((problem) => ({ ...problem, line: 0, column: 0 }));
  throw new RecipeError(path, problems, HINT);
}
