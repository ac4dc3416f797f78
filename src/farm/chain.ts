/** What `.kiln/farm` of a result directory keeps of a chain that was given to a pool. */
import { readdirSync, readlinkSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { z } from 'zod';
import { KilnError } from '../errors.ts';
import { unlessErrno } from '../host/calls/libc.ts';
import { Folder, makeDirectory } from '../host/files/folder.ts';
import { below, type HeldPath, heldPath } from '../host/files/held.ts';
import { imageLockSchema } from '../image/lock.ts';
import { capabilitySchema, parseJson, sha256, text } from '../jobs/chain/records.ts';
import { type BuildOutcome, MAX_STEP, optionsSchema, parseBuildOutcome } from './step.ts';

const memberSchema = z.strictObject({
  name: text,
  path: text,
  sha256,
  /** Null where it need not be built. */
  node: z
    .string()
    .regex(/^s[1-9]\d*$/)
    .nullable(),
  requires: z.array(text),
  provides: z.array(capabilitySchema),
  needs: z.array(z.strictObject({ member: text, capabilities: z.array(text) })),
  current: z.boolean(),
  packages: z.array(z.strictObject({ file: text, sha256 })),
  durationMs: z.number(),
});

const chainSchema = z.strictObject({
  kind: z.literal('kiln-farm-chain'),
  format: z.literal(1),
  id: z.string().regex(/^[0-9a-f]{8}$/),
  sources: z.array(text),
  resultDirectory: text,
  image: z.strictObject({ name: text, id: sha256.nullable(), lock: imageLockSchema.nullable() }),
  options: optionsSchema,
  optionsDigest: sha256,
  /** So many steps at a time; null: as many as the pool does. */
  jobs: z.int().positive().nullable(),
  continue: z.boolean(),
  recurse: z.boolean(),
  members: z.array(memberSchema),
  /** HTCondor's number of the DAG; null before it is submitted, and when it is over. */
  cluster: z.int().nullable(),
  started: z.number(),
});

export type FarmChain = z.output<typeof chainSchema>;
export type FarmMember = FarmChain['members'][number];

const CHAIN_FILE = 'chain.json';
const STOP_FILE = 'stop';
const OUTCOME = 'outcome.json';
const TRIED_FILE = 'tried';

const FOLDER = '.kiln/farm';

/** Each file is replaced as a whole. */
export class FarmFiles implements Disposable {
  /** The result directory. */
  readonly top: HeldPath;
  readonly #title: string;
  readonly #folder: Folder;

  private constructor(top: HeldPath, title: string, folder: Folder) {
    this.top = top;
    this.#title = title;
    this.#folder = folder;
  }

  /** @param title of the result directory: HTCondor's programs find it by that alone */
  static make(top: HeldPath, title: string): FarmFiles {
    using folder = Folder.open(top);
    using kiln = folder.inner('.kiln');
    return new FarmFiles(top, title, kiln.inner('farm'));
  }

  static open(top: HeldPath, title: string): FarmFiles {
    try {
      return new FarmFiles(top, title, Folder.open(below(top, FOLDER)));
    } catch (cause) {
      throw noChainError(title, cause);
    }
  }

  /** For this process. */
  get path(): HeldPath {
    return heldPath(this.#folder.descriptor);
  }

  /** For HTCondor and its users. */
  get title(): string {
    return join(this.#title, FOLDER);
  }

  chain(): FarmChain {
    const chain = this.existing();
    if (chain === undefined) throw noChainError(this.#title);
    return chain;
  }

  existing(): FarmChain | undefined {
    return chainSchema.safeParse(parseJson(this.#folder.read(CHAIN_FILE, MAX_STEP))).data;
  }

  keep(chain: FarmChain): void {
    this.#folder.replace(CHAIN_FILE, JSON.stringify(chainSchema.parse(chain)));
  }

  write(name: string, content: string): void {
    this.#folder.replace(name, content);
  }

  read(name: string): string | undefined {
    return this.#folder.read(name, MAX_STEP);
  }

  stop(): void {
    this.write(STOP_FILE, '');
  }

  get isStopped(): boolean {
    return this.#folder.has(STOP_FILE);
  }

  forget(names: readonly string[]): void {
    for (const name of [STOP_FILE, ...names]) this.#folder.remove(name);
  }

  node(name: string): Folder {
    return this.#folder.inner(name);
  }

  /** The machines that could not do a step. */
  tried(node: string): string[] {
    using folder = this.node(node);
    return (folder.read(TRIED_FILE, MAX_STEP) ?? '').split('\n').filter(Boolean);
  }

  keepTried(node: string, machines: readonly string[]): void {
    using folder = this.node(node);
    folder.replace(TRIED_FILE, machines.join('\n'));
  }

  outcome(node: string) {
    using folder = this.#folder.existing(node);
    return parseBuildOutcome(folder?.read(OUTCOME, MAX_STEP));
  }

  /** Without its root, which is long, and in the member's record. */
  keepOutcome(node: string, outcome: BuildOutcome): void {
    using folder = this.node(node);
    folder.replace(OUTCOME, JSON.stringify({ ...outcome, root: null }));
  }

  forgetOutcome(node: string): void {
    using folder = this.node(node);
    folder.remove(OUTCOME);
  }

  [Symbol.dispose](): void {
    this.#folder[Symbol.dispose]();
  }
}

export function noChainError(path: string, cause?: unknown): KilnError {
  return new KilnError('E_FARM_CHAIN', `no chain was given to a pool in ${path}`, {
    hint: '`kiln farm status` lists your chains',
    cause,
  });
}

type Environment = Readonly<Record<string, string>>;

function chainsFolder(env: Environment): string {
  const { XDG_STATE_HOME = '', HOME = '' } = env;
  const state = isAbsolute(XDG_STATE_HOME) ? XDG_STATE_HOME : join(HOME || '/', '.local/state');
  return join(state, 'kiln/farm');
}

/** Where no home can be written, the directory names the chain. */
export async function rememberChain(
  env: Environment,
  id: string,
  directory: string,
): Promise<void> {
  const folder = chainsFolder(env);
  unlessErrno(['EACCES', 'EROFS', 'ENOENT', 'ENOTDIR', 'EEXIST'], () => {
    makeDirectory(folder);
    // Others list the folder meanwhile.
    const temporary = join(folder, `.${id}.${process.pid}`);
    rmSync(temporary, { force: true });
    symlinkSync(directory, temporary);
    renameSync(temporary, join(folder, id));
  });
}

export function knownChains(
  env: Environment,
): { readonly id: string; readonly directory: string }[] {
  const folder = chainsFolder(env);
  const known = unlessErrno(['ENOENT', 'ENOTDIR', 'EACCES'], () =>
    readdirSync(folder)
      .filter((id) => !id.startsWith('.'))
      .map((id) => ({ id, directory: readlinkSync(join(folder, id)) })),
  );
  return known ?? [];
}

/** By an id, its beginning, or a path. @throws KilnError E_FARM_CHAIN */
export function findChain(env: Environment, name: string): string {
  if (name.includes('/') || name === '.') return resolve(name);
  const found = knownChains(env).filter(({ id }) => id.startsWith(name));
  if (found.length === 1) return found[0]!.directory;
  const what = found.length === 0 ? 'no chain' : `${found.length} chains`;
  throw new KilnError('E_FARM_CHAIN', `you have ${what} called ${name}`, {
    hint: '`kiln farm status` lists them; a path with a slash means a result folder',
  });
}
