import { copyFileSync, mkdirSync } from 'node:fs';
import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import type { CgroupLimits } from '../../host/cgroup/cgroup-files.ts';
import { connect } from '../../host/libvirt/connection.ts';
import { embeddedDaemonStatus } from '../../host/libvirt/embedded/daemon.ts';
import { pickEngine } from '../../host/libvirt/pick-engine.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import { INIT_PATH } from '../../sandbox/domain/skeleton.ts';
import { type CommandPlan, type Plan, planSandbox } from '../../sandbox/door/plan.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import { allowedMissing } from '../../sandbox/policy/layers.ts';
import { type Check, type CheckContext, type Finding, fail, ok, reason } from '../check.ts';
import { initPath, libvirtPatience } from '../host.ts';

/** The embedded libvirtd is started for the check; it ends by itself when nobody uses it. */
export const libvirt: Check = {
  name: 'libvirt',
  async run({ paths, env, host }) {
    const install = host.install(
      host.family === 'debian'
        ? ['libvirt-daemon', 'libvirt-daemon-driver-lxc']
        : ['libvirt-daemon-driver-lxc'],
    );
    try {
      const engine = pickEngine(paths, env);
      const before = await embeddedDaemonStatus(paths);
      await using connection = await connect({ paths, env, endAfter: libvirtPatience() });
      const version = await connection.version();
      const capabilities = await connection.capabilities();
      const was =
        engine.kind === 'system'
          ? engine.uri
          : `embedded, ${before.running ? 'running' : 'started for this check'}`;
      if (!/<os_type>exe<\/os_type>/.test(capabilities)) {
        return fail(`libvirt ${version}, ${was}`, 'it offers no containers', install);
      }
      return ok(`libvirt ${version}, ${was}`);
    } catch (error) {
      const { code, cause = error, hint = install } = asKnown(error);
      return fail(reason(error), reason(cause), code === 'E_LIBVIRT_MISSING' ? install : hint);
    }
  },
};

function asKnown(error: unknown): Partial<KilnError> {
  return error instanceof KilnError ? error : {};
}

/** No image need know the user. */
const USER = { spec: '65534:65534', uid: 65534, gid: 65534 };

/** Many times what a busy host needs, ms. */
const PATIENCE = 120_000;

export const sandbox: Check = {
  name: 'sandbox',
  run: (context) => patiently(tried(context)),
};

/** What is found of a sandbox, or that it hangs. */
export async function patiently(found: Promise<Finding>): Promise<Finding> {
  const late = deferred<Finding>();
  using _timer = setTimeout(() => {
    late.resolve(
      fail(
        `a sandbox did not end within ${PATIENCE / 1000} s`,
        'commands and builds hang',
        'see which process hangs: `kiln doctor --files` names the log of libvirtd',
      ),
    );
  }, PATIENCE);
  return await Promise.race([awaitedLater(found), late.promise]);
}

async function tried(context: CheckContext): Promise<Finding> {
  let step = 'make an image';
  try {
    const { memory, pids } = await trial(context, (next) => {
      step = next;
    });
    const limits = [
      memory === undefined ? 'no limit of memory' : `memory ${Math.round(memory / 2 ** 20)} MiB`,
      pids === undefined ? 'no limit of processes' : `${pids} processes`,
    ];
    return ok(`a sandbox was started, and ran a command: ${limits.join(', ')}`);
  } catch (error) {
    const { hint, cause } = asKnown(error);
    return fail(
      `cannot ${step}: ${reason(error)}${cause === undefined ? '' : `: ${reason(cause)}`}`,
      'no command and no build can start',
      hint ?? 'mend what the other checks name; in a container: docs/containers.md',
    );
  }
}

type Begin = (step: string) => void;

/** What a check says of a sandbox that it tries. */
export function trialOf({ env }: CheckContext) {
  return {
    ...({ isolation: 'container', network: 'private', label: { kind: 'auto' } } as const),
    ...{ binds: [], volumes: [], allowHostWrite: false, protectedPaths: [], egress: undefined },
    ...{ privateTmp: true, namespaces: 0, nested: false, boot: false },
    ...{ allowMissing: allowedMissing(env), caller: { uid: 0, gid: 0 } },
  };
}

async function trial(context: CheckContext, begin: Begin): Promise<CgroupLimits> {
  const { paths } = context;
  // A tree with one program that does nothing: the guest init needs no library.
  await using work = await openWorkDirectory(paths);
  const root = join(work.path, 'tree');
  for (const name of ['dev', 'proc', 'etc', 'tmp', 'run', 'var/tmp']) {
    mkdirSync(join(root, name), { recursive: true });
  }
  copyFileSync(initPath(), join(root, INIT_PATH));
  await chmod(join(root, INIT_PATH), 0o755);
  const plan = planSandbox(
    { ...trialOf(context), shownAs: ['kiln doctor'], owner: USER },
    { tree: root, id: undefined, arch: undefined, environment: {} },
  );
  const command: CommandPlan = {
    ...{ argv: [INIT_PATH, 'true'], env: {}, workdir: '/', time: {}, leftovers: 'ended' },
    policy: { user: USER.spec, capabilities: [], seccomp: 'default' },
  };
  return await runPlanned(context, { ...plan, command }, begin);
}

/** @throws KilnError of whatever is in the way */
export async function runPlanned(
  { paths, env, owner }: CheckContext,
  plan: Plan,
  begin: Begin,
): Promise<CgroupLimits> {
  begin('reach libvirt');
  await using connection = await connect({ paths, env, endAfter: libvirtPatience() });
  begin('start a sandbox');
  const host = { paths, owner, connect: async () => connection };
  await using plannedSandbox = await PlannedSandbox.open(host, plan);
  begin('run a command in it');
  const { exitCode, signal } = await plannedSandbox.execute(plan.command);
  if (exitCode !== 0) throw new KilnError('E_EXEC', `it ended with ${exitCode ?? signal}`);
  return plannedSandbox.ground.limits();
}
