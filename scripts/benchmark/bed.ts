/** The place a benchmark is made in: a state of its own on a tmpfs, with an image and parked boxes. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Kiln, openKiln } from '../../src/kiln.ts';
import { stopEmbeddedDaemon } from '../../src/libvirt/embedded/daemon.ts';
import { refill, setParkTarget } from '../../src/sandbox/parking.ts';
import { sweepBoxes } from '../../src/sandbox/sweep.ts';
import { execute } from './measure.ts';

export const top = join(import.meta.dirname, '../..');

/** The bundle, run by this very Node: what users run. */
export const KILN = [process.execPath, join(top, 'dist/kiln.cjs')] as const;

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
  park(count: number): Promise<void>;
  /** Ends the boxes that wait, and starts no more. */
  parkNone(): Promise<void>;
}

/** Makes it; disposing of it ends its libvirtd and unmounts it. */
export async function makeBed(recipe: string): Promise<Bed> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-bench-'));
  await execute(['mount', '-t', 'tmpfs', '-o', 'mode=755,size=90%', 'kiln-bench', directory]);
  const state = join(directory, 'state');
  const scratch = join(directory, 'scratch');
  await mkdir(state, { mode: 0o755 });
  await mkdir(scratch, { mode: 0o755 });
  const env: NodeJS.ProcessEnv = { ...process.env, KILN_STATE: state };
  env.KILN_FIXTURES ??= join(top, '.cache/fixtures');
  const kiln = openKiln({ env });
  const { run } = kiln.paths;
  const parkNone = async () => {
    setParkTarget(kiln.paths, 0);
    const connection = await kiln.engine.connect();
    // Until none is left: a process in the background may park one yet, and libvirtd takes 0.2 s for
    // the end of a domain, for which whoever comes next is not to pay.
    do {
      await sweepBoxes(kiln.paths, kiln.engine.connect, { parkedToo: true });
      await sleep(20);
    } while ((await connection.listDomains()).length > 0);
  };
  const end = async () => {
    try {
      await parkNone();
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
      env,
      scratch,
      kiln,
      image,
      recipe,
      tree: join(kiln.paths.images, image, 'tree'),
      rpms: join(env.KILN_FIXTURES, 'debian-rpms/build'),
      park: async (count) => {
        setParkTarget(kiln.paths, count);
        await refill(kiln.paths, kiln.engine.connect, { wait: true });
      },
      parkNone,
      [Symbol.asyncDispose]: end,
    };
  } catch (error) {
    await end();
    throw error;
  }
}
