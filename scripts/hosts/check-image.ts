import assert from 'node:assert/strict';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { endDaemon } from '../../test/support/daemon.ts';

const top = join(import.meta.dirname, '../..');

/**
 * The image debian-build is made in a new state directory, and hello.c compiled in it as
 * scripts/quickstart does; the program's own output is the witness.
 */
export async function checkImage(directory: string): Promise<void> {
  const env = { ...process.env, KILN_STATE: directory };
  const kiln = execa({ env, stdin: 'ignore', cwd: top, all: true });
  const out = join(directory, 'out');
  try {
    // A trace is opened before anything else, and the state is new.
    await mkdir(directory, { mode: 0o711 });
    const trace = join(directory, 'trace.json');
    await kiln({ env: { ...env, KILN_TRACE: trace } })('bin/kiln', [
      'image',
      'build',
      'debian-build',
    ]);
    // With two processors rpm writes its database in a sandbox of its own; where it fails there it runs again.
    const runs = (await readFile(trace, 'utf8')).match(/in the sandbox: \/usr\/bin\/rpm"/g);
    assert.equal(runs?.length, 1);
    const { stdout: version } = await kiln('bin/kiln', [
      ...['run', '-r', 'debian-build', '--', 'gcc', '--version'],
    ]);
    assert.match(version, /^gcc /);
    await kiln('bin/kiln', [
      ...['run', '-r', 'debian-build', '--bind', `${top}/recipes/examples/hello:/src:ro,z`],
      ...['--workdir', '/tmp', '--artifact', 'hello', '--resultdir', out],
      ...['--', 'gcc', '-O2', '-Wall', '-o', 'hello', '/src/hello.c'],
    ]);
    const hello = await kiln('bin/kiln', [
      ...[
        'run',
        '-r',
        'debian-build',
        '--bind',
        `${out}/hello:/opt/hello:ro,Z`,
        '--',
        '/opt/hello',
      ],
    ]);
    assert.match(hello.stdout, /[Hh]ello/);
  } finally {
    const paths = statePaths(env);
    await endDaemon(directory);
    await stopEmbeddedDaemon(paths);
    // A process of its own may still be writing the store to the disk.
    await rm(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 500 });
    await rm(paths.run, { recursive: true, force: true });
  }
}
