/** scripts/release: builds kiln's packages in a sandbox of kiln's own. */
import { createHash } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { execa } from 'execa';
import { KILN_VERSION } from '../../src/host/state/paths.ts';
import { scratchFolder } from '../scratch.ts';
import { writeGenerated } from '../write/wire.ts';
import { debianDepends, debianRecommends, rpmRequires } from './dependencies.ts';

const top = join(import.meta.dirname, '../..');

/** The names of this machine's architecture: Debian's, rpm's, Node's. */
const ARCHITECTURES: Readonly<Record<string, readonly [string, string, string]>> = {
  x64: ['amd64', 'x86_64', 'x64'],
  arm64: ['arm64', 'aarch64', 'arm64'],
};

const PACKAGE = /\.(?:deb|rpm|tgz|whl)$/;

/** Tracked files as they lie, so that what is not committed can be tried; never what Git ignores. */
async function writeSource(file: string): Promise<void> {
  const { stdout } = await execa('git', ['ls-files', '-z'], { cwd: top });
  const tar = ['-cf', file, '--null', '--no-recursion', '-T', '-'];
  await execa('tar', tar, { cwd: top, input: stdout });
}

async function digestOf(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

/** @param number of the packaging of this version, from 1 @returns its exit status */
async function release(directory: string, number: string): Promise<number> {
  const names = ARCHITECTURES[process.arch];
  if (names === undefined) throw new Error(`kiln has no packages for ${process.arch}`);
  const { stdout: epoch } = await execa('git', ['log', '-1', '--format=%ct'], { cwd: top });
  const input = scratchFolder('release');
  await chmod(input, 0o755);
  await writeSource(join(input, 'source.tar'));
  await writeFile(join(input, 'depends'), debianDepends());
  await writeFile(join(input, 'recommends'), debianRecommends());
  await writeFile(join(input, 'requires'), rpmRequires());
  const sandbox = [
    ...['--bind', `${input}:/input:ro`, '--bind', `${join(top, 'node_modules')}:/node_modules:ro`],
    ...['--bind', `${join(top, '.cache/toolchain/node_modules')}:/toolchain:ro`],
    ...['--workdir', '/builddir', '--disk', '8G', '--timeout', '30m'],
    ...['--env', `SOURCE_DATE_EPOCH=${epoch}`],
    ...['--artifact', '*.deb', '--artifact', '*.rpm', '--artifact', '*.tgz'],
  ];
  const build = ['sh', '/input/build.sh', KILN_VERSION, number, ...names];
  for (const name of ['build.sh', 'pack.sh']) {
    await writeFile(join(input, name), await readFile(join(top, 'scripts/packaging', name)));
  }
  const kiln = ['run', '-r', 'debian-dpkg', ...sandbox, '--resultdir', directory, '--', ...build];
  const { exitCode } = await execa(join(top, 'bin/kiln'), kiln, {
    ...{ stdio: ['ignore', 'inherit', 'inherit'], reject: false },
  });
  // kiln has said why.
  if (exitCode !== 0) return exitCode ?? 1;
  writeGenerated();
  const wheel = [join(top, 'packaging/python/wheel.py'), directory, KILN_VERSION];
  await execa('python3', wheel);
  const packages = (await readdir(directory)).filter((name) => PACKAGE.test(name)).sort();
  const lines: string[] = [];
  for (const name of packages) lines.push(`${await digestOf(join(directory, name))}  ${name}\n`);
  await writeFile(join(directory, 'SHA256SUMS'), lines.join(''));
  process.stdout.write(lines.join(''));
  return 0;
}

const [directory = 'release', number = '1'] = process.argv.slice(2);
await mkdir(directory, { recursive: true });
process.exitCode = await release(resolve(directory), number);
