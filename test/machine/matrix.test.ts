/**
 * What libvirt-sandbox's own docs/testing.txt tries by hand, in a container and, with `--long`, in a machine: the console
 * (input, output, terminal, end), file systems, includes, identities. A machine takes three minutes emulated.
 */
import { mkdir, open, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type Implementation } from 'ava';
import { execa } from 'execa';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { makeDiskImage, makeTree } from '../support/disk-images.ts';
import { eventually } from '../support/eventually.ts';
import { long } from '../support/long.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const KINDS = [
  ['container', []],
  ['machine', ['--isolation', 'vm', '--allow-missing', 'kvm']],
] as const;

const INPUTS = ['terminal', 'pipe', 'file', 'nothing'] as const;
const OUTPUTS = ['terminal', 'pipe', 'file'] as const;
const ENDS = ['of its input', 'of its own'] as const;

interface Cell {
  readonly input: (typeof INPUTS)[number];
  readonly output: (typeof OUTPUTS)[number];
  readonly end: (typeof ENDS)[number];
}

const run = (...words: readonly string[]) =>
  state.kiln(['run', ...words], { timeout: 240_000 * PATIENCE });

/** What a command in a kept sandbox writes that tells whether it has a terminal, and copies its input. */
async function copied(kept: string, { input, output, end }: Cell): Promise<string> {
  const [fifo, file, out] = ['fifo', 'in', 'out'].map((name) => join(state.beside, name)) as [
    string,
    string,
    string,
  ];
  await writeFile(file, 'word\n');
  await writeFile(out, '');
  await execa('sh', ['-c', 'test -p "$1" || mkfifo "$1"', 'sh', fifo]);
  const script = `if test -t 0 && test -t 1; then echo tty=yes; else echo tty=no; fi; ${end === 'of its own' ? 'head -n 1' : 'cat'}`;
  const from = { terminal: '', pipe: ` < ${fifo}`, file: ` < ${file}`, nothing: ' < /dev/null' };
  const to = { terminal: '', pipe: ' | cat', file: ` > ${out}` };
  const terminal = input === 'terminal' && output === 'terminal' ? '-t ' : '';
  const words = `set -o pipefail; '${KILN}' exec ${terminal}${kept} -- sh -c '${script}'${from[input]}${to[output]}`;
  const isOnTerminal = input === 'terminal' || output === 'terminal';
  const [program, argv] = isOnTerminal
    ? (['script', ['-qefc', words, '/dev/null']] as const)
    : (['bash', ['-c', words]] as const);
  const env = { ...state.env, SHELL: '/bin/bash' };
  const command = execa(program, argv, { env, timeout: 60_000 * PATIENCE, stdin: 'pipe' });
  let text = '';
  command.stdout?.on('data', (chunk) => {
    text += String(chunk);
  });
  const said = async () => text + (await readFile(out, 'utf8'));
  // A fifo that is opened for both never makes its opener wait.
  await using pipe = input === 'pipe' ? await open(fifo, 'r+') : undefined;
  if (input === 'terminal' || input === 'pipe') {
    await eventually(async () => (await said()).includes('tty='));
    if (pipe === undefined) command.stdin?.write('word\n');
    else await pipe.write('word\n');
    if (end === 'of its input') {
      await eventually(async () => (await said()).includes('word'));
      if (pipe === undefined) command.stdin?.write('\x04');
      else await pipe.close();
    }
  }
  await command;
  return await said();
}

for (const [kind, ground] of KINDS) {
  const titled = (title: string, run: Implementation<[]>) =>
    kind === 'machine' ? long(title, run) : test.serial(title, run);

  titled(`the console of a ${kind}: inputs, outputs, terminals and ends`, async (t) => {
    t.timeout(1_200_000 * PATIENCE);
    const begun = await run(...ground, '-r', IMAGE, '--keep=30m', '--', 'true');
    t.is(begun.exitCode, 0, String(begun.stderr));
    const [, kept = ''] = /kept as (\w+)/.exec(String(begun.stderr)) ?? [];
    for (const input of INPUTS) {
      for (const output of OUTPUTS) {
        for (const end of ENDS) {
          const where = `${input} to ${output}, an end ${end}`;
          const text = await copied(kept, { input, output, end });
          const terminal = input === 'terminal' && output === 'terminal' ? 'yes' : 'no';
          t.regex(text, new RegExp(`^tty=${terminal}\\r?$`, 'm'), where);
          if (input === 'nothing') t.notRegex(text, /word/, where);
          else t.regex(text, /^word\r?$/m, where);
        }
      }
    }
    t.is((await state.kiln(['kill', kept])).exitCode, 0);
  });

  titled(`file systems, includes and identities of a ${kind}`, async (t) => {
    t.timeout(600_000 * PATIENCE);
    const shared = join(state.beside, `shared-${kind}`);
    await mkdir(join(shared, 'below'), { recursive: true });
    await writeFile(join(shared, 'of-host'), 'host\n');
    const disk = await makeDiskImage(await makeTree(join(state.beside, kind)), 'ext4');
    const script = `
      for at in / /etc /rw /ro /one /srv/deep/er /small /tmp /again /disk; do
        if touch $at/.new 2>/dev/null; then echo "$at takes files"; else echo "$at takes none"; fi
      done
      cat /rw/of-host /ro/of-host /one /srv/deep/er/of-host /included /again/of-host /disk/folder/file
      echo made > /rw/made
      df -k /small | awk 'NR == 2 { print $2 }'
      head -c 2000000 /dev/zero > /small/big || echo full
      id -u; id -g; cat /proc/self/uid_map | wc -l`;
    const options = [
      ...['--bind', `${shared}:/rw`, '--bind', `${shared}:/ro:ro`],
      ...['--bind', `${shared}/of-host:/one:ro`, '--bind', `${shared}:/srv/deep/er:ro`],
      ...['--guest-bind', '/rw:/again:ro', '--mount', `type=image,source=${disk},target=/disk`],
      ...['--tmpfs', '/small:1M', '--copy-in', `${shared}/of-host:/included`],
    ];
    const { exitCode, stdout, stderr } = await run(
      ...ground,
      ...['-r', IMAGE, ...options, '--keep=30m', '--user', '0:0', '--', 'sh', '-c', script],
    );
    t.is(exitCode, 0, String(stderr));
    t.deepEqual(String(stdout).split('\n').slice(0, 19), [
      ...['/ takes files', '/etc takes files', '/rw takes files', '/ro takes none'],
      ...['/one takes none', '/srv/deep/er takes none', '/small takes files', '/tmp takes files'],
      ...['/again takes none', '/disk takes none'],
      ...['host', 'host', 'host', 'host', 'host', 'host', 'of the image', '1024', 'full'],
    ]);
    t.deepEqual(String(stdout).split('\n').slice(19), ['0', '0', '1']);
    // On the host it is the caller's.
    const made = await stat(join(shared, 'made'));
    t.deepEqual([made.uid, made.gid, made.size], [0, 0, 5]);
    const [, kept = ''] = /kept as (\w+)/.exec(String(stderr)) ?? [];
    for (const [user, expected] of [
      ['1234:4321', '1234 4321 1234'],
      ['1234', '1234 '],
      ['root', '0 0 root'],
    ] as const) {
      const ids = ['sh', '-c', 'echo $(id -u) $(id -g) $(whoami 2>/dev/null || id -u)'];
      const inside = await state.kiln(['exec', '--user', user, kept, '--', ...ids]);
      t.true(
        String(inside.stdout).startsWith(expected),
        `${user}: ${inside.stdout}${inside.stderr}`,
      );
    }
    t.is((await state.kiln(['kill', kept])).exitCode, 0);
  });
}
