import { once } from 'node:events';
import { closeSync, constants, existsSync, openSync } from 'node:fs';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { isDeepStrictEqual } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { ALL_CAPABILITIES, BareSandbox } from '../support/bare-sandbox.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import type { OpenOptions } from '../support/kiln.ts';
import { openKiln } from '../support/kiln.ts';
import { type Attempt, LAYERS, type Without } from './attempt.ts';
import { hostSideAttempts } from './attempts/host-side.ts';
import { wallAttempts } from './attempts/landlock.ts';
import { bombs } from './attempts/limits.ts';
import { attempts } from './attempts.ts';
import {
  type HostServers,
  hostServers,
  installProbe,
  OPEN,
  type Outcome,
  readOutcomes,
  runWithout,
  variables,
} from './setup.ts';

let state: BusyboxState;
let servers: HostServers;
let tree: string;
/** What was stopped how, by who and verb: compared with what happens without the layer. */
const stopped = new Map<string, Outcome>();

test.before(async (t) => {
  t.timeout(120_000 * PATIENCE);
  state = await busyboxState();
  servers = await hostServers();
  tree = await installProbe(state);
});
test.after.always(async () => {
  await servers[Symbol.asyncDispose]();
  await state[Symbol.asyncDispose]();
});

/** What the probe tells of these, in a sandbox opened with these options. */
async function tryIn(
  some: readonly string[],
  options: Partial<OpenOptions>,
): Promise<ReadonlyMap<string, Outcome>> {
  await using kiln = openKiln({ env: state.env });
  await using sandbox = await kiln.open({ image: IMAGE, ...options });
  const command = await sandbox.spawn('/bin/probe', some, { env: servers.environment });
  const output = text(command.stdout);
  await once(command, 'exit').catch(() => undefined);
  // A bomb that the kernel has killed leaves children, who would hold its output open for ever.
  await sandbox.killAll().catch(() => undefined);
  return readOutcomes(await output);
}

/** Tries everything in a sandbox as anybody opens one. */
async function tryAll(t: ExecutionContext, user: 'user' | 'root'): Promise<void> {
  const mine = attempts.filter(({ as = user }) => as === user);
  const outcomes = await tryIn(verbs(mine), user === 'root' ? { user } : {});
  for (const { verb, tries, layer } of mine) {
    const outcome = outcomes.get(verb);
    t.is(
      outcome?.outcome,
      'stopped',
      `${verb} as ${user} (${tries}) should be stopped by ${layer}`,
    );
    if (outcome !== undefined) stopped.set(`${user} ${verb}`, outcome);
  }
}

const verbs = (some: readonly Attempt[]) => some.map(({ verb }) => verb);

test.serial('no attempt of an unprivileged command gets through', (t) => tryAll(t, 'user'));

test.serial('no attempt of container root gets through', (t) => tryAll(t, 'root'));

/** One verb in a sandbox opened with these options. */
async function tryOne(verb: string, options: Partial<OpenOptions>): Promise<Outcome | undefined> {
  return (await tryIn([verb], options)).get(verb);
}

test.serial('bombs stay in the sandbox, and get through without their limit', async (t) => {
  for (const { verb, limit } of bombs) {
    // The kernel may kill the whole sandbox for its memory: then nobody is left to tell.
    t.not((await tryOne(verb, limit))?.outcome, 'through', verb);
    t.is((await tryOne(verb, {}))?.outcome, 'through', `${verb} cannot fail`);
  }
});

test.serial('strict allows no TCP, and kills and names calls that only attacks make', async (t) => {
  t.is((await tryOne('own-loopback', {}))?.outcome, 'through');
  t.is((await tryOne('own-loopback', { seccomp: 'strict' }))?.outcome, 'stopped');
  const result = await state.kiln([
    ...['run', '-r', IMAGE, '--user', 'root', '--seccomp', 'strict', '--json', '--'],
    ...['/bin/probe', 'mount-tmpfs', 'init-module'],
  ]);
  t.is(result.stdout, 'mount-tmpfs\tstopped\tkilled\ninit-module\tstopped\tkilled');
  const json = JSON.parse(String(result.stderr).split('\n').at(-1) ?? '');
  for (const syscall of ['mount', 'init_module']) {
    t.true(
      json.refusedCalls.some((call: object) =>
        isDeepStrictEqual(call, { syscall, action: 'KILL', count: 1 }),
      ),
      syscall,
    );
  }
});

test.serial('the profile aio allows io_setup', async (t) => {
  t.deepEqual(await tryOne('aio', {}), { outcome: 'stopped', how: 'ENOSYS' });
  t.is((await tryOne('aio', { seccomp: 'aio' }))?.outcome, 'through');
});

test.serial('NET_ADMIN allows the calls that a firewall needs', async (t) => {
  const user = { user: 'root', capAdd: ['NET_ADMIN' as const] };
  for (const verb of ['every-protocol', 'bridge-ioctl']) {
    t.is((await tryOne(verb, { user: 'root' }))?.outcome, 'stopped', verb);
    t.is((await tryOne(verb, user))?.outcome, 'through', verb);
  }
});

test.serial('the profile build allows tracing one’s children, but not the init', async (t) => {
  t.deepEqual(await tryOne('trace-child', {}), { outcome: 'stopped', how: 'ENOSYS' });
  t.is((await tryOne('trace-child', { seccomp: 'build' }))?.outcome, 'through');
  const user = { user: 'root', capAdd: ['SYS_PTRACE' as const] };
  t.is((await tryOne('trace-init', { seccomp: 'build', ...user }))?.outcome, 'stopped');
});

test.serial('on the host’s network, its abstract sockets cannot be reached', async (t) => {
  const network = 'host';
  t.deepEqual(await tryOne('abstract-socket', { network }), { outcome: 'stopped', how: 'EPERM' });
  t.is((await tryOne('host-loopback', { network }))?.outcome, 'through');
});

test.serial('Landlock alone stops attempts for which there is no other layer', async (t) => {
  const folder = join(state.paths.root, 'leaked');
  await mkdir(folder);
  await chmod(folder, 0o777);
  await writeFile(join(folder, 'secret'), 'x');
  const stdin = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    for (const network of ['private', 'host'] as const) {
      await using sandbox = await BareSandbox.open(state, tree, { without: OPEN, network });
      sandbox.admit(folder);
      const command = { user: '0', capabilities: ALL_CAPABILITIES, stdin };
      const environment = variables(servers.environment);
      for (const { verb, tries, wall } of wallAttempts.filter((it) => it.network === network)) {
        for (const landlock of [[wall], []]) {
          const printed = await sandbox.run(['/bin/probe', verb], {
            ...command,
            environment,
            landlock,
          });
          const found = readOutcomes(printed).get(verb);
          const expected = landlock.length > 0 ? 'stopped' : 'through';
          t.is(found?.outcome, expected, `${verb} (${tries}), [${landlock}]: ${found?.how}`);
        }
      }
    }
  } finally {
    closeSync(stdin);
  }
});

test.serial('container root changes its image for its own sandbox only', async (t) => {
  const digest = async () =>
    (await execa('sh', ['-c', 'find . -type f -exec sha256sum {} + | sort'], { cwd: tree })).stdout;
  const before = await digest();
  const result = await state.kiln([
    ...['run', '-r', IMAGE, '--user', 'root', '--', 'sh', '-c'],
    'echo root2::0:0::/:/bin/sh >> /etc/passwd && rm /bin/probe && touch /new && test -e /new -a ! -e /bin/probe',
  ]);
  t.is(result.exitCode, 0, String(result.stderr));
  t.is(await digest(), before);
});

/** Faulty inits last: they stay in the state. */
const lacks: readonly Without[] = [
  ...([
    'sandbox',
    'seccomp',
    'rights',
    'walls',
    'proc',
    'bare',
    'network',
    'user',
    'limits',
  ] as const),
  ...(['new-privileges', 'cgroup-namespace', 'descriptors', 'old-root', 'terminals'] as const),
];

for (const without of lacks) {
  test.serial(`without its layer, an attempt gets through: ${without}`, async (t) => {
    const some = attempts.filter((attempt) => attempt.without === without);
    t.true(some.length > 0);
    const outcomes = await runWithout(state, tree, without, some, servers.environment);
    for (const { verb, as = 'root', further = {}, attacks } of some) {
      const before = stopped.get(`${as} ${verb}`);
      t.is(before?.outcome, 'stopped', `${verb} was not tried`);
      if (attacks !== undefined && !attacks.some((path) => existsSync(path))) {
        t.log(`${verb}: this host has no ${attacks.join(', ')}`);
        continue;
      }
      const { outcome, how = '' } = outcomes.get(verb) ?? {};
      if (outcome === 'through') continue;
      t.true(how in further, `${verb} cannot fail: ${outcome} ${how}`);
      t.not(how, before?.how, `${verb} is stopped by the same`);
    }
  });
}

test('every attempt is also made without its layer, or says why it cannot be', (t) => {
  for (const { verb, without, cannotBeWithout } of attempts) {
    t.true((without === undefined) !== (cannotBeWithout === undefined), verb);
  }
});

test('the comparison with other tools has exactly these attempts', async (t) => {
  const page = join(import.meta.dirname, '../../docs/isolation-compared.md');
  const rows = (await readFile(page, 'utf8')).matchAll(/^\| ([\w-]+: [^|]+) \|/gm);
  t.deepEqual(
    Array.from(rows, ([, row]) => row),
    attempts.map(({ verb, tries }) => `${verb}: ${tries}`),
    'run scripts/compare-isolation',
  );
});

test('each layer has at least five attempts', (t) => {
  const layers = [
    ...attempts.map(({ layer }) => layer),
    ...bombs.map(() => 'limits' as const),
    ...wallAttempts.map(() => 'landlock' as const),
    ...hostSideAttempts.map(() => 'host side' as const),
  ];
  for (const layer of LAYERS) {
    t.true(layers.filter((it) => it === layer).length >= 5, layer);
  }
});
