/** kiln.yaml: root's in /etc/kiln says who beside root may use kiln, and for what; both have defaults. */

import { isUtf8 } from 'node:buffer';
import { fstatSync, readFileSync, type Stats, statSync } from 'node:fs';
import { totalmem } from 'node:os';
import { z } from 'zod';
import { parseEgressRule } from '../egress/rule.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { attempt, hasErrno } from '../host/calls/libc.ts';
import { openUserFile } from '../host/files/user-file.ts';
import type { UserShare } from '../host/libvirt/sandbox-host.ts';
import { splitArchitecture } from '../host/process/architecture.ts';
import type { UserIds } from '../host/process/user-namespace.ts';
import { ROOTS_FILE } from '../host/state/paths.ts';
import { inUnits, SIZES, TIMES } from '../options/measures.ts';
import { MACHINES } from '../options/rules.ts';
import { SANDBOX_LIMITS } from '../options/sandbox.ts';
import { keysOf, size, time } from '../options/yaml.ts';
import { RecipeDocument } from '../recipe/document.ts';
import { HOST_IMAGE } from '../recipe/named.ts';
import { RecipeError } from '../recipe/problem.ts';
import { MINIMUM_MEMORY } from '../sandbox/policy/limits.ts';
import { parseCapability } from '../sandbox/policy/specification.ts';
import type { CallerFiles } from './caller-files.ts';
import { type CallersConfiguration, notUtf8, problemOf } from './configuration-file.ts';
import { defaultsSchema, type Repositories, repositoriesSchema } from './defaults.ts';

/** Of the machine, for all sandboxes of one user. */
const USUAL_MEMORY = 0.75;

/** The file is written by hand. */
const SIZE_LIMIT = 1 << 20;

const HINT =
  'docs/configuration.md and docs/administration.md describe every key; `kiln config check` reads it again';

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

const LIMITS = keysOf(SANDBOX_LIMITS);

const limitsSchema = z.strictObject({
  sandboxes: z
    .int()
    .positive()
    .default(4)
    .describe('Commands of one user that run at the same time, kept sandboxes included'),
  memory: LIMITS.memory.describe(
    'Of all of them together, in equal shares; three quarters of the machine unless given',
  ),
  cpus: LIMITS.cpus.describe(
    'Of all of them together, in equal shares; unless given the kernel shares them out fairly',
  ),
  pids: LIMITS.pids.unwrap().default(16_384).describe('Of all of them together, in equal shares'),
  disk: size
    .default(16 * 2 ** 30)
    .describe('What each may write, and what may be copied in and out for it'),
  storage: size
    .default(64 * 2 ** 30)
    .describe('What images, packages, downloads and build caches of one user may take together'),
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
    .array(
      z
        .string()
        .regex(/^[\w.-]+$/, 'the name of a libvirt network')
        .refine((name) => name !== 'host', 'the host’s own network is not for users'),
    )
    .default([])
    .describe('libvirt networks that --network may name'),
  publish: z
    .array(z.union([z.ipv4(), z.ipv6()]))
    .default(['127.0.0.1', '::1'])
    .describe('Addresses of this host at which --publish may have ports, from 1024 on'),
  capabilities: z.array(capability).default([]).describe('Capabilities that --cap-add may name'),
  images: z
    .array(z.string().min(1).max(200))
    .optional()
    .describe(
      'Names of images of root’s that users see, with * for any characters; unless given all but private ones, which are made with a login: those only by their whole names',
    ),
  hostImage: z
    .boolean()
    .default(true)
    .describe(
      'Whether users run commands on this host’s own /usr, read-only (-r host, and where no image is named)',
    ),
  mockConfigs: z
    .string()
    .startsWith('/', 'an absolute path')
    .default('/etc/mock')
    .describe(
      'The folder of configurations of mock that users name with -r; only root may write there',
    ),
  hostCommands: z
    .boolean()
    .default(false)
    .describe('Whether recipes of users run commands on the host, as the user, with $host'),
  machines: z
    .enum(MACHINES)
    .default('kvm')
    .describe(
      'Whether sandboxes of users may be machines (--isolation vm): none, those that KVM runs, or emulated ones, too',
    ),
  farm: z
    .boolean()
    .default(false)
    .describe(
      'Whether this machine does steps of chains for users: they have a say in what its images contain',
    ),
  limits: limitsSchema.prefault({}),
});

const configurationSchema = z.strictObject({
  users: usersSchema.prefault({}),
  defaults: defaultsSchema.prefault({}),
  repositories: repositoriesSchema.prefault({}),
});

type Users = z.output<typeof usersSchema>;

/** Complete: memory has a value where the file gives none. Sizes are bytes, times milliseconds. */
export interface UserPolicy extends Omit<Users, 'limits'> {
  readonly limits: Omit<Users['limits'], 'memory'> & { readonly memory: number };
}

/** As the file has it: what is shown can be written there. */
export function asConfigured({ limits, ...users }: UserPolicy): object {
  const { memory, disk, storage, keep, ...rest } = limits;
  const sizes = { memory, disk, storage };
  const texts = Object.entries(sizes).map(([name, value]) => [name, inUnits(value, SIZES)]);
  return {
    users: {
      ...users,
      limits: { ...rest, ...Object.fromEntries(texts), keep: inUnits(keep, TIMES) },
    },
  };
}

/** One kiln.yaml, without mistakes. */
export interface Configuration {
  readonly file: string;
  readonly policy: UserPolicy;
  /** As the options take them: sizes are bytes, times milliseconds. */
  readonly defaults: z.output<typeof defaultsSchema>;
  readonly repositories: Repositories;
  /** What is written there, or undefined. */
  readonly written: (path: readonly string[]) => unknown;
  readonly lineOf: (path: readonly string[]) => number | undefined;
}

/** Root's file; without it, all is as by default. @throws RecipeError with all mistakes */
export function readConfiguration(file: string): Configuration {
  return checked(file, readText(file, true), { isRoots: true });
}

/** What a caller's own file cannot say. */
const NOT_OWN = [['users'], ['defaults', 'parked'], ['defaults', 'parked-vms']];
/** kilnd itself would ask whatever server a user names. */
const NOT_USERS = [...NOT_OWN, ['repositories']];

function checked(
  file: string,
  text: string,
  { isRoots = false, forbidden = [] as readonly (readonly string[])[] },
): Configuration {
  const document = new RecipeDocument(file, text);
  const value = document.value();
  const written: Configuration['written'] = (path) =>
    path.reduce((at: unknown, key) => (Object(at) as Record<string, unknown>)[key], value);
  const read = value === undefined ? undefined : document.check(configurationSchema, value);
  const configs = written(['users', 'mockConfigs']);
  // For nobody else: what root can see would tell them of folders that they cannot enter.
  if (isRoots && typeof configs === 'string' && isOthersToWrite(configs)) {
    document.report(['users', 'mockConfigs'], 'others than root can write there');
  }
  for (const path of forbidden.filter((each) => written(each) !== undefined)) {
    document.report(path, 'is root’s to say', { hint: `in ${ROOTS_FILE}`, atKey: true });
  }
  if (read === undefined || document.problems.length > 0) {
    throw new RecipeError(file, document.problems, HINT, 'configuration');
  }
  const { users, ...others } = read;
  const { memory = Math.floor(totalmem() * USUAL_MEMORY), ...rest } = users.limits;
  const policy = { ...users, limits: { ...rest, memory } };
  return { file, policy, ...others, written, lineOf: (path) => document.lineOf(path) };
}

let own: Configuration | undefined;
let ownText: string | undefined;

/** A caller's own file. @throws RecipeError with all mistakes */
export function callersConfiguration(given: CallersConfiguration, isRoot: boolean): Configuration {
  const { file, text } = given;
  const why = problemOf(given);
  if (why !== undefined) throw configurationError(file, why);
  const key = `${isRoot} ${file} ${text}`;
  if (own === undefined || ownText !== key) {
    own = checked(file, text, { forbidden: isRoot ? NOT_OWN : NOT_USERS });
    ownText = key;
  }
  return own;
}

export function seesImage(
  { images, hostImage }: UserPolicy,
  { name: word, private: isPrivate }: { readonly name: string; readonly private: boolean },
): boolean {
  // Whoever has a recipe has it for every architecture.
  const { name } = splitArchitecture(word);
  if (name === HOST_IMAGE) return hostImage;
  if (images === undefined) return !isPrivate;
  return images.some((listed) => listed === name || (!isPrivate && matches(name, listed)));
}

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

/** Equal shares: no sandbox can take another's, and nothing need be counted. */
export function shareOf({ limits }: UserPolicy): UserShare {
  const { sandboxes, memory, cpus, pids, disk, storage } = limits;
  return {
    memory: Math.max(MINIMUM_MEMORY, Math.floor(memory / sandboxes)),
    pids: Math.max(1, Math.floor(pids / sandboxes)),
    ...(cpus === undefined ? {} : { cpus: cpus / sandboxes }),
    disk,
    storage,
  };
}

/** A file that may become root's. @param isRoots root wants to know @throws RecipeError with all mistakes */
export function checkConfiguration(file: string, isRoots: boolean): Configuration {
  return checked(file, readText(file, false), { isRoots });
}

function readText(file: string, isInForce: boolean): string {
  let fd: number;
  try {
    fd = openUserFile(file);
  } catch (error) {
    if (isInForce && hasErrno(error, 'ENOENT')) return '';
    throw configurationError(file, `cannot be read: ${(error as Error).message}`);
  }
  using _fd = closing(fd);
  const stats = fstatSync(fd);
  const { size: bytes } = stats;
  if (isInForce && isLoose(stats)) {
    throw configurationError(
      file,
      `others than root can write it: chown root ${file}; chmod go-w ${file}`,
    );
  }
  if (bytes > SIZE_LIMIT) throw configurationError(file, `it is larger than ${SIZE_LIMIT} bytes`);
  const content = readFileSync(fd);
  const text = content.toString('utf8');
  if (!isUtf8(content)) throw configurationError(file, notUtf8(text));
  return text;
}

function isLoose({ uid, mode }: Stats): boolean {
  return uid !== 0 || (mode & 0o022) !== 0;
}

function isOthersToWrite(path: string): boolean {
  return attempt(() => isLoose(statSync(path))) ?? false;
}

function configurationError(file: string, message: string): RecipeError {
  const problems = [{ file, line: 0, column: 0, path: '', message }];
  return new RecipeError(file, problems, HINT, 'configuration');
}

export function groupNumber(group: string | number): number | undefined {
  if (typeof group === 'number') return group;
  const lines = readFileSync('/etc/group', 'utf8').split('\n');
  const found = lines.map((line) => line.split(':')).find(([name]) => name === group);
  return found === undefined ? undefined : Number(found[2]);
}

let cached: { readonly key: string; readonly configuration: Configuration } | undefined;

export function currentConfiguration(file: string): Configuration {
  const stat = statSync(file, { bigint: true, throwIfNoEntry: false });
  const key = `${file}:${stat?.ino}:${stat?.mtimeNs}:${stat?.ctimeNs}:${stat?.size}`;
  if (cached?.key !== key) cached = { key, configuration: readConfiguration(file) };
  return cached.configuration;
}

/** A caller who is not root. The ids are those that the kernel reports for the connection. */
export interface CallerUser extends UserIds {
  readonly policy: UserPolicy;
  /** Undefined in a process with other callers, which opens nobody's files. */
  readonly files: CallerFiles | undefined;
  /** A descriptor of the process that called (pidfd_open(2)); undefined where `files` is, or if it is gone. */
  readonly process: number | undefined;
}

export function forbiddenError(
  what: string,
  why: string,
  { hint }: { hint?: string } = {},
): KilnError {
  return new KilnError('E_FORBIDDEN', `${what} is not for users: ${why}`, {
    hint: hint ?? 'root can; docs/users.md says what users can do',
  });
}

/** Other variables of kiln's decide which state and libvirt the process uses, and where it traces to. */
const OPEN = new Set(['TERM', 'LANG', 'TZ', 'SOURCE_DATE_EPOCH', 'KILN_IMAGE', 'KILN_BUILDER_ID']);

/** Commands in sandboxes get any variable that the caller names. */
export function userEnvironment(env: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter(([name]) => OPEN.has(name)));
}
