import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa, type Options, type ResultPromise } from 'execa';
import { ensureDebianRpms } from '../../fixtures/debian-rpms/ensure.ts';
import type { Engine } from '../../src/engine.ts';
import type { Connection } from '../../src/host/libvirt/connection.ts';
import { connect } from '../../src/host/libvirt/connection.ts';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { openImage } from '../../src/image/open.ts';
import type { OpenImageOptions } from '../../src/image/plan.ts';
import type { LeasedImage } from '../../src/image/store/images.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { endDaemon, endSandboxes } from '../support/daemon.ts';
import { ownCaller } from '../support/own-caller.ts';
import { giveUnpackedPackages, type UnpackedSet } from '../support/unpacked-packages.ts';

/** A state directory of its own, in which images are built from the fixture packages. */
export interface ImageState extends AsyncDisposable {
  /** The state directory's parent: whatever else a test needs goes here, too. */
  readonly directory: string;
  readonly engine: Engine;
  readonly env: NodeJS.ProcessEnv;
  /** Writes a recipe (YAML without repositories, which it gets) and returns its path. */
  recipe(name: string, yaml: string, repositories?: readonly FixtureRepository[]): Promise<string>;
  /** Opens (and builds) an image; it is released with the state. */
  open(recipe: string, options?: OpenImageOptions): Promise<LeasedImage>;
  /** Runs `kiln` from source on this state; never rejects. */
  kiln(args: readonly string[], options?: Options): ResultPromise;
}

/** A local repository of the fixtures. */
export interface FixtureRepository {
  readonly id: string;
  readonly directory: string;
  /** Without one, signatures are not checked. */
  readonly key?: string;
}

/** The Debian packages as RPMs, built if need be. */
export async function debianRepository(): Promise<FixtureRepository> {
  const { directory, keyPath } = await ensureDebianRpms();
  return { id: 'debian', directory, key: keyPath };
}

/**
 * Makes the state; disposing of it ends its libvirtd and removes everything.
 * @param options.unpacked which packages of debian-build may be there already; none by default
 */
export async function imageState({
  unpacked,
}: {
  readonly unpacked?: UnpackedSet;
} = {}): Promise<ImageState> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-image-'));
  await chmod(directory, 0o711);
  const { KILN_FROM_SOURCE = '1' } = process.env;
  const env = { ...process.env, KILN_STATE: join(directory, 'state'), KILN_FROM_SOURCE };
  const paths = statePaths(env);
  if (unpacked !== undefined) await giveUnpackedPackages(paths, unpacked);
  let connection: Promise<Connection> | undefined;
  const engine: Engine = {
    paths,
    ...ownCaller,
    connect: () => {
      connection ??= connect({ paths, env });
      return connection;
    },
  };
  const leases: LeasedImage[] = [];
  return {
    directory,
    engine,
    env,
    async recipe(name, yaml, repositories) {
      const path = join(directory, `${name}.yaml`);
      const blocks = (repositories ?? [await debianRepository()]).map(
        ({ id, directory: folder, key }) =>
          `  - { id: ${id}, directory: ${folder}${key === undefined ? '' : `, gpgcheck: true, gpgkey: ${key}`} }\n`,
      );
      await writeFile(path, `repositories:\n${blocks.join('')}${yaml}\n`);
      return path;
    },
    async open(recipe, options) {
      const lease = await openImage(engine, recipe, options);
      leases.push(lease);
      return lease;
    },
    kiln: (args, options = {}) =>
      execa(join(import.meta.dirname, '../../bin/kiln'), args, {
        env,
        reject: false,
        stdin: 'ignore',
        timeout: 240_000 * PATIENCE,
        killSignal: 'SIGKILL',
        ...options,
      }) as ResultPromise,
    async [Symbol.asyncDispose]() {
      for (const lease of leases) await lease[Symbol.asyncDispose]();
      await (await connection?.catch(() => undefined))?.close();
      // Sandboxes end by their libvirtd.
      await endSandboxes(paths, env);
      await endDaemon(paths.root);
      await stopEmbeddedDaemon(paths);
      // Node's own takes three times as long for trees of images.
      await execa('rm', ['-rf', directory], { reject: false });
      // A build leaves a process behind that writes the store to the disk.
      await rm(directory, { recursive: true, force: true, maxRetries: 50, retryDelay: 100 });
      await rm(paths.run, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    },
  };
}
