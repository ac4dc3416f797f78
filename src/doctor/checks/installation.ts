import { closeSync, statSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { counted } from '../../counted.ts';
import { KilnError } from '../../errors.ts';
import { runTool } from '../../host/process/child-process.ts';
import { CAPABILITIES, type Capability, hasProc } from '../../host/process/process.ts';
import { connectUnixSocket } from '../../host/sockets/unix-socket.ts';
import { packageRoot } from '../../host/state/package-root.ts';
import { type StatePaths, statePaths } from '../../host/state/paths.ts';
import { idBlock, RANGE_SIZE } from '../../host/state/reservation.ts';
import { verifyRepomd } from '../../packages/repository/metadata/read-index.ts';
import { RecipeError } from '../../recipe/problem.ts';
import { groupNumber, readConfiguration } from '../../users/configuration.ts';
import { configurationFile } from '../../users/configuration-file.ts';
import { type Check, type Finding, fail, ok, reason, warn } from '../check.ts';
import { initPath } from '../host.ts';

/**
 * Capabilities without which no sandbox can be made: a container, or a unit with a bounding set, may lack them even
 * for uid 0. Found by removing them one by one (test/e2e/containers.test.ts).
 */
const NEEDED: readonly Capability[] = [
  ...(['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'SETGID', 'SETUID'] as const),
  ...(['SETPCAP', 'SYS_PTRACE', 'SYS_ADMIN', 'MKNOD'] as const),
];

export const MOUNT_PROC = 'mount -t proc proc /proc';

export const privileges: Check = {
  name: 'privileges',
  isForAnybody: true,
  async run() {
    if (!hasProc())
      return fail('/proc is not mounted', 'kiln cannot look at processes', MOUNT_PROC);
    const status = await readFile('/proc/self/status', 'utf8');
    const uid = process.geteuid?.() ?? -1;
    if (uid !== 0) {
      return warn(
        `effective uid ${uid}`,
        'kilnd, which is root, works for users: “users” tells whether it does for you',
        'run `kiln doctor` as root to check the host',
      );
    }
    const map = await readFile('/proc/self/uid_map', 'utf8');
    if (!/^\s*0\s+0\s+4294967295\s*$/.test(map)) {
      return fail(
        'root of a user namespace',
        "this root is not the host's: libvirt and ID-mapped mounts need that one",
        'run kiln outside of the rootless container or `unshare --user` that this is',
      );
    }
    const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
    const missing = NEEDED.filter(
      (name) => (effective & (1n << BigInt(CAPABILITIES.indexOf(name)))) === 0n,
    );
    if (missing.length === 0) return ok('root with all capabilities that kiln needs');
    return fail(
      `root without ${missing.join(', ')}`,
      'this root is confined: sandboxes cannot be made',
      'start the container or unit with these capabilities: podman --privileged, or see docs/containers.md',
    );
  },
};

export const packages: Check = {
  name: 'packages',
  async run({ host }) {
    for (const [use, judge, problem] of [
      ['run', fail, 'kiln needs them'],
      [
        'mock',
        warn,
        'kiln-mock cannot evaluate configurations of mock; recipes of kiln do without',
      ],
    ] as const) {
      const missing = await host.missing([use]);
      if (missing.length === 0) continue;
      const names = missing.map((need) => need.package).filter((name) => name !== undefined);
      return judge(
        `${host.name}: no ${missing.map(({ what }) => what).join(', ')}`,
        problem,
        host.install([...new Set(names)]),
      );
    }
    return ok(`${host.name}: nothing is missing`);
  },
};

export const guestInit: Check = {
  name: 'guest-init',
  async run({ host }) {
    const path = initPath();
    const file = await stat(path).catch(() => undefined);
    const missing = await host.missing(['build']);
    const names = missing.map((need) => need.package).filter((name) => name !== undefined);
    const compile = `${join(packageRoot(), 'scripts/quickstart')}, or npm run build`;
    const mend =
      names.length === 0 ? compile : `${host.install([...new Set(names)])} && npm run build`;
    if (file === undefined) return fail(`no ${path}`, 'no sandbox can start', mend);
    // The dynamic linker refuses to list the libraries of a static program: that is the good case.
    const { failure, stdout } = await runTool('ldd', [path]);
    if (failure === undefined && !/statically linked/.test(stdout)) {
      return fail(`${path} needs libraries`, 'it cannot run on the empty root of a sandbox', mend);
    }
    return ok(`${path}, ${Math.round(file.size / 1024)} KiB`);
  },
};

export const signatures: Check = {
  name: 'signatures',
  async run() {
    try {
      await verifyRepomd('of the doctor', Buffer.alloc(0), Buffer.from('no signature'), []);
    } catch (error) {
      // A KilnError means that the library recognised the invalid signature.
      const isKiln = error instanceof KilnError;
      if (isKiln && error.code === 'E_REPOSITORY_SIGNATURE') return ok('rpm’s library judges them');
      const mend = (isKiln ? error.hint : undefined) ?? 'see the checks above';
      return fail(reason(error), 'no package can be verified, so no image can be made', mend);
    }
    return fail(
      'rpm’s library accepted data that is not a signature',
      'forged packages pass',
      'report it',
    );
  },
};

export const users: Check = {
  name: 'users',
  isForAnybody: true,
  run: async ({ paths, env }) => {
    const file = configurationFile(env);
    const own = process.geteuid?.() ?? 0;
    let group: string | number;
    try {
      ({ group } = readConfiguration(file).policy);
    } catch (error) {
      if (!(error instanceof RecipeError)) throw error;
      const [first] = error.problems;
      const found = `${file}: ${counted(error.problems.length, 'mistake')}`;
      const problem = `users are refused: ${first?.message ?? ''}`;
      if (own !== 0) return fail(found, problem, '`kiln config check`, as root');
      return warn(found, problem, 'kiln config check');
    }
    const gid = groupNumber(group);
    if (own !== 0) return await ownFinding(paths, group, gid);
    if (gid === undefined) return ok(`there is no group ${group}: only root uses kiln`);
    return socketFinding(join(paths.hostRun, SOCKET), group, gid);
  },
};

/** Below the host's run directory. */
const SOCKET = 'io.kiln';

/** Whether kiln works for the user who asks, and if not, what this user lacks. */
async function ownFinding(
  { root, hostRun }: StatePaths,
  group: string | number,
  gid: number | undefined,
): Promise<Finding> {
  const uid = process.geteuid?.();
  const username = (await linesOf('/etc/passwd')).find(([, , id]) => Number(id) === uid)?.[0];
  const you = `you, user ${uid}${username === undefined ? '' : ` (${username})`},`;
  const addition = `usermod -aG ${group} ${username ?? 'NAME'}, as root; then log in again`;
  if (gid === undefined) {
    const found = `there is no group ${group}: only root uses kiln`;
    return fail(found, `${you} are not root`, `groupadd --system ${group} && ${addition}`);
  }
  const found = `members of the group ${group} may use kiln`;
  if (![process.getegid?.(), ...(process.getgroups?.() ?? [])].includes(gid)) {
    const members = (await linesOf('/etc/group')).find(([, , number]) => Number(number) === gid);
    if (username === undefined || !members?.[3]?.split(',').includes(username))
      return fail(found, `${you} are not in it`, addition);
    const problem = `${you} came into it after this session began`;
    return fail(found, problem, `log in again, or in this shell: newgrp ${group}`);
  }
  if (root !== statePaths({}).root) {
    const problem = `the state ${root} (KILN_STATE) is for root only`;
    return fail(found, problem, 'unset KILN_STATE, or call kiln as root');
  }
  const socket = join(hostRun, SOCKET);
  try {
    closeSync(connectUnixSocket(socket));
  } catch (error) {
    const problem = `kilnd cannot be reached at ${socket}: ${reason(error)}`;
    return fail(
      found,
      problem,
      '`kiln doctor users`, as root, tells how to start it for the group',
    );
  }
  return ok(`${found}, you are in it, and kilnd answers`);
}

function socketFinding(socket: string, group: string | number, gid: number): Finding {
  const found = statSync(socket, { throwIfNoEntry: false });
  if (found === undefined) {
    return warn(
      `members of the group ${group} may use kiln, and no kilnd listens at ${socket}`,
      'users cannot start one',
      'systemctl enable --now kiln.socket (docs/administration.md), or any call of root’s',
    );
  }
  const isOpen = found.gid === gid && (found.mode & 0o060) === 0o060;
  if (isOpen) return ok(`members of the group ${group} may use kiln`);
  return warn(
    `${socket} is not the group’s`,
    `members of ${group} cannot connect`,
    'end kilnd, which the next call starts; with systemd, SocketMode= and SocketGroup= (docs/administration.md)',
  );
}

export const idRanges: Check = {
  name: 'id-ranges',
  async run() {
    let block: Awaited<ReturnType<typeof idBlock>>;
    try {
      block = await idBlock();
    } catch (error) {
      const hint = error instanceof KilnError ? error.hint : undefined;
      return fail(reason(error), 'sandboxes have no ids', hint ?? 'mend /etc/subuid');
    }
    const { start, count } = block;
    const end = start + count;
    const found = `${start} to ${end - 1}, room for ${Math.floor(count / RANGE_SIZE) - 1} sandboxes`;
    // passwd(5), group(5).
    const accounts = await namesIn(['/etc/passwd', '/etc/group'], ([, , id]) => {
      return Number(id) >= start && Number(id) < end;
    });
    if (accounts.length > 0) {
      return fail(
        found,
        `these ids belong to ${accounts.join(', ')}: a sandbox could act as them`,
        'give kiln a block of its own: echo kiln:START:COUNT >> /etc/subuid (and /etc/subgid)',
      );
    }
    // subuid(5).
    const others = await namesIn(['/etc/subuid', '/etc/subgid'], ([name, first, length]) => {
      return name !== 'kiln' && Number(first) < end && Number(first) + Number(length) > start;
    });
    if (others.length > 0) {
      return warn(
        found,
        `${others.join(', ')} may use ids of this block as well`,
        'give one of the two a block of its own in /etc/subuid and /etc/subgid',
      );
    }
    return ok(found);
  },
};

/** The first three names of lines of these files that are meant. */
async function namesIn(
  files: readonly string[],
  isMeant: (fields: readonly string[]) => boolean,
): Promise<string[]> {
  const found = files.map(async (file) => {
    const lines = await linesOf(file);
    return lines.filter(isMeant).map(([name]) => `${name} (${file})`);
  });
  return (await Promise.all(found)).flat().slice(0, 3);
}

async function linesOf(file: string): Promise<string[][]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(':'));
}
