/** /etc/kiln/kiln.yaml: who beside root may use kiln, and for what. Only root can write it. */
import { fstatSync, readFileSync, statSync } from 'node:fs';
import { totalmem } from 'node:os';
import { z } from 'zod';
import { parseEgressRule } from '../egress/rule.ts';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { openUserFile } from '../host/files/user-file.ts';
import { RecipeDocument } from '../recipe/document.ts';
import { limitKeys, size, time } from '../recipe/limit-keys.ts';
import { RecipeError } from '../recipe/problem.ts';
import type { SandboxOwner } from '../sandbox/open.ts';
import { parseCapability } from '../sandbox/policy/capabilities.ts';
import { MINIMUM_MEMORY } from '../sandbox/policy/limits.ts';

/** Its path, unless KILN_CONFIG of the daemon names another. */
const DEFAULT_FILE = '/etc/kiln/kiln.yaml';

/** The default share of the machine's memory for all sandboxes of one user. */
const USUAL_MEMORY = 0.75;

/** The most bytes: the file is written by hand. */
const SIZE_LIMIT = 1 << 20;

const HINT = 'docs/administration.md describes every key; `kiln config check` reads it again';

const egressHost = z.string().refine((text) => parseEgressRule(text) !== undefined, {
  message: 'not a host: write it as HOST, HOST:PORT or *.HOST',
});

const capability = z.string().transform((text, context) => {
  try {
    return parseCapability(text);
  } catch (error) {
    context.addIssue({ code: 'custom', message: (error as Error).message });
    return z.NEVER;
  }
});

/** The limits of each user. */
const limitsSchema = z.strictObject({
  sandboxes: z
    .int()
    .positive()
    .default(4)
    .describe('Commands of one user that run at the same time, kept sandboxes included'),
  memory: limitKeys.memory.describe(
    'Of all of them together, in equal shares; three quarters of the machine unless given',
  ),
  cpus: limitKeys.cpus.describe(
    'Of all of them together, in equal shares; unless given the kernel shares them out fairly',
  ),
  pids: limitKeys.pids
    .unwrap()
    .default(16_384)
    .describe('Of all of them together, in equal shares'),
  disk: size
    .default(16 * 2 ** 30)
    .describe('What each may write, and what may be copied in and out for it'),
  keep: time.default(24 * 3_600_000).describe('How long a sandbox may be kept'),
});

const usersSchema = z.strictObject({
  group: z
    .union([z.string().regex(/^[A-Za-z_][\w.-]*\$?$/, 'the name of a group'), z.int().positive()])
    .default('kiln')
    .describe('Whose members may use kiln: a name or a number'),
  egress: z
    .array(egressHost)
    .default([])
    .describe('Hosts that --egress may name, as HOST[:PORT] or *.HOST'),
  networks: z
    .array(z.string().regex(/^[\w.-]+$/, 'the name of a libvirt network'))
    .default([])
    .describe('libvirt networks that --network may name'),
  capabilities: z.array(capability).default([]).describe('Capabilities that --cap-add may name'),
  images: z
    .array(z.string().min(1).max(200))
    .optional()
    .describe(
      'Names of images of root’s that users see, with * for any characters; unless given all but private ones, which are made with a login: those only by their whole names',
    ),
  hostCommands: z
    .boolean()
    .default(false)
    .describe('Whether recipes of users run commands on the host, as the user, with $host'),
  farm: z
    .boolean()
    .default(false)
    .describe(
      'Whether this machine does steps of chains for users: they have a say in what its images contain',
    ),
  limits: limitsSchema.prefault({}),
});

const configurationSchema = z.strictObject({ users: usersSchema.prefault({}) });

/** What users may do, complete. Sizes are bytes, times milliseconds. */
export interface UserPolicy extends Omit<z.output<typeof usersSchema>, 'limits'> {
  readonly limits: {
    readonly sandboxes: number;
    readonly memory: number;
    readonly cpus?: number | undefined;
    readonly pids: number;
    readonly disk: number;
    readonly keep: number;
  };
}

/** The configuration's path: KILN_CONFIG is for tests, and the daemon's own variable, never a caller's. */
export function configurationFile(env: { readonly KILN_CONFIG?: string | undefined }): string {
  return env.KILN_CONFIG || DEFAULT_FILE;
}

/**
 * Reads what users may do; the defaults if there is no file.
 * @throws RecipeError (E_RECIPE) with all that is wrong with it
 */
export function readUserPolicy(file: string): UserPolicy {
  const document = new RecipeDocument(file, readText(file));
  const value = document.value();
  const read = value === undefined ? undefined : document.check(configurationSchema, value);
  if (read === undefined || document.problems.length > 0) {
    throw new RecipeError(file, document.problems, HINT, 'configuration');
  }
  const { limits, ...users } = read.users;
  const { memory = Math.floor(totalmem() * USUAL_MEMORY), ...rest } = limits;
  return { ...users, limits: { ...rest, memory } };
}

/** Whether users see an image of root’s. */
export function seesImage(
  { images }: UserPolicy,
  { name, private: isPrivate }: { readonly name: string; readonly private: boolean },
): boolean {
  if (images === undefined) return !isPrivate;
  return images.some((listed) => listed === name || (!isPrivate && matches(name, listed)));
}

/** Whether a name is that of a pattern, in which only `*` means something else than itself. */
function matches(name: string, pattern: string): boolean {
  const [first = '', ...parts] = pattern.split('*');
  if (parts.length === 0) return name === pattern;
  const last = parts.pop() ?? '';
  if (!name.startsWith(first)) return false;
  let at = first.length;
  for (const part of parts) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return name.length - last.length >= at && name.endsWith(last);
}

/**
 * The limits of one of a user's sandboxes. They are equal shares, so no sandbox can take another's and nothing
 * need be counted.
 */
export function shareOf({ limits }: UserPolicy): SandboxOwner['share'] {
  const { sandboxes, memory, cpus, pids, disk } = limits;
  return {
    memory: Math.max(MINIMUM_MEMORY, Math.floor(memory / sandboxes)),
    pids: Math.max(1, Math.floor(pids / sandboxes)),
    ...(cpus === undefined ? {} : { cpus: cpus / sandboxes }),
    disk,
  };
}

function readText(file: string): string {
  let fd: number;
  try {
    fd = openUserFile(file);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return '';
    throw problem(file, `cannot be read: ${(error as Error).message}`);
  }
  try {
    const { uid, mode, size: bytes } = fstatSync(fd);
    if (uid !== 0 || (mode & 0o022) !== 0) {
      throw problem(file, `others than root can write it: chown root ${file}; chmod go-w ${file}`);
    }
    if (bytes > SIZE_LIMIT) throw problem(file, `it is larger than ${SIZE_LIMIT} bytes`);
    return readFileSync(fd, 'utf8');
  } finally {
    closeDescriptor(fd);
  }
}

function problem(file: string, message: string): RecipeError {
  return new RecipeError(
    file,
    [{ file, line: 0, column: 0, path: '', message }],
    HINT,
    'configuration',
  );
}

/** The number of a group from /etc/group; undefined for an unknown name. */
export function groupNumber(group: string | number): number | undefined {
  if (typeof group === 'number') return group;
  const lines = readFileSync('/etc/group', 'utf8').split('\n');
  const found = lines.map((line) => line.split(':')).find(([name]) => name === group);
  return found === undefined ? undefined : Number(found[2]);
}

let cached: { readonly key: string; readonly policy: UserPolicy } | undefined;

/** {@link readUserPolicy}, cached until the file changes. */
export function currentUserPolicy(file: string): UserPolicy {
  const stat = statSync(file, { bigint: true, throwIfNoEntry: false });
  const key = `${file}:${stat?.ino}:${stat?.mtimeNs}:${stat?.ctimeNs}:${stat?.size}`;
  if (cached?.key !== key) cached = { key, policy: readUserPolicy(file) };
  return cached.policy;
}
