import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

const top = join(import.meta.dirname, '../..');

interface Stage0End {
  readonly answered: number;
  readonly end: string;
}

/** What a stage 0 is sent. */
export interface Stage0Case {
  readonly port: Buffer;
  readonly init: Buffer;
}

/** Compiles stage 0 with sanitizers, without what needs a machine, into `directory`. Gives the program. */
export async function buildStage0Harness(directory: string): Promise<string> {
  const program = join(directory, 'stage0-harness');
  const machine = join(top, 'src/guest/machine');
  const parts = [
    'answers.c',
    'layer.c',
    'look.c',
    'connection.c',
    'orders.c',
    'pack.c',
    'passing.c',
    'port.c',
    'stream.c',
    'tar.c',
  ];
  const flags = [
    ...['-std=gnu17', '-D_GNU_SOURCE', '-O1', '-g', '-fsanitize=address,undefined'],
    ...['-fno-sanitize-recover=all', '-DSOCKETS="sockets"', '-DSHARES="shares"'],
    ...[machine, join(top, 'src/guest'), join(top, 'dist/wire')].map((path) => `-I${path}`),
  ];
  // Its end would be this host's.
  const stage0 = join(directory, 'stage0.o');
  const renamed = ['-Dmain=stage0_main', '-Dreboot=harness_reboot'];
  await execa('cc', [...flags, ...renamed, '-c', '-o', stage0, join(machine, 'stage0.c')]);
  await execa('cc', [
    ...[...flags, '-o', program, join(top, 'test/fuzz/stage0-harness.c'), stage0],
    ...parts.map((name) => join(machine, name)),
    ...[join(top, 'src/guest/protocol.c'), join(top, 'dist/wire/wire.c')],
  ]);
  for (const name of ['sockets', 'shares/1', 'shares/2', 'tree/out/below', 'tree/upper/below']) {
    await mkdir(join(directory, name), { recursive: true });
  }
  for (const name of ['out/a', 'out/b.rpm', 'out/below/c', 'upper/below/d'])
    await writeFile(join(directory, 'tree', name), 'x');
  return program;
}

/** Gives what became of each: `off` where stage 0 powered its machine off; and how many bytes it had answered. */
export async function readByStage0(
  program: string,
  directory: string,
  cases: readonly Stage0Case[],
): Promise<{ readonly ends: readonly Stage0End[]; readonly errors: string }> {
  const input = cases.flatMap(({ port, init }) => [
    Buffer.from(Uint32Array.of(port.length, init.length).buffer),
    port,
    init,
  ]);
  const kinds = ['--mount', '--pid', '--net', '--fork', '--kill-child'];
  const { stdout, stderr } = await execa('unshare', [...kinds, program], {
    cwd: directory,
    input: Buffer.concat(input),
    reject: false,
  });
  const ends = stdout.split('\n').map((line) => {
    const [answered, end = ''] = line.split(' ');
    return { answered: Number(answered), end };
  });
  return { ends, errors: stderr };
}
