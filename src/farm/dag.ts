/** The texts that HTCondor reads. Their grammar is of its manual: “DAGMan Workflows” and condor_submit(1). */

import { KilnError } from '../errors.ts';
import { OPTIONAL_LAYERS, type OptionalLayer } from '../sandbox/policy/layers.ts';
import { shellWord } from '../shell-words.ts';
import { type Slot, slots } from './pool.ts';
import { STEP_STATUS, type StepOptions } from './step.ts';

const MEMORY_MB = 1024;
const PROCESSORS = 1;

/** When it was the machine's fault. */
const RETRIES = 4;

/** A step that is held, as where files cannot be transferred, is tried elsewhere after so long. */
const HELD_SECONDS = 30;

export const DAG_FILE = 'chain.dag';
export const CONFIG_FILE = 'dagman.config';
export const HOOK_FILE = 'hook';
/** DAGMan's own log: `SECONDS NODE EVENT …`. */
export const JOBSTATE_FILE = 'chain.jobstate';
export const RUN_FILE = 'run-step';

export interface DagNode {
  readonly node: string;
  readonly member: string;
  readonly parents: readonly string[];
}

export function dagText(id: string, nodes: readonly DagNode[]): string {
  return [
    `# Chain ${id}, written by kiln`,
    `CONFIG ${CONFIG_FILE}`,
    `JOBSTATE_LOG ${JOBSTATE_FILE}`,
    ...nodes.flatMap(({ node, member, parents }) => [
      '',
      `# ${member}`,
      `JOB ${node} ${submitFile(node)}`,
      `SCRIPT PRE ${node} ./${HOOK_FILE} prepare ${node}`,
      `SCRIPT POST ${node} ./${HOOK_FILE} publish ${node} $RETURN`,
      `RETRY ${node} ${RETRIES} UNLESS-EXIT ${STEP_STATUS.package}`,
      ...(parents.length === 0 ? [] : [`PARENT ${parents.join(' ')} CHILD ${node}`]),
    ]),
    '',
  ].join('\n');
}

export function submitFile(node: string): string {
  return `${node}.sub`;
}

/**
 * DAGMan looks once a second, and does not wait between submissions: steps may take seconds. Its warnings are no
 * errors: one of them is that the chain's folder is below /tmp.
 */
export function dagmanConfig(): string {
  const lines = ['USER_LOG_SCAN_INTERVAL = 1', 'SUBMIT_DELAY = 0', 'USE_STRICT = 0'];
  return lines.map((line) => `DAGMAN_${line}\n`).join('');
}

export interface SubmitPlan {
  readonly chain: string;
  readonly node: string;
  readonly member: string;
  readonly version: string;
  readonly allowMissing: readonly OptionalLayer[];
  readonly image: string;
  readonly packages: readonly string[];
  /** Machines that could not do it: only where there is no other. */
  readonly avoid: readonly string[];
  readonly options: StepOptions;
}

/** Digits of a digest that workers advertise: enough to tell packages apart, and short. */
export const DIGEST_DIGITS = 12;

/** Packages of a rank: each makes the expression longer, which is computed for each machine. */
const RANKED = 30;

const WORST = -1_000_000;

export function submitText(plan: SubmitPlan): string {
  const { chain, node, member, options } = plan;
  const { cpus, memory } = requested(options);
  return [
    'universe = vanilla',
    `executable = ${RUN_FILE}`,
    'arguments = $$(Machine)',
    `initialdir = ${node}`,
    'should_transfer_files = YES',
    'when_to_transfer_output = ON_EXIT',
    'transfer_input_files = in/',
    'transfer_output_files = out',
    'output = log',
    'stream_output = true',
    'log = events',
    'notification = never',
    `batch_name = kiln ${chain}`,
    `request_cpus = ${cpus}`,
    `request_memory = ${memory}M`,
    'request_disk = 1G',
    `requirements = ${requirements(plan)}`,
    `rank = ${rank(plan)}`,
    `periodic_remove = (JobStatus == 5) && (time() - EnteredCurrentStatus > ${HELD_SECONDS})`,
    `My.KilnChain = ${quoted(chain)}`,
    `My.KilnMember = ${quoted(member)}`,
    'queue',
    '',
  ].join('\n');
}

/** Megabytes, and processors. */
function requested({ memory: bytes, cpus = PROCESSORS }: StepOptions) {
  const memory = bytes === undefined ? MEMORY_MB : Math.ceil(bytes / 2 ** 20);
  return { cpus: Math.ceil(cpus), memory };
}

type AskedFor = Pick<SubmitPlan, 'version' | 'allowMissing' | 'options'>;

/** @returns why no machine of the pool will take steps that ask for this; undefined where one can */
export async function whyStepsWait(asked: AskedFor): Promise<string | undefined> {
  try {
    return whatIsMissing(await slots(), asked);
  } catch (error) {
    // They are in the queue, whether the collector answers or not.
    if (error instanceof KilnError) return error.message;
    throw error;
  }
}

/** @returns what none of these machines has that steps ask for; they would wait without an end */
export function whatIsMissing(
  machines: readonly Slot[],
  { version, allowMissing, options }: AskedFor,
): string | undefined {
  if (machines.length === 0) return 'the pool has no machines';
  const same = machines.filter(({ KilnVersion }) => KilnVersion === version);
  if (same.length === 0) return `no machine of the pool has kiln ${version}`;
  const layers = requiredLayers(allowMissing);
  const safe = same.filter(({ KilnLayers = '' }) =>
    layers.every((layer) => KilnLayers.split(',').includes(layer)),
  );
  if (safe.length === 0) return `no machine of the pool has all of ${layers.join(', ')}`;
  const { cpus, memory } = requested(options);
  const isLarge = (slot: Slot) => slot.TotalSlotCpus >= cpus && slot.TotalSlotMemory >= memory;
  if (safe.some(isLarge)) return undefined;
  return `no machine of the pool has ${memory} MB and ${cpus} processors for one step`;
}

function requiredLayers(allowMissing: readonly OptionalLayer[]): OptionalLayer[] {
  return OPTIONAL_LAYERS.filter((layer) => !allowMissing.includes(layer));
}

function requirements({ version, allowMissing }: SubmitPlan): string {
  return [
    `(TARGET.KilnVersion =?= ${quoted(version)})`,
    ...requiredLayers(allowMissing).map(
      (layer) => `stringListMember(${quoted(layer)}, TARGET.KilnLayers ?: "")`,
    ),
  ].join(' && ');
}

/** An image counts as much as a thousand packages. A machine that has failed may be dead. */
function rank({ image, packages, avoid }: SubmitPlan): string {
  const has = (list: string, digest: string, value: number) =>
    `ifThenElse(stringListMember(${quoted(digest.slice(0, DIGEST_DIGITS))}, TARGET.${list} ?: ""), ${value}, 0)`;
  return [
    has('KilnImages', image, 1000),
    ...packages.slice(0, RANKED).map((digest) => has('KilnPackages', digest, 1)),
    `ifThenElse(regexp(strcat("@", TARGET.Machine, "$"), MY.LastRemoteHost ?: ""), ${WORST}, 0)`,
    ...(avoid.length === 0
      ? []
      : [`ifThenElse(stringListMember(TARGET.Machine, ${quoted(avoid.join())}), ${WORST}, 0)`]),
  ].join(' + ');
}

function quoted(value: string): string {
  return `"${value.replace(/[\\"]/g, '\\$&').replace(/[\r\n]/g, ' ')}"`;
}

export function runScript(): string {
  return `#!/bin/sh
# Does the step that lies here. KILN and KILN_STATE are the worker's own (STARTER_JOB_ENVIRONMENT).
exec 2>&1
PATH=\${PATH:-/usr/local/bin:/usr/bin:/bin}
export PATH
echo "kiln: worker $1"
mkdir -p out
ended='' step=''
# kiln ends the sandbox, and this script with it. A signal may come before the shell knows kiln's id.
trap 'ended=yes; [ -z "$step" ] || kill "$step"' TERM INT HUP
"\${KILN:-kiln}" farm step step.json --resultdir out --worker "$1" </dev/null &
step=$!
[ -z "$ended" ] || kill "$step"
status=128
while [ "$status" -ge 128 ]; do
  wait "$step"
  status=$?
  kill -0 "$step" 2>/dev/null || break
done
case $status in
  ${STEP_STATUS.done} | ${STEP_STATUS.package}) exit "$status" ;;
esac
exit ${STEP_STATUS.machine}
`;
}

export function hookScript(
  program: string,
  resultDirectory: string,
  env: Readonly<Record<string, string>>,
): string {
  const variables = Object.entries(env).map(
    ([name, value]) => `export ${name}=${shellWord(value)}`,
  );
  return `#!/bin/sh
${variables.join('\n')}
task=$1
shift
exec ${shellWord(program)} farm "$task" ${shellWord(resultDirectory)} "$@"
`;
}
