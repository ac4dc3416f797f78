/**
 * The texts that HTCondor reads: the DAG of a chain and the submit file of a step. Their grammar is of its
 * manual: “DAGMan Workflows” and condor_submit(1).
 */
import { OPTIONAL_LAYERS, type OptionalLayer } from '../sandbox/policy/layers.ts';
import { STEP_STATUS } from './exit-status.ts';
import type { StepOptions } from './step.ts';

/** What a step is given when nobody says: megabytes and processors. */
const MEMORY_MB = 1024;
const PROCESSORS = 1;

/** How often a step is tried again when it was the machine's fault. */
const RETRIES = 4;

/** A step that HTCondor holds, such as one whose files cannot be transferred, is tried elsewhere after so many seconds. */
const HELD_SECONDS = 30;

/** The files of a chain's folder. */
export const DAG_FILE = 'chain.dag';
export const CONFIG_FILE = 'dagman.config';
export const HOOK_FILE = 'hook';
export const RUN_FILE = 'run-step';

/** A step in the DAG. */
export interface DagNode {
  readonly node: string;
  /** For people. */
  readonly member: string;
  /** Nodes that come before it. */
  readonly parents: readonly string[];
}

/** chain.dag. */
export function dagText(id: string, nodes: readonly DagNode[]): string {
  return [
    `# Chain ${id}, written by kiln`,
    `CONFIG ${CONFIG_FILE}`,
    `JOBSTATE_LOG chain.jobstate`,
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

/** The submit file of a step, in the chain's folder. */
export function submitFile(node: string): string {
  return `${node}.sub`;
}

/** DAGMan looks once a second, and does not wait between submissions: steps may take seconds. */
export function dagmanConfig(): string {
  return ['DAGMAN_USER_LOG_SCAN_INTERVAL = 1', 'DAGMAN_SUBMIT_DELAY = 0', ''].join('\n');
}

/** What decides where a step runs. */
export interface SubmitPlan {
  readonly chain: string;
  readonly node: string;
  readonly member: string;
  readonly version: string;
  /** Layers of the isolation that a worker may lack. */
  readonly allowMissing: readonly OptionalLayer[];
  /** Id of the image: a worker that has it is preferred. */
  readonly image: string;
  /** sha256 of packages that the step installs beside it: the same. */
  readonly packages: readonly string[];
  /** Machines that could not do it: only where there is no other. */
  readonly avoid: readonly string[];
  readonly options: StepOptions;
}

/** Digits of a digest that workers advertise: enough to tell packages apart, and short. */
export const DIGEST_DIGITS = 12;

/** Packages of a rank: each makes the expression longer, which is computed for each machine. */
const RANKED = 30;

/** Of a machine that has failed. */
const WORST = -1_000_000;

/** The submit file of a step. */
export function submitText(plan: SubmitPlan): string {
  const { chain, node, member, options } = plan;
  const { limits = {} } = options;
  const memory = limits.memory === undefined ? MEMORY_MB : Math.ceil(limits.memory / 2 ** 20);
  return [
    'universe = vanilla',
    `executable = ${RUN_FILE}`,
    // The machine that was chosen, by the name that results call it.
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
    `request_cpus = ${Math.ceil(limits.cpus ?? PROCESSORS)}`,
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

function requirements({ version, allowMissing }: SubmitPlan): string {
  const layers = OPTIONAL_LAYERS.filter((layer) => !allowMissing.includes(layer));
  return [
    `(TARGET.KilnVersion =?= ${quoted(version)})`,
    ...layers.map((layer) => `stringListMember(${quoted(layer)}, TARGET.KilnLayers ?: "")`),
  ].join(' && ');
}

/**
 * An image counts as much as a thousand packages, and a machine that has failed less than any other: the one that
 * this job was taken from may be dead, and listed for minutes.
 */
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

/** A string of the ClassAd language. */
function quoted(value: string): string {
  return `"${value.replace(/[\\"]/g, '\\$&').replace(/[\r\n]/g, ' ')}"`;
}

/** What a worker runs: a step, whatever its end, is done, the package's fault, or the machine's. */
export function runScript(): string {
  return `#!/bin/sh
# Does the step that lies here. KILN and KILN_STATE are the worker's own (STARTER_JOB_ENVIRONMENT).
exec 2>&1
PATH=\${PATH:-/usr/local/bin:/usr/bin:/bin}
export PATH
echo "kiln: worker $1"
mkdir -p out
"\${KILN:-kiln}" farm step step.json --resultdir out --worker "$1" </dev/null &
step=$!
# kiln ends the sandbox, and this script with it.
trap 'kill "$step"' TERM INT HUP
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

/** What DAGMan runs before and after a step, on the submitting machine. */
export function hookScript(
  program: string,
  resultDirectory: string,
  env: Readonly<Record<string, string>>,
): string {
  const variables = Object.entries(env).map(([name, value]) => `export ${name}=${word(value)}`);
  return `#!/bin/sh
${variables.join('\n')}
task=$1
shift
exec ${word(program)} farm "$task" ${word(resultDirectory)} "$@"
`;
}

/** One word of sh. */
function word(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
