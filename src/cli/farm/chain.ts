import { once } from 'node:events';
import { join, resolve } from 'node:path';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { rememberChain } from '../../farm/chain.ts';
import { requirePool } from '../../farm/pool.ts';
import { type FarmReport, resultsOfRun } from '../../farm/report.ts';
import { buildFarmChain, type FarmContext, type FarmRequest } from '../../farm/run-chain.ts';
import { isPackageName, STEP_FILE } from '../../farm/step.ts';
import { Folder } from '../../host/files/folder.ts';
import { type HeldPath, ownPath } from '../../host/files/held.ts';
import { startProgram } from '../../host/process/child-process.ts';
import { packageRoot } from '../../host/state/package-root.ts';
import { isImageName } from '../../image/find.ts';
import { type AskedChain, chainJson } from '../../jobs/chain/request.ts';
import {
  ASKED_OF_BUILDS,
  ASKED_OF_STEPS,
  type BuildOptions,
  type ChainOptions,
} from '../../options/build.ts';
import { valuesIn } from '../../options/row.ts';
import { type CiChoice, DETACH } from '../../options/sandbox.ts';
import { allowedMissing } from '../../sandbox/policy/layers.ts';
import { type Caller, listenForInterruption } from '../caller/caller.ts';
import { type KilnCommand, refuseOptions } from '../options/command.ts';
import { CiOutput } from '../output/ci-output.ts';
import { KILN_FAILED } from '../output/errors.ts';
import {
  ChainTable,
  chainRequest,
  noteMember,
  tellChain,
  type UnbuiltChain,
} from '../rpmbuild/build-chain.ts';

export async function runFarmChain(
  sources: readonly string[],
  options: BuildOptions & ChainOptions,
  command: KilnCommand,
  caller: Caller,
): Promise<void> {
  // Names, which nobody has opened: HTCondor's tools take them, also when the chain is resumed.
  const names = sources.map((path) => ownPath(resolve(path)));
  const asked = chainRequest(names, options, command, caller);
  const request = { ...asked, resultDirectory: resolve(options.resultDirectory) };
  refuseWhatStays(command);
  const jobs = command.isGiven('jobs') ? options.jobs : null;
  const { ci, samples, json = false } = options;
  await run(farmRequest(request, jobs, samples), caller, { json, ci });
}

/** Options whose files, keys and networks exist only on this machine. */
const STAYS = [
  ...Object.keys(ASKED_OF_BUILDS).filter(
    (name) => name !== 'image' && !Object.hasOwn(ASKED_OF_STEPS, name),
  ),
  ...['repositories', 'allowHost'],
];

function refuseWhatStays(command: KilnCommand): void {
  const refuse = (names: readonly string[], hint: string) => {
    const given = command.given().filter((option) => names.includes(option.attributeName()));
    refuseOptions(given, '--farm', hint);
  };
  refuse(
    STAYS,
    'keys, caches, networks and kept sandboxes are of one machine; sign the packages when they are back',
  );
  refuse(
    Object.keys(DETACH),
    'a chain on a pool goes on when kiln ends: `kiln farm status`, `kiln farm resume`',
  );
}

function farmRequest(
  request: AskedChain & { readonly resultDirectory: string },
  jobs: number | null,
  samples: boolean,
): FarmRequest {
  const { build, ...chain } = request;
  if (!isImageName(build.image)) {
    throw new KilnError('E_ARGUMENT', `--farm takes no image by its path: ${build.image}`, {
      hint: 'name a recipe that comes with kiln: workers look for it under its name; docs/farm.md',
    });
  }
  const file = build.packages?.find((text) => !isPackageName(text));
  if (file !== undefined) {
    throw new KilnError('E_ARGUMENT', `--farm takes no package from a file: ${file}`, {
      hint: '--additional-package names a package of the image’s repositories',
    });
  }
  const { sourceDateEpoch } = build;
  const options = { ...valuesIn(ASKED_OF_STEPS, build), samples, ...defined({ sourceDateEpoch }) };
  return { ...chain, jobs, image: build.image, options };
}

interface RunOptions {
  readonly json: boolean;
  readonly ci: CiChoice;
  readonly goesOn?: boolean;
}

export async function run(
  request: FarmRequest,
  caller: Caller,
  { json, ci, goesOn = false }: RunOptions,
): Promise<void> {
  using interruption = listenForInterruption(caller);
  using table = new ChainTable(request.sources.length, caller);
  const program = join(packageRoot(), 'bin/kiln');
  const { image, options, jobs, resultDirectory } = request;
  const directory = await caller.paths.results(resultDirectory);
  const build = async () => {
    await requirePool(caller.ids.uid);
    const context = {
      owner: caller.ids,
      results: directory,
      doStep: (folder: string) => stepHere(program, folder),
      program,
      environment: hookEnvironment(caller),
      allowMissing: allowedMissing(caller.env),
      signal: interruption.signal,
      ...farmHooks(table, caller),
      onChain: (id: string) => rememberChain(caller.environment, id, resultDirectory),
    };
    return await buildFarmChain(request, context, goesOn);
  };
  const asked = { ...request, jobs: jobs ?? 0, build: { ...options, image } };
  const describe = (report: FarmReport | UnbuiltChain) => {
    const members: FarmReport['members'] = report.members;
    const workers = members.map(({ name, worker }) => [name, worker ?? null]);
    const farm = { id: 'id' in report ? report.id : null, workers: Object.fromEntries(workers) };
    return { ...chainJson(asked, report), farm };
  };
  const told = async (report: FarmReport) => {
    await tellService(report, directory, CiOutput.for(ci, caller));
    if (report.failure !== undefined)
      caller.stderr.say(`kiln: kiln farm resume ${report.id} goes on with what is left\n`);
  };
  await tellChain(build, { directory, json, describe, tellService: told }, table, caller);
}

/** How a chain on a pool is told: in place on a terminal that can show it, line by line elsewhere. */
export function farmHooks(
  table: ChainTable,
  caller: Caller,
): Pick<FarmContext, 'onMember' | 'onBuilding' | 'onNote'> {
  const note = (text: string) => caller.stderr.say(`kiln: ${text}\n`);
  const unlessQuiet = (text: string) => {
    if (!caller.isQuiet) note(text);
  };
  return {
    onNote: (text) => table.note(() => unlessQuiet(text)),
    onBuilding: (name, worker) => {
      table.show({ name, state: 'building' }, () => unlessQuiet(`${name}: building on ${worker}`));
      table.tell(name, `on ${worker}`);
    },
    onMember: (member) =>
      table.show(member, () => noteMember(member, note, caller, ` on ${member.worker}`)),
  };
}

/** Bytes of a log in which errors and tests are looked for. */
const LOG_MAX = 256 * 2 ** 20;

async function tellService(
  { members }: FarmReport,
  directory: HeldPath,
  ci: CiOutput | undefined,
): Promise<void> {
  if (ci === undefined) return;
  const results = resultsOfRun(directory, members);
  using top = Folder.open(directory);
  for (const { name, outcome } of members) {
    if (outcome === undefined || !results.has(name)) continue;
    using folder = top.existing(name);
    ci.read(name, `${name}.spec`, Buffer.from(folder?.read('build.log', LOG_MAX) ?? ''));
  }
  await ci.finishMembers(members, results, directory);
}

/** The caller's environment for DAGMan's scripts, which DAGMan does not pass on. */
function hookEnvironment({ environment }: Caller): Record<string, string> {
  const names = ['PATH', 'KILN_STATE', 'KILN_ALLOW_MISSING', 'KILN_FROM_SOURCE', 'CONDOR_CONFIG'];
  return Object.fromEntries(Object.entries(environment).filter(([name]) => names.includes(name)));
}

async function stepHere(program: string, folder: string): Promise<number> {
  const argv = ['farm', 'step', STEP_FILE, '--resultdir', 'out'];
  const child = startProgram(program, argv, {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const [code] = (await once(child, 'exit')) as [number | null];
  return code ?? KILN_FAILED;
}
