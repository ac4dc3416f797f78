/** Commands on another machine (`kiln --host`): an sshd of the bench's own, on the loopback. */
import { appendFile, mkdir, mkdtemp } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sshServer } from '../../../test/support/ssh-server.ts';
import { type Bed, KILN } from '../bed.ts';
import { execute, type Figures, interleave } from '../measure.ts';
import { parked, type Row } from '../row.ts';

const RUNS = { whole: 21, quick: 5 } as const;

/** A run there, and what ssh takes for nothing. @param kept whether ssh keeps one connection for all */
async function remote(bed: Bed, quick: boolean, kept: boolean): Promise<readonly Figures[]> {
  const folder = await mkdtemp(join(bed.scratch, 'ssh-'));
  const path = `${dirname(KILN[0])}:${process.env.PATH}`;
  const state = bed.env.KILN_STATE ?? '';
  // What a shell there reads first, such as pyenv's lines in ~/.bashrc, takes 0.1 s and is nobody's to measure.
  const home = join(folder, 'home');
  await mkdir(home);
  await using server = await sshServer(folder, { KILN_STATE: state, PATH: path, HOME: home });
  if (kept) {
    const lines = [
      'ControlMaster auto',
      `ControlPath ${join(folder, 'kept')}`,
      'ControlPersist 60',
    ];
    await appendFile(join(folder, 'config'), `${lines.join('\n')}\n`);
  }
  const { hostname, port, username } = new URL(server.url);
  const env = { HOME: process.env.HOME, PATH: `${server.bin}:${path}` };
  const run = {
    name: 'kiln --host … run',
    run: () => execute([...KILN, '--host', server.url, 'run', '-r', bed.image, '--', 'true'], env),
  };
  const ssh = {
    name: 'ssh … true',
    run: () => execute(['ssh', '-p', port, '-l', username, hostname, 'true'], env),
  };
  return await interleave([parked(bed, run), ssh], quick ? RUNS.quick : RUNS.whole, { warmUps: 5 });
}

export const remoteRows: readonly Row[] = [
  {
    id: 'run-remote',
    title: '`kiln --host … run -- true`, by an ssh of nothing',
    goal: { kind: 'ratio', max: 1.25 },
    needs: 'ssh',
    measure: (bed, quick) => remote(bed, quick, false),
  },
  {
    id: 'run-remote-kept',
    title: 'the same over a connection that ssh keeps',
    goal: { kind: 'time', max: 40 },
    needs: 'ssh',
    measure: (bed, quick) => remote(bed, quick, true),
  },
];
