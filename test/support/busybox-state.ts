import { chmod, cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir, uptime } from 'node:os';
import { join } from 'node:path';
import { execa, type Options, type ResultPromise } from 'execa';
import { type StatePaths, statePaths } from '../../src/host/state/paths.ts';
import { IMAGE_FORMAT } from '../../src/image/key.ts';
import { endDaemon, endSandboxes } from './daemon.ts';
import { callerOn } from './isolation.ts';

const APPLETS =
  'sh cat cp dd echo env false find grep head hostname id kill ln ls mkdir mknod mount nproc ps rm seq sha256sum sleep stat stty tail test touch tr true tty umount unshare uname wc yes';

export const IMAGE = 'b'.repeat(64);

const root = { name: 'root', uid: 0, gid: 0, home: '/root', shell: '/bin/sh' };
const build = { name: 'build', uid: 1000, gid: 1000, home: '/home/build', shell: '/bin/sh' };

/** How much slower than usual this host is allowed to be: an emulated one sets it. */
export const PATIENCE = Number(process.env.KILN_TEST_PATIENCE ?? 1);

/** A state directory of its own with one image in it: static busybox and two users. */
export interface BusyboxState extends AsyncDisposable {
  readonly paths: StatePaths;
  readonly env: NodeJS.ProcessEnv;
  /** A folder of the host beside the state, for binds. It goes with the state. */
  readonly beside: string;
  /** Runs `kiln` on this state, from source unless KILN_FROM_SOURCE says otherwise. Never rejects; a run that hangs is killed after 60 s. */
  kiln(args: readonly string[], options?: Options): ResultPromise;
}

const top = join(import.meta.dirname, '../..');

export const KILN = join(top, 'bin/kiln');

/** The program that Node runs where nobody asks the daemon: the bundle's in scripts/test, else that of the sources. */
export const MAIN = join(
  top,
  process.env.KILN_FROM_SOURCE === '' ? 'dist/kiln.cjs' : 'src/programs/command-line.ts',
);

/** Makes the state below `parent`; disposing of it ends its kilnd and libvirtd and removes everything. */
export async function busyboxState(parent = tmpdir()): Promise<BusyboxState> {
  const directory = await mkdtemp(join(parent, 'kiln-test-'));
  await chmod(directory, 0o755);
  const beside = `${directory}-beside`;
  await mkdir(beside);
  await chmod(beside, 0o755);
  const env = {
    ...process.env,
    ...(await callerOn(`${beside}/caller`)),
    KILN_STATE: directory,
    KILN_FROM_SOURCE: process.env.KILN_FROM_SOURCE ?? '1',
  };
  const paths = statePaths(env);
  const image = join(paths.images, IMAGE);
  const tree = join(image, 'tree');
  for (const name of [
    'bin',
    'dev',
    'etc',
    'proc',
    'run',
    'sys',
    'tmp',
    'var/tmp',
    'root',
    'home/build',
  ]) {
    await mkdir(join(tree, name), { recursive: true });
  }
  await cp('/bin/busybox', join(tree, 'bin/busybox'));
  for (const applet of APPLETS.split(' ')) await symlink('busybox', join(tree, 'bin', applet));
  await writeFile(
    join(tree, 'etc/passwd'),
    'root:x:0:0::/root:/bin/sh\nbuild:x:1000:1000::/home/build:/bin/sh\n',
  );
  await writeFile(join(tree, 'etc/group'), 'root:x:0:\nbuild:x:1000:\nextra:x:50:build\n');
  await writeFile(join(image, 'lease'), '');
  await writeFile(join(image, 'owner-0.json'), '{"name":"busybox","private":false}');
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  await writeFile(
    join(image, 'image.json'),
    JSON.stringify({
      format: IMAGE_FORMAT,
      id: IMAGE,
      name: 'busybox',
      description: '',
      arch: 'x86_64',
      environment: { PATH: '/bin', FROM_IMAGE: 'yes' },
      user: build,
      workdir: '/',
      accounts: [root, build],
      packageCount: 0,
      bytes: 0,
      epoch: 0,
      ownBytes: 0,
      transaction: 'none',
      warnings: [],
      created: Date.now(),
      made: { boot, uptime: uptime() },
    }),
  );
  return {
    paths,
    env,
    beside,
    kiln: (args, options = {}) =>
      execa(KILN, args, {
        env,
        reject: false,
        stdin: 'ignore',
        timeout: 60_000 * PATIENCE,
        killSignal: 'SIGKILL',
        ...options,
      }) as ResultPromise,
    [Symbol.asyncDispose]: async () => {
      await endSandboxes(paths, env);
      await endDaemon(directory);
      const { stopEmbeddedDaemon } = await import('../../src/host/libvirt/embedded/daemon.ts');
      await stopEmbeddedDaemon(paths);
      // A command may leave something behind that still writes, and ends by itself.
      for (const path of [directory, beside]) {
        await rm(path, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
      }
      await rm(paths.run, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    },
  };
}
