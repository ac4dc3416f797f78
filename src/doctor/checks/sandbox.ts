import { copyFileSync, mkdirSync } from 'node:fs';
import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import { connect } from '../../libvirt/connect.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import { openSandbox } from '../../sandbox/open.ts';
import { commandPolicy } from '../../sandbox/policy.ts';
import type { SandboxProcess } from '../../sandbox/process.ts';
import { INIT_PATH } from '../../sandbox/skeleton.ts';
import { sandboxSpecification } from '../../sandbox/specification.ts';
import { surroundingsOf } from '../../sandbox/surroundings.ts';
import { type Check, type CheckContext, type Finding, fail, ok, reason } from '../check.ts';
import { initPath, libvirtPatience } from '../probe.ts';

/** The command's user, as most images have one without rights. */
const USER = { spec: '65534:65534', uid: 65534, gid: 65534 };

/** What a host without a machine to spare takes, many times over, ms. */
const PATIENCE = 120_000;

/** `kiln run` does what it does: a sandbox is started, a command runs in it, and it is gone again. Tried. */
export const sandbox: Check = {
  name: 'sandbox',
  async run(context) {
    const late = deferred<Finding>();
    const timer = setTimeout(() => {
      late.resolve(
        fail(
          `nothing had come of a sandbox after ${PATIENCE / 1000} s`,
          'no run and no build comes to an end',
          'see which process hangs: `kiln doctor --files` names the log of libvirtd',
        ),
      );
    }, PATIENCE);
    try {
      return await Promise.race([awaitedLater(tried(context)), late.promise]);
    } finally {
      clearTimeout(timer);
    }
  },
};

async function tried(context: CheckContext): Promise<Finding> {
  let step = 'make an image';
  try {
    return await trial(context, (next) => {
      step = next;
    });
  } catch (error) {
    const hint = error instanceof KilnError ? error.hint : undefined;
    const cause = error instanceof KilnError ? error.cause : undefined;
    return fail(
      `cannot ${step}: ${reason(error)}${cause === undefined ? '' : `: ${reason(cause)}`}`,
      'no run and no build can start',
      hint ?? 'mend what the other checks name; in a container: docs/containers.md',
    );
  }
}

async function trial(
  { paths, env }: CheckContext,
  begin: (step: string) => void,
): Promise<Finding> {
  // A tree with one program that does nothing: the guest init needs no library.
  await using work = await openWorkDirectory(paths);
  const root = join(work.path, 'tree');
  for (const name of ['dev', 'proc', 'etc', 'tmp', 'run', 'var/tmp']) {
    mkdirSync(join(root, name), { recursive: true });
  }
  copyFileSync(initPath(), join(root, INIT_PATH));
  await chmod(join(root, INIT_PATH), 0o755);
  begin('prepare its policy');
  const specification = sandboxSpecification({ root });
  const policy = await commandPolicy(paths, surroundingsOf(specification), {
    user: USER.spec,
    capabilities: [],
    seccomp: 'default',
  });
  begin('reach libvirt');
  await using connection = await connect({ paths, env, endAfter: libvirtPatience() });
  begin('start a sandbox');
  const engine = { paths, connect: async () => connection };
  const use = { user: USER, caller: { uid: 0, gid: 0 }, command: ['kiln doctor'] };
  await using box = await openSandbox(engine, specification, use);
  begin('run a command in it');
  const status = await statusOf(await box.spawn([INIT_PATH, 'true'], { policy, env: {} }));
  if (status !== 0) throw new KilnError('E_EXEC', `it ended with ${status}`);
  const { memory, pids } = box.cgroups.limits(box.id);
  const limits = [
    memory === undefined ? 'no limit of memory' : `memory ${Math.round(memory / 2 ** 20)} MiB`,
    pids === undefined ? 'no limit of processes' : `${pids} processes`,
  ];
  return ok(`a sandbox was started, and ran a command: ${limits.join(', ')}`);
}

function statusOf(command: SandboxProcess): Promise<number | string> {
  return new Promise((resolve, reject) => {
    command.once('error', reject);
    command.once('close', (code: number | null, signal: string | null) => {
      resolve(code ?? signal ?? 'nothing');
    });
    command.stdout.resume();
    command.stderr.resume();
    command.stdin.end();
  });
}
