/**
 * Measures what a long chain takes of the submitting machine, without a pool and without builds: the plan, the DAG,
 * `kiln farm status`, and what comes before and after a step when so many packages are there.
 */
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { type FarmChain, FarmFiles } from '../../src/farm/chain.ts';
import { DAG_FILE, dagText, submitFile } from '../../src/farm/dag.ts';
import { planRound } from '../../src/farm/plan.ts';
import { prepareStep } from '../../src/farm/prepare.ts';
import { publishStep } from '../../src/farm/publish.ts';
import { Reporter } from '../../src/farm/report.ts';
import { type BuildOutcome, OUTCOME_FILE, type Step } from '../../src/farm/step.ts';
import { makeDirectory } from '../../src/host/files/folder.ts';
import { ownPath } from '../../src/host/files/held.ts';
import { removeTree } from '../../src/host/files/remove-tree.ts';
import { type MemberRecord, parseJson, Records } from '../../src/jobs/chain/records.ts';
import { sourcePackage } from '../../test/build/source-packages.ts';

const OWNER = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

/** Stands for a digest whose value does not matter here. */
const SOME = 'ab'.repeat(32);

const LOCK = {
  ...{ kind: 'kiln-image-lock', format: 1, asked: SOME },
  image: {
    ...{ name: 'debian-build', description: '', user: 'build', workdir: null, environment: {} },
    ...{ users: [], files: [], scriptlets: { mode: 'auto', timeout: 300, disk: 2 ** 34 } },
  },
  packages: { format: 1, arch: 'x86_64', requested: [], repositories: [], packages: [] },
};

function sha256(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}

/** A package for each member, by one call of rpmbuild. */
async function binaryPackages(top: string, count: number): Promise<string> {
  const names = Array.from({ length: count }, (_, index) => `p${index + 1}`);
  const spec = [
    'Name: all\nVersion: 1\nRelease: 1\nSummary: x\nLicense: MIT\nBuildArch: noarch\n%description\nx',
    ...names.map(
      (name) =>
        `%package -n ${name}\nSummary: x\nProvides: ${name}-devel\n%description -n ${name}\nx\n%files -n ${name}\n/p/${name}`,
    ),
    `%install\nmkdir -p %{buildroot}/p\nfor i in $(seq ${count}); do echo $i >%{buildroot}/p/p$i; done\n`,
  ];
  writeFileSync(join(top, 'all.spec'), spec.join('\n'));
  const argv = ['-bb', '--quiet', '--nodeps', '--define', `_topdir ${top}`, join(top, 'all.spec')];
  await execa('rpmbuild', argv);
  return join(top, 'RPMS/noarch');
}

async function time<Result>(what: string, work: () => Result | Promise<Result>): Promise<Result> {
  const [started, before] = [performance.now(), process.cpuUsage()];
  const result = await work();
  const { user, system } = process.cpuUsage(before);
  const took = ((performance.now() - started) / 1000).toFixed(2);
  const memory = Math.round(process.memoryUsage().rss / 2 ** 20);
  const line = `${what}: ${took} s, ${((user + system) / 1e6).toFixed(2)} s of a processor, ${memory} MiB`;
  process.stdout.write(`${line}\n`);
  return result;
}

/** Each package needs the hundredth before it, and one more. */
function members(count: number, source: string): FarmChain['members'] {
  const file = { path: source, sha256: sha256(source) };
  return Array.from({ length: count }, (_, index) => {
    const needs = [index - 99, index - 149].filter((number) => number > 0);
    const name = `p${index + 1}`;
    return {
      ...{ name: `${name}-1-1`, ...file, node: null, needs: [], current: false, packages: [] },
      requires: ['gcc', 'make', ...needs.map((number) => `p${number}-devel`)],
      provides: [
        { name, operator: '=' as const, version: '1-1' },
        { name: `${name}-devel`, operator: '' as const, version: '' },
      ],
      durationMs: 0,
    };
  });
}

export async function measureLongChain(count: number): Promise<void> {
  const top = mkdtempSync(join(tmpdir(), 'kiln-long-chain-'));
  try {
    const made = await binaryPackages(top, count);
    const source = await sourcePackage(join(top, 'srpms'), { name: 'one' });
    const out = join(top, 'out');
    makeDirectory(out);
    using records = Records.open(ownPath(out));
    using files = FarmFiles.make(ownPath(out), out);
    const before: FarmChain = {
      ...{ kind: 'kiln-farm-chain', format: 1, id: '00c0ffee', sources: [source], started: 1 },
      ...{ resultDirectory: out, image: { name: 'debian-build', id: null, lock: null } },
      ...{ options: {}, optionsDigest: SOME, jobs: null, continue: true, recurse: false },
      ...{ members: members(count, source), cluster: null },
    };
    /** In place of the scan in a sandbox. */
    const doStep = async (folder: string) => {
      const { known } = parseJson(readFileSync(join(folder, 'step.json'), 'utf8')) as Step;
      const found = before.members.map(({ name, requires, provides }) => ({
        name,
        requires,
        provides,
      }));
      mkdirSync(join(folder, 'out'));
      const outcome = {
        ...{ kind: 'kiln-farm-scan', format: 1, image: { id: SOME, lock: LOCK } },
        members: found.map((one) => ({ ...one, problem: null })),
        roots: known.map(({ member }) => ({ member, root: SOME })),
      };
      writeFileSync(join(folder, 'out', OUTCOME_FILE), JSON.stringify(outcome));
      return 0;
    };
    const plan = () => planRound(before, { files, records, doStep, lost: new Set() });
    const chain = await time(`plan of ${count} packages`, plan);
    await time('DAG and submit files', () => {
      files.keep(chain);
      const nodeOf = new Map(chain.members.map(({ name, node }) => [name, node]));
      const nodes = chain.members.map(({ name, node, needs }) => {
        const parents = needs.map((need) => nodeOf.get(need.member) ?? '');
        return { node: node ?? '', member: name, parents };
      });
      for (const { node } of nodes) files.write(submitFile(node), '#\n');
      files.write(DAG_FILE, dagText(chain.id, nodes));
    });
    for (const name of ['chain.json', DAG_FILE]) {
      process.stdout.write(`${name}: ${statSync(join(files.path, name)).size} bytes\n`);
    }
    const outcome = (member: string, record: MemberRecord): BuildOutcome => ({
      ...{ kind: 'kiln-farm-build', format: 1, member, worker: 'w', state: 'built' },
      ...{ exitStatus: 0, failure: null, failedPhase: null, lastLines: [], durationMs: 1 },
      root: { digest: SOME, packages: Array.from({ length: 300 }, () => `sha256:${SOME}`) },
      ...{ requires: record.requires, packages: record.packages, started: 1, ended: 2 },
    });
    let built = 0;
    const build = (until: number) => {
      for (; built < until; built++) {
        const { name, node, sha256: digest, requires } = chain.members[built]!;
        const file = `p${built + 1}-1-1.noarch.rpm`;
        const folder = join(out, name);
        mkdirSync(folder);
        copyFileSync(join(made, file), join(folder, file));
        const record: MemberRecord = {
          ...{ format: 1, source: digest, options: SOME, root: SOME, requires, uses: [] },
          ...{ snapshot: null, packages: [{ file, sha256: sha256(join(folder, file)) }] },
          durationMs: 1,
        };
        records.keepBuilt(name, record);
        files.keepOutcome(node!, outcome(name, record));
      }
    };
    for (const part of [0.25, 0.5, 0.99]) {
      build(Math.floor(count * part));
      const { name, node, requires } = chain.members[built]!;
      // The first publishes what was put there past it.
      await prepareStep(files, node!, []);
      await time(`with ${built} built: before a step`, () => prepareStep(files, node!, []));
      const file = `p${built + 1}-1-1.noarch.rpm`;
      const back = join(files.path, node!, 'out');
      mkdirSync(back);
      copyFileSync(join(made, file), join(back, file));
      const packages = [{ file, sha256: sha256(join(back, file)) }];
      const record = { requires, packages } as MemberRecord;
      writeFileSync(join(back, OUTCOME_FILE), JSON.stringify(outcome(name, record)));
      await time(`with ${built} built: after a step`, () => publishStep(files, node!, 0, OWNER));
      built++;
      const reporter = new Reporter(chain, files);
      await time(`with ${built} built: status`, () =>
        chain.members.map((member) => reporter.reportOf(member)),
      );
    }
    build(count);
    const again = await time('plan, all built', plan);
    if (again.members.some(({ node }) => node !== null)) throw new Error('something is planned');
  } finally {
    await removeTree(top);
  }
}
