import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { ensureDebianRpms } from '../../fixtures/debian-rpms/ensure.ts';
import { fixturesRoot } from '../../fixtures/debian-rpms/layout.ts';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { type StatePaths, statePaths } from '../../src/host/state/paths.ts';
import type { ServiceStatus } from '../../src/service/status.ts';
import { KILN, PATIENCE } from '../support/busybox-state.ts';
import { isLong } from '../support/long.ts';

/** A state directory for services of the fixture repository's servers. */
export interface ServiceState extends AsyncDisposable {
  readonly directory: string;
  readonly env: NodeJS.ProcessEnv;
  readonly paths: StatePaths;
  /** Runs `kiln service`; what comes of it is the caller's to look at. */
  service(...args: readonly string[]): ReturnType<typeof runService>;
  /** Runs a command in a service; it has to succeed. Gives its output. */
  inside(name: string, ...command: readonly string[]): Promise<string>;
  statusOf(name: string): Promise<ServiceStatus | undefined>;
}

function runService(env: NodeJS.ProcessEnv, args: readonly string[]) {
  return execa(KILN, ['service', ...args], {
    env,
    reject: false,
    stdin: 'ignore',
    timeout: 200_000 * PATIENCE,
  });
}

/** Makes one; disposing of it stops its services and libvirtd. */
export async function serviceState(): Promise<ServiceState> {
  // MariaDB is there for --long alone.
  for (const set of isLong ? ['services', 'extras'] : ['services']) await ensureDebianRpms(set);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-services-'));
  await chmod(directory, 0o755);
  const env = {
    ...process.env,
    KILN_STATE: directory,
    KILN_FIXTURES: fixturesRoot(),
    KILN_FROM_SOURCE: process.env.KILN_FROM_SOURCE ?? '1',
  };
  const paths = statePaths(env);
  const service = (...args: readonly string[]) => runService(env, args);
  return {
    directory,
    env,
    paths,
    service,
    async inside(name, ...command) {
      const { stdout, stderr, exitCode } = await service('execute', name, '--', ...command);
      if (exitCode !== 0) throw new Error(`${command.join(' ')}: ${stdout}${stderr}`);
      return stdout;
    },
    async statusOf(name) {
      const { stdout } = await service('list', '--json', name);
      return (JSON.parse(stdout) as { status?: ServiceStatus }[])[0]?.status;
    },
    async [Symbol.asyncDispose]() {
      const { stdout } = await service('list', '--json');
      const names = (JSON.parse(stdout) as { name: string }[]).map(({ name }) => name);
      if (names.length > 0) await service('stop', ...names);
      await stopEmbeddedDaemon(paths);
      await rm(paths.run, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
      await rm(directory, { recursive: true, force: true });
    },
  };
}
