/** The place a benchmark is made in: a state of its own on a tmpfs, with its daemon, an image and parked sandboxes. */
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { endDaemon } from '../../test/support/daemon.ts';
import { type Kiln, openKiln } from '../../test/support/kiln.ts';
import { execute } from './measure.ts';

export const top = join(import.meta.dirname, '../..');

/** A user who is not root, and the group that is served: nobody of this host’s. */
export const USER = 61_001;

/** The client, as a user starts it. */
export const KILN = [join(top, 'dist/kiln')] as const;

export interface Bed extends AsyncDisposable {
  readonly env: NodeJS.ProcessEnv;
  /** Empty, on the same file system as the state. */
  readonly scratch: string;
  readonly kiln: Kiln;
  /** Id and tree of the image that things run in. */
  readonly image: string;
  readonly tree: string;
  readonly recipe: string;
  /** The RPM files that image is made of. */
  readonly rpms: string;
  /** Returns once so many sandboxes are parked. */
  park(count: number): Promise<void>;
  /** Done at its end, the last first. */
  atEnd(work: () => Promise<void>): void;
  /** Ends the parked sandboxes; no more are parked. */
  parkNone(): Promise<void>;
}

/** Makes it; disposing of it ends its daemon and libvirtd, and unmounts it. */
export async function makeBed(recipe: string): Promise<Bed> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-bench-'));
  await execute(['mount', '-t', 'tmpfs', '-o', 'mode=755,size=90%', 'kiln-bench', directory]);
  const state = join(directory, 'state');
  const scratch = join(directory, 'scratch');
  await mkdir(state, { mode: 0o755 });
  await mkdir(scratch, { mode: 0o755 });
  const config = join(directory, 'kiln.yaml');
  await writeFile(config, `users: { group: ${USER} }\n`);
  const env: NodeJS.ProcessEnv = { ...process.env, KILN_STATE: state, KILN_CONFIG: config };
  delete env.KILN_FROM_SOURCE;
  env.KILN_FIXTURES ??= join(top, '.cache/fixtures');
  await symlink(env.KILN_FIXTURES, join(state, 'fixtures'));
  const kiln = openKiln({ env });
  const { run } = kiln.paths;
  const parkNone = async () => {
    await execute([...KILN, 'park', '--none'], env);
    const connection = await kiln.engine.connect();
    // libvirtd takes 0.2 s for the end of a domain, for which whoever comes next is not to pay.
    while ((await connection.domainNames()).length > 0) await sleep(20);
  };
  const works: (() => Promise<void>)[] = [];
  const end = async () => {
    try {
      for (const work of works.toReversed()) await work();
      await endDaemon(state);
      await kiln.close();
      await stopEmbeddedDaemon(kiln.paths);
    } finally {
      for (const mounted of [directory, run]) {
        await execute(['umount', '-l', mounted])
          .then(() => rm(mounted, { recursive: true, force: true }))
          .catch((error: Error) => process.stderr.write(`${error.message}\n`));
      }
    }
  };
  try {
    // On any host with systemd /run is a file system in memory. On ext4, which writes out what takes
    // another file's name, each claim takes half a millisecond more.
    await mkdir(run, { recursive: true, mode: 0o711 });
    await execute(['mount', '-t', 'tmpfs', '-o', 'mode=711', 'kiln-bench', run]);
    await execute([...KILN, 'image', 'build', recipe], env);
    const [made] = await kiln.images();
    const image = made?.manifest.id ?? '';
    return {
      // As people have it: with that variable, a worker would do what the daemon does itself.
      env: { ...env, KILN_FIXTURES: undefined },
      scratch,
      kiln,
      image,
      recipe,
      tree: join(kiln.paths.images, image, 'tree'),
      rpms: join(env.KILN_FIXTURES, 'debian-rpms/build'),
      park: (count) => execute([...KILN, 'park', '-n', String(count)], env),
      parkNone,
      atEnd: (work) => works.push(work),
      [Symbol.asyncDispose]: end,
    };
  } catch (error) {
    await end();
    throw error;
  }
}
