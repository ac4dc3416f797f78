import { z } from 'zod';

const SECONDS: Readonly<Record<string, number>> = {
  '': 1,
  s: 1,
  m: 60,
  h: 3600,
  d: 86_400,
  w: 604_800,
};

/** Seconds of `90`, `90s`, `10m`, `6h`, `2d`, `1w` (dnf.conf's notation); undefined for anything else. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d{1,9})([smhdw]?)$/.exec(text);
  const unit = SECONDS[match?.[2] ?? '?'];
  return match === null || unit === undefined ? undefined : Number(match[1]) * unit;
}

const oneOrMore = z
  .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
  .transform((value) => (typeof value === 'string' ? [value] : value));

const duration = z.union([z.int().min(0), z.string()]).transform((value, context) => {
  const seconds = typeof value === 'number' ? value : parseDuration(value);
  if (seconds === undefined) {
    context.addIssue({ code: 'custom', message: 'expected a duration such as 90s, 10m, 6h or 2d' });
    return z.NEVER;
  }
  return seconds;
});

const SOURCES = ['baseurl', 'metalink', 'mirrorlist', 'directory'] as const;

const NEEDED = [
  ['username', 'password'],
  ['username', 'password_file'],
  ['sslclientcert', 'sslclientkey'],
] as const;

/**
 * A repository as a recipe writes it: dnf's names and meanings (dnf.conf(5)), and `directory` for a local one.
 * URLs and paths may contain `$basearch`, `$arch` and `$releasever`.
 */
export const repositorySchema = z
  .strictObject({
    id: z
      .string()
      .max(128)
      .regex(/^[A-Za-z0-9][A-Za-z0-9_.:-]*$/, 'letters, digits and _ . : - only')
      .describe('Short name, unique in the recipe'),
    name: z.string().optional().describe('What messages call it'),
    baseurl: oneOrMore
      .optional()
      .describe('http:, https: or file: URLs of the folder that holds repodata/'),
    metalink: z.url({ protocol: /^https?$/ }).optional(),
    mirrorlist: z.url({ protocol: /^https?$/ }).optional(),
    directory: z.string().min(1).optional().describe('A local folder that holds repodata/'),
    username: z.string().min(1).optional().describe('Sent to the hosts that are named here only'),
    password: z.string().optional().describe('Better in a file: password_file'),
    password_file: z.string().min(1).optional().describe('A file whose first line is the password'),
    token_file: z
      .string()
      .min(1)
      .optional()
      .describe('A file whose first line is a token, sent as `Authorization: Bearer`'),
    sslclientcert: z.string().min(1).optional().describe('File of the certificate to log in with'),
    sslclientkey: z.string().min(1).optional().describe('File of its key, unless it has both'),
    sslcacert: z.string().min(1).optional().describe('File of the authorities that are trusted'),
    sslverify: z.boolean().optional().describe("Check the server's certificate; on unless set"),
    gpgcheck: z
      .boolean()
      .optional()
      .describe('Verify package signatures; on unless the repository is local'),
    repo_gpgcheck: z.boolean().optional().describe("Verify repomd.xml's signature; off unless set"),
    gpgkey: oneOrMore.optional().describe('Paths (or file: URLs) of the trusted OpenPGP keys'),
    priority: z.int().min(1).max(99).default(99).describe('1 is preferred to 99'),
    cost: z
      .int()
      .min(0)
      .max(1_000_000)
      .default(1000)
      .describe('Among equals the cheaper repository is used'),
    excludepkgs: oneOrMore
      .default([])
      .describe('Names, NEVRAs or globs that are never taken from here'),
    includepkgs: oneOrMore.default([]).describe('If given, only these are taken from here'),
    module_hotfixes: z
      .boolean()
      .default(false)
      .describe('Its packages are taken whatever streams of modules are enabled'),
    metadata_expire: duration
      .prefault('6h')
      .describe('Age after which the server is asked for news'),
  })
  .superRefine((value, context) => {
    const fail = (message: string, ...path: (string | number)[]) =>
      context.addIssue({ code: 'custom', message, path });
    const given = SOURCES.filter((source) => value[source] !== undefined);
    if (given.length !== 1) {
      const found = given.length === 0 ? 'none is given' : `not ${given.join(' and ')}`;
      fail(`exactly one of ${SOURCES.join(', ')} is needed, ${found}`);
    }
    for (const [needed, option] of NEEDED) {
      if (value[option] === undefined || value[needed] !== undefined) continue;
      fail(`${option} needs ${needed}`, option);
    }
    if (value.password !== undefined && value.password_file !== undefined) {
      fail('password and password_file are one too many', 'password');
    }
    if (value.token_file !== undefined && value.username !== undefined) {
      fail('a token stands alone: leave username and password out', 'token_file');
    }
    value.baseurl?.forEach((url, index) => {
      if (/^(https?|file):\/\//.test(url)) return;
      fail('expected a URL that starts with http://, https:// or file://', 'baseurl', index);
    });
    value.gpgkey?.forEach((key, index) => {
      if (!/^(https?|ftp):/.test(key)) return;
      const why = 'a key from the network proves nothing';
      fail(`keys are trusted, so they must be local files: ${why}`, 'gpgkey', index);
    });
  });

export type RepositoryInput = z.input<typeof repositorySchema>;
export type RepositoryConfiguration = z.output<typeof repositorySchema>;
