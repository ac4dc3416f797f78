import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { KilnError } from '../../src/errors.ts';
import { ownPath } from '../../src/host/files/held.ts';
import { connect } from '../../src/host/libvirt/connection.ts';
import { destroySandbox } from '../../src/sandbox/domain/destroy.ts';
import { SandboxDomain } from '../../src/sandbox/domain/sandbox-domain.ts';
import { startDomain } from '../../src/sandbox/domain/start-domain.ts';
import { securityModule, selinuxEnforces } from '../../src/sandbox/labels/module.ts';
import { fillSandbox } from '../../src/sandbox/open.ts';
import type { Bind } from '../../src/sandbox/policy/specification.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { type FaultyInit, installFaultyInit } from '../support/faulty-init.ts';
import { type OpenOptions, openKiln } from '../support/kiln.ts';
import { sandboxSpecification } from '../support/specification.ts';

let state: BusyboxState;
let init: FaultyInit;
let bound: string;

test.before(async (t) => {
  t.timeout(120_000 * PATIENCE);
  state = await busyboxState();
  init = await installFaultyInit(state.paths);
  bound = join(state.beside, 'bound');
  await mkdir(bound);
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const shown = (): Bind => ({
  ...{ source: bound, place: ownPath(bound), target: '/bound' },
  ...{ readonly: true, relabel: 'shared' },
});

/** Opens a sandbox and runs `true` in it; gives what kiln threw. */
async function attempt(options: Partial<OpenOptions> = {}): Promise<unknown> {
  await using kiln = openKiln({ env: state.env });
  try {
    await using sandbox = await kiln.open({
      ...{ image: IMAGE, user: 'root' },
      binds: [shown()],
      ...options,
    });
    const command = await sandbox.spawn('true');
    await once(command, 'close');
    return undefined;
  } catch (error) {
    return error;
  }
}

interface Fault {
  /** What the init leaves out, by its name for it. */
  readonly fault: string;
  /** What the error must name. */
  readonly layer: string;
  /** What has the layer, and nothing else that would fail first. */
  readonly options?: Partial<OpenOptions>;
  /** Binds the folder with `cow`. */
  readonly cow?: true;
  /** A fault of the init's measurement: with it, kiln's own comparison must find out. */
  readonly unchecked?: readonly string[];
  /** Modules whose rules have the kernel refuse something before anybody measures. */
  readonly refusedBy?: readonly string[];
  /** The same where the init does not measure. */
  readonly uncheckedRefusedBy?: readonly string[];
}

/** Of the sandbox, found out before any command. */
const sandboxFaults: readonly Fault[] = [
  { fault: 'pid-namespace', layer: 'pid-namespace' },
  { fault: 'cgroup-namespace', layer: 'cgroup-namespace' },
  { fault: 'time-namespace', layer: 'time-namespace' },
  { fault: 'user-limit', layer: 'user-limits', unchecked: ['limits-unchecked'] },
  { fault: 'mask', layer: 'masked-paths' },
  { fault: 'readonly', layer: 'read-only-paths' },
  { fault: 'bind-readonly', layer: 'binds', unchecked: ['binds-unchecked'] },
  { fault: 'cow', layer: 'binds', unchecked: ['binds-unchecked'], cow: true },
  { fault: 'nosuid', layer: 'mounts' },
  { fault: 'old-root', layer: 'mounts' },
  { fault: 'devices', layer: 'devices' },
  { fault: 'terminals', layer: 'mounts' },
];

const RIGHTS = { unchecked: ['rights-unchecked'] };
const LANDLOCK = { layer: 'landlock', unchecked: ['landlock-unchecked', 'rights-unchecked'] };

/** Of a command, found out before it is executed. */
const commandFaults: readonly Fault[] = [
  { fault: 'capabilities', layer: 'capabilities', ...RIGHTS },
  { fault: 'user', layer: 'user', options: { user: '1000' }, ...RIGHTS },
  // A filter or Landlock cannot be had without it, but by SYS_ADMIN.
  {
    ...{ fault: 'no_new_privs', layer: 'no_new_privs' },
    options: { capAdd: ['SYS_ADMIN'], allowHostWrite: true },
    ...{ ...RIGHTS, refusedBy: ['selinux'] },
  },
  { fault: 'seccomp', layer: 'seccomp', ...RIGHTS },
  { fault: 'descriptors', layer: 'descriptors', ...RIGHTS },
  { fault: 'rlimits', layer: 'limits', ...RIGHTS },
  { fault: 'landlock', ...LANDLOCK },
  { fault: 'landlock-tcp', options: { seccomp: 'strict' }, ...LANDLOCK },
  { fault: 'landlock-sockets', options: { network: 'host' }, ...LANDLOCK },
];

/**
 * Of a host that has a module: scripts/hosts runs this there. SELinux' label of the init is libvirt's
 * doing, before there is an init.
 */
const labelFaults: readonly Fault[] = {
  none: [],
  selinux: [{ fault: 'label', layer: 'selinux', ...RIGHTS, uncheckedRefusedBy: ['selinux'] }],
  apparmor: [
    { fault: 'label', layer: 'apparmor', ...RIGHTS, uncheckedRefusedBy: ['apparmor'] },
    { fault: 'init-label', layer: 'apparmor' },
  ],
}[securityModule() ?? 'none'];

test.serial('a command starts if every layer is there', async (t) => {
  await init.leaveOut();
  t.is(await attempt(), undefined);
  t.is(await attempt({ user: 'build' }), undefined);
});

function isFoundOut(t: ExecutionContext, error: unknown, layer: string): void {
  t.true(error instanceof KilnError, String(error));
  t.is((error as KilnError).code, 'E_LAYER_MISSING', String(error));
  t.is((error as KilnError).details?.layer, layer, String(error));
}

const enforcing = selinuxEnforces();
/** The module that refuses things on this host. */
const refuses = securityModule() === 'selinux' && !enforcing ? '' : (securityModule() ?? '');

for (const { fault, layer, options: wanted, cow, unchecked, refusedBy, uncheckedRefusedBy } of [
  ...[...sandboxFaults, ...commandFaults, ...labelFaults],
]) {
  test.serial(`an init that leaves out ${fault} is found out, and the start refused`, async (t) => {
    const options = cow === undefined ? wanted : { binds: [{ ...shown(), cow }] };
    await init.leaveOut();
    t.is(await attempt(options), undefined, 'nothing else is in the way');
    await init.leaveOut(fault);
    if (refusedBy?.includes(refuses)) {
      t.is(((await attempt(options)) as KilnError | undefined)?.code, 'E_EXEC');
      return;
    }
    isFoundOut(t, await attempt(options), layer);
    if (unchecked === undefined) return;
    await init.leaveOut(fault, ...unchecked);
    if (uncheckedRefusedBy?.includes(refuses)) {
      t.is(((await attempt(options)) as KilnError | undefined)?.code, 'E_EXEC');
      return;
    }
    isFoundOut(t, await attempt(options), layer);
  });
}

test.serial('a command is not executed in a sandbox with a missing layer', async (t) => {
  const ran = join(bound, 'ran');
  const run = ['run', '-r', IMAGE, '--bind', `${bound}:/bound`, '--', 'touch', '/bound/ran'];
  await init.leaveOut();
  t.is((await state.kiln(run)).exitCode, 0);
  t.true(existsSync(ran));
  await rm(ran);
  // All of them for kiln to find: the init has no opinion on these.
  for (const fault of ['mask', 'readonly', 'user-limit', 'time-namespace']) {
    await init.leaveOut(fault);
    const refused = await state.kiln(run);
    t.is(refused.exitCode, 125, fault);
    t.false(existsSync(ran), fault);
  }
});

test.serial('kiln’s own comparison names the missing wall of Landlock', async (t) => {
  await init.leaveOut('landlock-sockets', 'landlock-unchecked', 'rights-unchecked');
  t.regex(
    String(await attempt({ network: 'host' })),
    /layer landlock is not in force: no wall: abstract-sockets$/m,
  );
});

test.serial('an init that does not enter the image cannot build a sandbox', async (t) => {
  await init.leaveOut('pivot');
  t.is(((await attempt()) as KilnError | undefined)?.code, 'E_SETUP');
});

/**
 * Layers that are libvirt's doing: what it is told, and how the start is refused. It cannot be told to
 * leave out the mount namespace, and a sandbox with ids of its own cannot share the host's ipc and uts: the
 * kernel lets nobody enter those from a user namespace. What sandboxes without them would report is
 * in facts.test.ts.
 */
const domains: readonly {
  readonly lacks: string;
  readonly code: string;
  readonly network?: 'host';
  /** Where SELinux enforces, it keeps the init itself from running so. */
  readonly selinux?: string;
  change?(xml: string): string;
}[] = [
  { lacks: 'network', network: 'host', code: 'E_LAYER_MISSING' },
  // The image's files cannot even be given owners.
  {
    lacks: 'user-namespace',
    code: 'E_IDMAP',
    selinux: 'E_INIT_SILENT',
    change: (xml) => xml.replace(/<idmap>.*<\/idmap>/, ''),
  },
];

for (const domain of domains) {
  const { lacks, change = (xml: string) => xml, network = 'private' } = domain;
  const code = (enforcing && domain.selinux) || domain.code;
  test.serial(`a domain without its ${lacks} is found out`, async (t) => {
    t.timeout(120_000 * PATIENCE);
    await init.leaveOut();
    const { paths, env } = state;
    await using connection = await connect({ paths, env });
    const create = connection.createDomain.bind(connection);
    connection.createDomain = (xml) => create(change(xml));
    const options = { network, label: { kind: 'auto' } } as const;
    const started = await startDomain(paths, connection, options);
    const owned = SandboxDomain.create(paths, started, async () => connection);
    if (code === 'E_INIT_SILENT') {
      await t.throwsAsync(owned, { code });
      await destroySandbox(paths, started.directory, started.record, async () => connection);
      await started.lock.release();
      return;
    }
    const specification = sandboxSpecification({ root: join(paths.images, IMAGE, 'tree') });
    const ids = { uid: 0, gid: 0 };
    const opened = fillSandbox(await owned, specification, { user: ids, caller: ids, groups: [] });
    const error = await t.throwsAsync(opened, { code });
    if (code === 'E_LAYER_MISSING') isFoundOut(t, error, lacks);
  });
}

/** Limits are put on a sandbox from outside, by kiln itself: here it finds no cgroups to do it in. */
const WITHOUT_CGROUPS = `
awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts | sort -r | while read -r at
do umount -l "$at" || exit 99
done
exec "$@"`;

test.serial('a limit that cannot be set on a sandbox is found out', async (t) => {
  t.timeout(300_000 * PATIENCE);
  await init.leaveOut();
  for (const [layer, ...option] of [
    ['memory-limit', '--memory', '64M'],
    ['cpu-limit', '--cpus', '1'],
    ['pids-limit', '--pids', '100'],
  ] as const) {
    const kiln = [KILN, 'run', '-r', IMAGE, ...option, '--', 'echo', 'started'];
    const there = await execa(KILN, kiln.slice(1), { env: state.env, reject: false });
    t.is(there.stdout, 'started', there.stderr);
    const without = ['-m', 'sh', '-c', WITHOUT_CGROUPS, 'sh', ...kiln];
    const gone = await execa('unshare', without, { env: state.env, reject: false });
    t.is(gone.exitCode, 125, gone.stderr);
    t.is(gone.stdout, '');
    t.true(gone.stderr.includes(`--allow-missing ${layer}`), gone.stderr);
  }
});

test('the init that is shipped has no faults to switch on', async (t) => {
  const shipped = join(import.meta.dirname, '../../dist/kiln-init');
  t.true(existsSync(shipped));
  t.false((await readFile(shipped)).includes('/faults'));
  t.true((await readFile(join(state.paths.root, 'faulty-init'))).includes('/faults'));
});
