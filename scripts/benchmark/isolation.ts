/**
 * The attempts of test/escape in kiln and in other tools, as root of the host calls them by default,
 * with the same tree and the same static program. What a tool is not told to close it may leave
 * open: the table says what one gets without knowing more.
 *
 * Attempts only knock (see test/escape/probe.h): nothing is changed where one gets through. Bombs
 * are left out.
 */
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import type { Attempt } from '../../test/escape/attempt.ts';
import { attempts } from '../../test/escape/attempts.ts';
import { hostServers, installProbe, type Outcome, readOutcomes } from '../../test/escape/setup.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../../test/support/busybox-state.ts';
import { scratchFolder } from '../scratch.ts';
import { podmanRun } from './podman.ts';

type Environment = Readonly<Record<string, string>>;

/** One column: how a tool runs the probe on a tree; undefined where the tool is not installed. */
interface Tool {
  readonly name: string;
  readonly needs?: string;
  /** The command is pid 1 itself: there is no init of the tool's to get at. */
  readonly initless?: boolean;
  run(tree: string, environment: Environment): Promise<string>;
}

interface Column {
  readonly tool: Tool;
  readonly outcomes: ReadonlyMap<string, Outcome>;
}

const THROUGH = '**through**';
/** The column whose command is not root. */
const USER = 'kiln';

const verbs = attempts.map(({ verb }) => verb);

/** As few namespaces as mock's `simple` isolation makes, and a chroot. */
const chroot: Tool = {
  name: 'chroot as mock’s',
  needs: 'unshare',
  initless: true,
  run: (tree, env) =>
    output(
      'unshare',
      ['-m', '-p', '-i', '-u', '-f', 'sh', '-c', CHROOT, 'sh', tree, ...verbs],
      env,
    ),
};
const CHROOT = `
mount --make-rprivate / && mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" &&
mount -t sysfs sysfs "$1/sys" && tree=$1 && shift && exec chroot "$tree" /bin/probe "$@"`;

const bubblewrap: Tool = {
  name: 'bubblewrap',
  needs: 'bwrap',
  run: (tree, env) =>
    output(
      'bwrap',
      [
        ...['--unshare-all', '--die-with-parent', '--new-session', '--bind', tree, '/'],
        ...['--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp', '/bin/probe', ...verbs],
      ],
      env,
    ),
};

const nspawn: Tool = {
  name: 'systemd-nspawn -U',
  needs: 'systemd-nspawn',
  run: (tree, env) =>
    output(
      'systemd-nspawn',
      [
        ...['-q', '-D', tree, '-a', '--pipe', '--register=no', '--keep-unit', '-U'],
        ...Object.entries(env).map(([name, value]) => `--setenv=${name}=${value}`),
        ...['/bin/probe', ...verbs],
      ],
      env,
    ),
};

function podman(state: string): Tool {
  return {
    name: 'podman',
    needs: 'podman',
    initless: true,
    run: (tree, env) => {
      const variables = Object.entries(env).map(([name, value]) => `--env=${name}=${value}`);
      const [command, ...args] = podmanRun(state, tree, ['/bin/probe', ...verbs], variables);
      return output(command, args, env);
    },
  };
}

function libvirt(state: BusyboxState): Tool {
  return {
    name: 'libvirt-lxc',
    needs: 'virsh',
    initless: true,
    async run(tree, env) {
      const variables = Object.entries(env).map(([name, value]) => `export ${name}=${value}`);
      await writeFile(
        join(tree, 'bin/attempts'),
        `#!/bin/sh\n${variables.join('\n')}\n/bin/probe ${verbs.join(' ')} >/result; echo >/ended\n`,
        { mode: 0o755 },
      );
      const xml = join(state.paths.root, 'plain.xml');
      await writeFile(
        xml,
        `<domain type='lxc'><name>plain</name><memory unit='MiB'>512</memory>
        <os><type>exe</type><init>/bin/attempts</init></os>
        <devices><filesystem type='mount'><source dir='${tree}'/><target dir='/'/></filesystem>
        <console type='pty'/></devices></domain>`,
      );
      const virsh = ['-c', embeddedFiles(state.paths).uri];
      await execa('virsh', [...virsh, 'create', xml]);
      for (let i = 0; i < 200; i++) {
        if ((await readFile(join(tree, 'ended'), 'utf8').catch(() => '')) !== '') break;
        await sleep(100);
      }
      await execa('virsh', [...virsh, 'destroy', 'plain'], { reject: false });
      return readFile(join(tree, 'result'), 'utf8');
    },
  };
}

/** kiln, as anybody calls it. */
function kiln(state: BusyboxState, name: string, ...options: readonly string[]): Tool {
  return {
    name,
    async run(_tree, env) {
      const variables = Object.entries(env).map(([key, value]) => `--env=${key}=${value}`);
      const args = ['run', '-r', IMAGE, ...options, ...variables, '--', '/bin/probe', ...verbs];
      return String((await state.kiln(args)).stdout);
    },
  };
}

async function output(command: string, args: readonly string[], env: Environment): Promise<string> {
  const options = { env, reject: false, detached: true, timeout: 120_000 } as const;
  const { stdout, stderr } = await execa(command, args, options);
  if (stdout === '') process.stderr.write(`${command}: ${stderr}\n`);
  return stdout;
}

async function isInstalled(command: string | undefined): Promise<boolean> {
  if (command === undefined) return true;
  return (await execa('sh', ['-c', `command -v ${command}`], { reject: false })).exitCode === 0;
}

/** What root of a sandbox may do with its own files is no escape, nor is what a command does to itself. */
function cell(attempt: Attempt, { tool, outcomes }: Column): string {
  const isRight = tool.name !== USER && attempt.as === 'user';
  const isItself = tool.initless === true && /\binit\b(?!-module)/.test(attempt.verb);
  const outcome = outcomes.get(attempt.verb)?.outcome;
  if (isRight || isItself || outcome === undefined || outcome === 'absent') return '–';
  return outcome === 'through' ? THROUGH : 'stopped';
}

scratchFolder('compare');
await using state = await busyboxState();
await using servers = await hostServers();
const tree = await installProbe(state);
const work = await mkdtemp(join(tmpdir(), 'tools-'));
const columns: Column[] = [];
try {
  const tools = [
    kiln(state, USER),
    kiln(state, 'kiln, root', '--user', 'root'),
    ...[podman(join(work, 'podman')), bubblewrap, nspawn, libvirt(state), chroot],
  ];
  for (const [index, tool] of tools.entries()) {
    if (!(await isInstalled(tool.needs))) {
      process.stderr.write(`${tool.name}: not installed\n`);
      continue;
    }
    // A copy each: some tools change owners, and attempts make files.
    const copy = join(work, String(index));
    await mkdir(copy);
    // Without it systemd-nspawn does not take it for a system.
    await mkdir(join(copy, 'usr'));
    await cp(tree, copy, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
    const text = await tool.run(copy, servers.environment);
    if (text === '') process.stderr.write(`${tool.name}: did not run here\n`);
    else columns.push({ tool, outcomes: readOutcomes(text) });
  }
} finally {
  await rm(work, { recursive: true, force: true });
}

const rows = [
  ['attempt', ...columns.map(({ tool }) => tool.name)],
  ['---', ...columns.map(() => '---')],
  ...attempts.map((attempt) => [
    `${attempt.verb}: ${attempt.tries}`,
    ...columns.map((column) => cell(attempt, column)),
  ]),
];
const counts = columns.map((_, i) => rows.filter((row) => row[i + 1] === THROUGH).length);
rows.push(['**got through**', ...counts.map(String)]);
process.stdout.write(`${rows.map((row) => `| ${row.join(' | ')} |`).join('\n')}\n`);
