/** What scripts/quickstart runs once Node and the host's packages are there. */
import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { $ } from 'zx';
import { shellWord } from '../../src/shell-words.ts';

const top = join(import.meta.dirname, '../..');
const kiln = join(top, 'bin/kiln');
const source = join(top, 'recipes/examples/hello');
const result = join(top, '.cache/quickstart');

/** Everything a step prints is shown as it comes; a step that fails ends the quickstart. */
const show = $({ cwd: top, stdio: ['ignore', 'inherit', 'inherit'], verbose: false });

const begun = performance.now();
const secondsSince = (start: number) => ((performance.now() - start) / 1000).toFixed(1);

async function step(title: string, work: () => Promise<unknown>): Promise<void> {
  process.stdout.write(`==> ${title}\n`);
  const start = performance.now();
  try {
    await work();
  } catch (error) {
    const status = error instanceof Error && 'exitCode' in error ? error.exitCode : error;
    process.stderr.write(`\nquickstart: "${title}" failed (${status}).\n`);
    process.stderr.write('  `bin/kiln doctor` says what this machine lacks and how to mend it.\n');
    process.exit(1);
  }
  process.stdout.write(`    done in ${secondsSince(start)} s\n`);
}

await step('building kiln', () => show`${process.execPath} scripts/build.ts`);
await step('checking this machine (kiln doctor)', () => show`${kiln} doctor`);
await step(
  "running a command on this machine's own /usr, read-only",
  () => show`${kiln} run -r host -- uname -a`,
);
await step(
  "making an RPM repository from Debian's packages",
  () => show`${process.execPath} fixtures/debian-rpms/main.ts`,
);
await step(
  'making the image debian-build from it: a C toolchain and rpmbuild',
  () => show`${kiln} image build debian-build`,
);
await step('compiling hello.c in a sandbox and collecting the program', async () => {
  await rm(result, { recursive: true, force: true });
  await mkdir(result, { recursive: true });
  await show`${kiln} run -r debian-build --bind ${source}:/src:ro --workdir /tmp --artifact hello --resultdir ${result} -- gcc -O2 -Wall -o hello /src/hello.c`;
});
const program = (await $`find ${result} -type f -name hello`).stdout.trim();
await step('running it in another sandbox', async () => {
  await stat(program);
  await show`${kiln} run -r debian-build --bind ${program}:/opt/hello:ro -- /opt/hello`;
});

// What works here must work when it is pasted into another shell.
const state = process.env.KILN_STATE;
const command =
  state === undefined ? shellWord(kiln) : `KILN_STATE=${shellWord(state)} ${shellWord(kiln)}`;
process.stdout.write(`
kiln works. It took ${secondsSince(begun)} s.

The program that was compiled:  ${program}
How it was made, for a browser: ${result}/report.html (and result.json beside it)

Four commands to try next:
  ${command} run -- id
  ${command} run -r debian-build -- gcc --version
  ${command} shell -r debian-build
  ${command} run -r debian-build --bind ${shellWord(`${source}:/src:ro`)} -- sh -c 'cd /src && cat hello.c; id; ls -l /proc/self/ns'

docs/getting-started.md goes on from here; docs/images.md has more images (Python, git, curl, Node.js).
`);
