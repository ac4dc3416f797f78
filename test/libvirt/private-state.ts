import { execFile } from 'node:child_process';
import { copyFile, glob, mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { ExecutionContext } from 'ava';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { type EmbeddedFiles, embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { type StatePaths, statePaths } from '../../src/host/state/paths.ts';
import { PATIENCE } from '../support/busybox-state.ts';

const run = promisify(execFile);

/** A state directory of a test's own, with a root for small domains, and a way to be rid of it. */
export interface PrivateState {
  readonly env: NodeJS.ProcessEnv;
  readonly paths: StatePaths;
  readonly files: EmbeddedFiles;
  /** XML of a domain whose init is `sh -c script` of a static busybox. */
  xml(name: string, script: string): string;
  /** Standard output of `virsh`, the independent oracle, at the embedded daemon. */
  virsh(...words: string[]): Promise<string>;
  /** Stops the daemon, tells what is left of it (empty is right) and removes the directory. */
  cleared(): Promise<string[]>;
}

/** An init that waits, and ends at once when libvirt sends it SIGTERM. */
export const WAITING = 'trap "exit 0" TERM; sleep 1000 & wait';

/** Processes of this machine with `text` in their cgroup or their command line. */
export async function processesWith(text: string): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      const read = (file: string) => readFile(`/proc/${pid}/${file}`, 'latin1').catch(() => '');
      return `${await read('cgroup')}${await read('cmdline')}`.includes(text);
    }),
  );
  return pids.filter((_, index) => found[index]).map(Number);
}

/** Cgroups called `name` at the top of any hierarchy, or two levels below. */
async function cgroupsNamed(name: string): Promise<string[]> {
  const found: string[] = [];
  for await (const path of glob(['', '*/', '*/*/'].map((up) => `/sys/fs/cgroup/${up}${name}*`))) {
    found.push(path);
  }
  return found;
}

async function makeRoot(root: string): Promise<void> {
  for (const name of ['bin', 'dev', 'proc', 'sys', '.oldroot']) {
    await mkdir(join(root, name), { recursive: true });
  }
  await copyFile('/bin/busybox', join(root, 'bin/busybox'));
  await symlink('busybox', join(root, 'bin/sh'));
  await symlink('busybox', join(root, 'bin/sleep'));
}

/** Makes one; a test that fails before it calls `cleared` leaves nothing either. */
export async function privateState(t: ExecutionContext): Promise<PrivateState> {
  const top = await mkdtemp(join(tmpdir(), 'kiln-libvirt-'));
  const env = { ...process.env, KILN_STATE: join(top, 'state'), KILN_URI: undefined };
  const paths = statePaths(env);
  const files = embeddedFiles(paths);
  const root = join(top, 'root');
  await makeRoot(root);
  const mounts = await readFile('/proc/self/mountinfo', 'utf8');
  const found = async (): Promise<string[]> => {
    const found = [
      ...(await processesWith(files.name)).map((pid) => `process ${pid}`),
      ...(await processesWith(files.config)).map((pid) => `libvirtd ${pid}`),
      ...(await cgroupsNamed(files.name)).map((path) => `cgroup ${path}`),
      ...(await readdir(paths.run).catch(() => [])).map((name) => `${paths.run}/${name}`),
    ];
    const after = await readFile('/proc/self/mountinfo', 'utf8');
    const id = basename(paths.run);
    // mount(8) notes there what the kernel does not know, and reads all of it each time.
    const table = await readFile('/run/mount/utab', 'utf8').catch(() => '');
    if (table.includes(id) || table.includes(top)) found.push('lines in /run/mount/utab');
    for (const line of after.split('\n')) {
      if (!mounts.includes(line) && (line.includes(id) || line.includes(top))) {
        found.push(`mount ${line}`);
      }
    }
    return found;
  };
  const remains = async (): Promise<string[]> => {
    // What was told to end ends by and by.
    const end = Date.now() + 10_000 * PATIENCE;
    let left = await found();
    for (; left.length > 0 && Date.now() < end; left = await found()) await sleep(100);
    await rm(paths.run, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    await rm(top, { recursive: true, force: true });
    return left;
  };
  let clearing: Promise<string[]> | undefined;
  const cleared = (): Promise<string[]> => {
    clearing ??= stopEmbeddedDaemon(paths).then(remains);
    return clearing;
  };
  t.teardown(() => cleared());
  return {
    env,
    paths,
    files,
    xml: (name, script) => `<domain type='lxc'>
      <name>${name}</name><memory unit='MiB'>64</memory>
      <os><type>exe</type><init>/bin/sh</init><initarg>-c</initarg>
        <initarg>${script.replaceAll('&', '&amp;').replaceAll('>', '&gt;')}</initarg></os>
      <features><privnet/></features>
      <devices><filesystem type='mount'><source dir='${root}'/><target dir='/'/></filesystem>
        <console type='pty'/></devices>
    </domain>`,
    virsh: async (...words) => (await run('virsh', ['-q', '-c', files.uri, ...words])).stdout,
    cleared,
  };
}
