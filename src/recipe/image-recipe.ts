import { z } from 'zod';
import { environment, seconds, size } from '../options/yaml.ts';
import { repositorySchema } from '../packages/repository/configuration-schema.ts';

/** As useradd(8), and upper case as Samba needs it: no shell characters, no separator of /etc/passwd, no path. */
const accountName = z
  .string()
  .max(32)
  .regex(
    /^[A-Za-z_][A-Za-z0-9_.-]*\$?$/,
    'letters, digits and _ . - only, not beginning with a digit',
  );

/** Ids that a sandbox maps; 65534 is "nobody" to the kernel. */
const accountId = z.int().min(0).max(65533);

const absolutePath = z
  .string()
  .max(4095)
  .regex(/^\/(?!.*(?:^|\/)\.\.?(?:\/|$))[^\0]*$/, 'an absolute path without . and .. components')
  .transform((path) => path.replace(/\/+/g, '/').replace(/(?<=.)\/$/, ''));

/** A colon or a line end would begin another field. */
const passwdField = z.string().regex(/^[^:\n\0]*$/, 'no colon and no line end');

const modeSchema = z
  .union([z.string(), z.number()])
  .transform((value, context) => {
    const text = typeof value === 'number' ? value.toString(8) : value;
    if (/^[0-7]{3,4}$/.test(text) && typeof value === 'string') return Number.parseInt(text, 8);
    context.addIssue({
      code: 'custom',
      message: `${JSON.stringify(value)} is no file mode: write it in quotes, as '0644'`,
    });
    return z.NEVER;
  })
  .meta({ description: "Permissions in octal, in quotes: '0644'" });

const fileSchema = z
  .strictObject({
    path: absolutePath
      .refine((path) => path !== '/', 'a file, not the root of the image')
      .describe('Where it goes in the image; missing folders are made'),
    content: z.string().optional().describe('The content itself'),
    source: z
      .string()
      .min(1)
      .optional()
      .describe('A file to copy, relative to the recipe; variables are filled in'),
    mode: modeSchema.default(0o644),
    owner: accountName.default('root'),
    group: accountName.default('root'),
  })
  .superRefine((file, context) => {
    if ((file.content === undefined) === (file.source === undefined)) {
      context.addIssue({ code: 'custom', message: 'exactly one of content and source is needed' });
    }
  });

const userSchema = z.strictObject({
  name: accountName,
  uid: accountId,
  gid: accountId.optional().describe('The same as uid unless given'),
  group: accountName
    .optional()
    .describe(
      'What the group of this gid is called where the packages bring none; NAME unless given',
    ),
  comment: passwdField.default(''),
  home: absolutePath.optional().describe('Made and owned by the user; /home/NAME unless given'),
  shell: absolutePath.default('/bin/sh'),
  groups: z.array(accountName).default([]).describe('Further groups, made if they do not exist'),
});

const scriptletsSchema = z.strictObject({
  mode: z
    .enum(['auto', 'exact', 'none'])
    .optional()
    .describe(
      "auto: payloads first, then scriptlets, where that gives what rpm gives, else exact; exact: the image's own rpm -i does everything; none: no scriptlet and no trigger runs",
    ),
  timeout: seconds.optional().describe('For each scriptlet; 5m unless given'),
});

/** As on the command line of `dnf module`. */
const moduleSpec = z
  .string()
  .regex(
    /^[^\s:/]+(:[^\s:/]+(:[^\s:/]+){0,2})?(::[^\s:/]+)?(\/[^\s/]+)?$/,
    'expected NAME, NAME:STREAM, NAME:STREAM:VERSION:CONTEXT or NAME:STREAM/PROFILE',
  );

const modulesSchema = z.strictObject({
  enable: z
    .array(moduleSpec)
    .default([])
    .describe('Streams whose packages are taken, as nodejs:18; without a stream the default one'),
  disable: z
    .array(moduleSpec)
    .default([])
    .describe('Modules of which no stream counts, not the default one either'),
  install: z
    .array(moduleSpec)
    .default([])
    .describe('Enabled, and the packages of the profile installed, as nodejs:18/development'),
  obsoletes: z
    .boolean()
    .default(false)
    .describe('Replace streams that the repositories say are replaced; off unless set'),
  platform: z
    .string()
    .regex(/^[A-Za-z0-9._-]+$/)
    .optional()
    .describe("What `platform` is to streams, as el9; the release's packages say it unless given"),
});

/** Every key is optional: a recipe may extend another. {@link loadImageRecipe} checks the merged one. */
export const imageRecipeSchema = z
  .strictObject({
    description: z.string().optional().describe('One line for `kiln image ls`'),
    extends: z
      .string()
      .min(1)
      .optional()
      .describe('Another recipe (path or name) that this one adds to'),
    arch: z
      .string()
      .regex(/^[a-z0-9_]+$/)
      .optional()
      .describe("As rpm calls it; this machine's unless given"),
    releasever: z
      .string()
      .regex(/^[A-Za-z0-9._-]+$/)
      .optional()
      .describe('Stands for $releasever in repositories'),
    repositories: z.array(repositorySchema).default([]),
    packages: z
      .array(z.string().min(1))
      .default([])
      .describe('Names, name-version, globs, files or rich dependencies'),
    groups: z.array(z.string().min(1)).default([]).describe('comps groups, without the @'),
    exclude: z
      .array(z.string().min(1))
      .default([])
      .describe('Never installed, not as a dependency either'),
    modules: modulesSchema.optional().describe('Streams of modules (EL 8 and 9, Fedora to 38)'),
    recommends: z.boolean().optional().describe('Install weak dependencies too; off unless set'),
    files: z.array(fileSchema).default([]),
    folders: z
      .array(absolutePath)
      .default([])
      .describe('Made where the packages bring none: of root, mode 0755'),
    users: z.array(userSchema).default([]),
    environment: environment.default({}).describe('Of every command that runs in the image'),
    user: accountName
      .optional()
      .describe('Who runs commands; unless given the first of `users`, or root'),
    workdir: absolutePath.optional().describe("Where commands start; the user's home unless given"),
    scriptlets: scriptletsSchema.optional(),
    kernel: z
      .boolean()
      .optional()
      .describe(
        'Whether machines of the image boot the kernel that its packages bring; the host’s unless set',
      ),
    disk: size
      .optional()
      .describe(
        'What the packages may unpack to, and what their scriptlets may write: 16G unless given',
      ),
  })
  .describe('A kiln image: packages from RPM repositories, plus files and users');

/** As somebody writes it. */
export type ImageRecipeInput = z.input<typeof imageRecipeSchema>;
export type ImageRecipe = z.output<typeof imageRecipeSchema>;
export type RecipeFile = ImageRecipe['files'][number];
export type RecipeUser = ImageRecipe['users'][number];

export function imageRecipeJsonSchema(): unknown {
  return z.toJSONSchema(imageRecipeSchema, { io: 'input', unrepresentable: 'any' });
}
