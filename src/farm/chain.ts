/** A chain that was given to a pool: what is kept of it in `.kiln/farm` of its result directory. */
import { join } from 'node:path';
import { z } from 'zod';
import { KilnError } from '../errors.ts';
import { Folder } from '../host/files/folder.ts';
import { imageLockSchema } from '../image/lock.ts';
import { parseBuildOutcome } from './outcome.ts';
import { MAX_STEP, optionsSchema, parseJson, sha256 } from './step.ts';

const text = z.string().max(65_536);

const memberSchema = z.strictObject({
  name: text,
  path: text,
  sha256,
  /** Of its folder and in the DAG; null where it need not be built. */
  node: z
    .string()
    .regex(/^s[1-9]\d*$/)
    .nullable(),
  requires: z.array(text),
  provides: z.array(
    z.strictObject({
      name: text,
      operator: z.enum(['', '<', '<=', '=', '>=', '>', '<>', '<>=']),
      version: text,
    }),
  ),
  /** Members that are built before it, and what it needs of them. */
  needs: z.array(z.strictObject({ member: text, capabilities: z.array(text) })),
  /** Whether it was found unchanged when the round was planned. */
  current: z.boolean(),
  /** Of its last build. */
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
  /** Digest of the options that decide what comes out: of the records of members. */
  optionsDigest: sha256,
  /** So many steps at a time; null: as many as the pool does. */
  jobs: z.int().positive().nullable(),
  continue: z.boolean(),
  recurse: z.boolean(),
  members: z.array(memberSchema),
  /** HTCondor's number of the DAG; null before it is submitted, and when it is over. */
  cluster: z.int().nullable(),
  /** Milliseconds since 1970. */
  started: z.number(),
});

/** A chain of a pool: who asked for what, and the plan of the round that is being built. */
export type FarmChain = z.output<typeof chainSchema>;
export type FarmMember = FarmChain['members'][number];

const CHAIN_FILE = 'chain.json';
/** Written by a step's POST script when nothing more is to be started. */
const STOP_FILE = 'stop';
const OUTCOME = 'outcome.json';

/** Where a chain's files for HTCondor are: below its result directory. */
function farmFolder(resultDirectory: string): string {
  return join(resultDirectory, '.kiln/farm');
}

/** The files of a chain in `.kiln/farm`. Each is replaced as a whole. */
export class FarmFiles implements Disposable {
  /** Absolute. */
  readonly path: string;
  readonly #folder: Folder;

  private constructor(path: string, folder: Folder) {
    this.path = path;
    this.#folder = folder;
  }

  /** Makes the folder if it is missing. */
  static make(resultDirectory: string): FarmFiles {
    using top = Folder.open(resultDirectory);
    using kiln = top.inner('.kiln');
    return new FarmFiles(farmFolder(resultDirectory), kiln.inner('farm'));
  }

  /** @throws KilnError E_FARM_CHAIN where no chain was given to a pool */
  static open(resultDirectory: string): FarmFiles {
    try {
      return new FarmFiles(farmFolder(resultDirectory), Folder.open(farmFolder(resultDirectory)));
    } catch (cause) {
      throw noChain(resultDirectory, cause);
    }
  }

  /** @throws KilnError E_FARM_CHAIN */
  chain(): FarmChain {
    const chain = this.existing();
    if (chain === undefined) throw noChain(this.path);
    return chain;
  }

  existing(): FarmChain | undefined {
    return chainSchema.safeParse(parseJson(this.#folder.read(CHAIN_FILE, MAX_STEP) ?? '')).data;
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

  /** Nothing more of this chain is to be started. */
  stop(): void {
    this.write(STOP_FILE, '');
  }

  get isStopped(): boolean {
    return this.#folder.has(STOP_FILE);
  }

  /** Forgets what the steps of an earlier round have come to. */
  forget(names: readonly string[]): void {
    for (const name of [STOP_FILE, ...names]) this.#folder.remove(name);
  }

  /** The folder of a step. */
  node(name: string): Folder {
    return this.#folder.inner(name);
  }

  /** What came of a step in this round; undefined while it has not ended. */
  outcome(node: string) {
    using folder = this.#folder.existing(node);
    return parseBuildOutcome(folder?.read(OUTCOME, MAX_STEP) ?? '');
  }

  keepOutcome(node: string, outcome: unknown): void {
    using folder = this.node(node);
    folder.replace(OUTCOME, JSON.stringify(outcome));
  }

  forgetOutcome(node: string): void {
    using folder = this.node(node);
    folder.remove(OUTCOME);
  }

  [Symbol.dispose](): void {
    this.#folder[Symbol.dispose]();
  }
}

function noChain(path: string, cause?: unknown): KilnError {
  return new KilnError('E_FARM_CHAIN', `no chain was given to a pool in ${path}`, {
    hint: '`kiln farm status` lists your chains',
    cause,
  });
}
