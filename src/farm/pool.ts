import { hostname } from 'node:os';
import { z } from 'zod';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { runTool, type ToolResult } from '../host/process/child-process.ts';
import { parseJson } from '../jobs/chain/records.ts';

const TIMEOUT = 60_000;

async function condor(
  program: string,
  args: readonly string[],
  { cwd, hint }: { readonly cwd?: string; readonly hint: string },
): Promise<string> {
  const ended = await runTool(program, args, { timeout: TIMEOUT, ...defined({ cwd }) });
  if (ended.failure === undefined) return ended.stdout;
  throw new KilnError('E_FARM_POOL', `${program}: ${lastLine(ended)}`, { hint });
}

function lastLine({ stdout, failure = '' }: ToolResult): string {
  const lines = `${stdout}\n${failure}`.split('\n').filter((line) => line.trim() !== '');
  return lines.slice(-3).join(' ').trim().slice(0, 1000);
}

const slotSchema = z.looseObject({
  Name: z.string(),
  Machine: z.string(),
  State: z.string().default('?'),
  Activity: z.string().default('?'),
  Cpus: z.number().default(0),
  Memory: z.number().default(0),
  /** Those that are in use as well. */
  TotalSlotCpus: z.number().default(0),
  TotalSlotMemory: z.number().default(0),
  KilnVersion: z.string().optional(),
  KilnImages: z.string().optional(),
  KilnLayers: z.string().optional(),
});
export type Slot = z.output<typeof slotSchema>;

/** Those that take jobs, of machines with and without kiln. @throws KilnError E_FARM_POOL */
export async function slots(): Promise<Slot[]> {
  const attributes = [...Object.keys(slotSchema.shape), 'SlotType'].join();
  const text = await condor(
    'condor_status',
    ['-json', '-attributes', attributes, '-constraint', 'SlotType =!= "Dynamic"'],
    { hint: 'does the collector of CONDOR_HOST run? `condor_config_val COLLECTOR_HOST` names it' },
  );
  return rows(text, slotSchema);
}

const queuedSchema = z.looseObject({
  ClusterId: z.int(),
  JobStatus: z.int(),
  KilnMember: z.string().optional(),
  RemoteHost: z.string().optional(),
  HoldReason: z.string().optional(),
  DAGManJobId: z.int().optional(),
});
export type QueuedJob = z.output<typeof queuedSchema>;

export async function queued(cluster: number): Promise<QueuedJob[]> {
  const attributes = Object.keys(queuedSchema.shape).join();
  const of = `ClusterId == ${cluster} || DAGManJobId == ${cluster}`;
  const args = ['-json', '-attributes', attributes, '-constraint', of];
  return rows(await condor('condor_q', args, { hint: NO_SCHEDD }), queuedSchema);
}

function rows<Row>(text: string, schema: z.ZodType<Row>): Row[] {
  if (text.trim() === '') return [];
  const read = z.array(schema).safeParse(parseJson(text));
  if (read.success) return read.data;
  throw new KilnError('E_FARM_POOL', 'HTCondor answers what kiln does not understand', {
    hint: 'kiln is tried with HTCondor 23.9',
    cause: read.error,
  });
}

const NO_SCHEDD =
  'does condor_schedd run on this machine? `systemctl status condor`, and `condor_config_val DAEMON_LIST`';

export async function requirePool(uid: number): Promise<void> {
  if (uid === 0) {
    throw new KilnError('E_FARM_ROOT', 'HTCondor refuses jobs from root', {
      hint: 'call kiln as a user who is in group kiln: docs/farm.md',
    });
  }
  const version = await runTool('condor_version', [], { timeout: TIMEOUT });
  if (version.failure !== undefined) {
    const isMissing = version.failure.endsWith(' is not installed');
    const what = isMissing ? 'is not installed here' : `cannot be used here: ${lastLine(version)}`;
    throw new KilnError('E_FARM_POOL', `HTCondor ${what}`, {
      hint: 'install its package htcondor, and put its programs on PATH: docs/farm.md',
    });
  }
  const ping = await runTool('condor_ping', ['-type', 'schedd', '-quiet', 'WRITE'], {
    timeout: TIMEOUT,
  });
  if (ping.failure === undefined) return;
  const queue = await runTool('condor_q', ['-totals'], { timeout: TIMEOUT });
  if (queue.failure !== undefined) {
    const what = `HTCondor on ${hostname()} accepts no jobs: ${lastLine(queue)}`;
    throw new KilnError('E_FARM_POOL', what, { hint: NO_SCHEDD });
  }
  throw new KilnError('E_FARM_POOL', `HTCondor does not let you submit jobs: ${lastLine(ping)}`, {
    hint: 'its administrator allows it: ALLOW_WRITE, or a token of yours by `condor_token_request`',
  });
}

export async function submitDag(
  folder: string,
  file: string,
  { id, jobs }: { readonly id: string; readonly jobs: number | null },
): Promise<number> {
  const most = jobs === null ? [] : ['-maxjobs', String(jobs)];
  const said = await condor(
    'condor_submit_dag',
    ['-f', '-notification', 'never', '-batch-name', `kiln ${id}`, ...most, file],
    { cwd: folder, hint: 'kiln farm check' },
  );
  const cluster = /submitted to cluster (\d+)/.exec(said)?.[1];
  if (cluster !== undefined) return Number(cluster);
  throw new KilnError('E_FARM_POOL', `condor_submit_dag names no cluster: ${said.slice(-500)}`, {
    hint: 'kiln farm check',
  });
}

export async function removeDag(cluster: number): Promise<void> {
  await condor('condor_rm', [String(cluster)], { hint: NO_SCHEDD });
}
