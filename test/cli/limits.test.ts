/** Every option, and every limit of a sandbox, gets from each command line to what is asked of the sandbox. */
import test from 'ava';
import type { RunParameters } from '../../src/api/io-kiln.ts';
import { NO_PATHS } from '../../src/cli/caller/no-paths.ts';
import { KilnCommand } from '../../src/cli/options/command.ts';
import { runRequest } from '../../src/cli/options/sandbox-options.ts';
import { buildRequest, refuseUnused } from '../../src/cli/rpmbuild/build-request.ts';
import { givenSettings, SETTINGS } from '../../src/cli/service/options.ts';
import { ownPath } from '../../src/host/files/held.ts';
import { planRun } from '../../src/jobs/run/plan.ts';
import { BUILD, type BuildOptions } from '../../src/options/build.ts';
import { flagOf, type Row } from '../../src/options/row.ts';
import { SANDBOX, SANDBOX_LIMITS, type SandboxOptions } from '../../src/options/sandbox.ts';
import { keyOf, keysOf, valuesOfKeys } from '../../src/options/yaml.ts';
import { LIMIT_NAMES, limitsOf } from '../../src/sandbox/policy/limits.ts';
import { sandboxOptions } from '../../src/serve/calls/options.ts';
import { defaultsSchema } from '../../src/users/defaults.ts';

const caller = {
  ...{ env: {}, environment: {}, cwd: () => '/', ids: { uid: 0, gid: 0 } },
  ...{ variable: () => undefined, user: undefined, paths: NO_PATHS },
};
const VALUE = 2 ** 23;
const GIVEN = LIMIT_NAMES.flatMap((name) => [flagOf(name, SANDBOX[name]), String(VALUE)]);
const WANTED = Object.fromEntries(LIMIT_NAMES.map((name) => [name, VALUE]));

/** What a run does beside what is planned: files in and out, what is kept, and what confirms another option. */
const BESIDE = [
  ...['allowHostNetwork', 'artifacts', 'copyIn', 'fromSnapshot', 'image', 'keep'],
  ...['resultDirectory', 'secrets'],
];

test('every option of a sandbox is in the request, and the plan heeds it', (t) => {
  const command = new KilnCommand('run').rows(SANDBOX, caller);
  command.parse(['--network', 'host', '--allow-host-network'], { from: 'user' });
  const request = runRequest(command.opts<SandboxOptions>(), ['true'], command, caller.ids);
  t.true(request.allowHostNetwork);
  const read = new Set<string>();
  const watched = new Proxy(request, {
    get: (target, name, self) => {
      read.add(String(name));
      return Reflect.get(target, name, self);
    },
  });
  const manifest = { user: { uid: 0, gid: 0 }, workdir: '/', environment: {}, accounts: [] };
  planRun({ allowMissing: () => [] }, watched, { tree: '/', manifest: manifest as never });
  const names = Object.keys(SANDBOX);
  t.true(names.length > 20);
  t.deepEqual(names.filter((name) => !read.has(name)).sort(), BESIDE);
});

/** Each option as words, and as a call of the API has it. */
const BOTH: readonly (readonly [words: readonly string[], json: Partial<RunParameters>])[] = [
  ...LIMIT_NAMES.map(
    (name) =>
      [[flagOf(name, SANDBOX[name]), String(VALUE)], { surroundings: { [name]: VALUE } }] as const,
  ),
  [['--from', 'built'], { surroundings: { fromSnapshot: 'built' } }],
  [['--on-disk'], { surroundings: { onDisk: true } }],
  [['--isolation', 'vm'], { surroundings: { isolation: 'vm' } }],
  [['--isolation', 'vm', '--kernel', '/k'], { surroundings: { isolation: 'vm', kernel: '/k' } }],
  [['--disk', '1M'], { surroundings: { disk: 1 << 20 } }],
  [['--timeout', '90s'], { timeout: 90_000 }],
  [['--stall-timeout', '1m'], { stallTimeout: 60_000 }],
  [['--keep=500ms'], { keep: 500 }],
  [
    ['--bind', '/a:/b:ro,z', '--bind', '/c:/d'],
    {
      surroundings: {
        binds: [
          { source: '/a', target: '/b', readonly: true, relabel: 'shared' },
          { source: '/c', target: '/d' },
        ],
      },
    },
  ],
  [['--protect', 'a', '--protect', 'b/c'], { surroundings: { protect: ['a', 'b/c'] } }],
  [['--no-protect'], { surroundings: { protection: false } }],
  [['--allow-host-write'], { surroundings: { allowHostWrite: true } }],
  [
    ['--tmpfs', '/t:1M', '--tmpfs', '/s'],
    { surroundings: { tmpfs: [{ target: '/t', size: 1 << 20 }, { target: '/s' }] } },
  ],
  [
    ['--guest-bind', '/a:/b:ro', '--guest-bind', '/c:/d'],
    {
      surroundings: {
        guestBinds: [
          { source: '/a', target: '/b', readonly: true },
          { source: '/c', target: '/d' },
        ],
      },
    },
  ],
  [['--copy-in', '/a/.:/b'], { copyIn: [{ source: '/a/.', target: '/b' }] }],
  [['--env', 'A=b=c', '--env', 'B='], { env: { A: 'b=c', B: '' } }],
  [['--workdir', '/w', '--user', '7:8'], { workdir: '/w', user: '7:8' }],
  [['--read-only'], { surroundings: { readOnly: true } }],
  [['--hostname', 'me'], { surroundings: { hostname: 'me' } }],
  [
    ['--network', 'host', '--allow-host-network'],
    { surroundings: { network: 'host', allowHostNetwork: true } },
  ],
  [
    ['-p', '8080:80', '-p', '[::1]:81:82'],
    { surroundings: { publish: ['8080:80', '[::1]:81:82'] } },
  ],
  [['--egress', 'example.org:443'], { surroundings: { egress: ['example.org:443'] } }],
  [['--cap-add', 'net_raw'], { surroundings: { capabilities: ['net_raw'] } }],
  [['--profile', 'nested'], { surroundings: { profile: 'nested' } }],
  [['--seccomp', 'strict'], { surroundings: { seccomp: 'strict' } }],
  [['--label', 'none'], { surroundings: { label: 'none' } }],
  [['--secret', 'k=/f'], { surroundings: { secrets: [{ name: 'k', file: '/f' }] } }],
  [['--allow-missing', 'landlock'], { surroundings: { allowMissing: ['landlock'] } }],
  [['--artifact', '*.o', '--resultdir', '/o'], { artifacts: ['*.o'], resultDirectory: '/o' }],
];

test('a call of the API asks for what words ask for', (t) => {
  const given = new Set<string>();
  for (const [words, json] of BOTH) {
    const command = new KilnCommand('run').rows(SANDBOX, caller);
    command.parse([...words], { from: 'user' });
    const called = sandboxOptions(json, caller);
    t.deepEqual(called.options, command.opts());
    t.deepEqual(
      called.command.given().map(({ long }) => long),
      command.given().map(({ long }) => long),
    );
    for (const option of command.given()) given.add(option.attributeName());
  }
  const all = Object.keys(SANDBOX);
  t.deepEqual(
    all.filter((name) => !given.has(name)),
    ['image'],
  );
});

test('numbers of a call that words could not say are refused, by the name that the call has for them', (t) => {
  const wrong: readonly (readonly [Partial<RunParameters>, RegExp])[] = [
    [{ timeout: 0 }, /^timeout: not a duration$/],
    [{ keep: -1 }, /^keep: not a duration$/],
    [{ surroundings: { memory: 1 } }, /^memory: less than a sandbox takes/],
    [{ surroundings: { disk: 1e15 } }, /^disk: not a size$/],
    [{ surroundings: { cpus: 0.001 } }, /^cpus: not a number of processors/],
    [{ surroundings: { pids: 0 } }, /^pids: not a positive number/],
    [{ surroundings: { tmpfs: [{ target: '/t', size: 0 }] } }, /^tmpfs: not a size$/],
    [{ surroundings: { profile: 'other' } }, /^profile: Allowed choices are default, nested\.$/],
    [
      { surroundings: { binds: [{ source: 'a', target: '/b' }] } },
      /^binds: a is not an absolute path$/,
    ],
    [{ surroundings: { secrets: [{ name: '../k', file: '/f' }] } }, /^secrets: /],
    [{ env: { 'A B': 'c' } }, /^env: A B is the name of no variable/],
  ];
  for (const [json, message] of wrong) {
    const call = () => sandboxOptions(json, caller);
    t.throws(call, { code: 'E_ARGUMENT', message });
  }
});

test('kiln run passes on every limit', (t) => {
  const command = new KilnCommand('run').rows(SANDBOX, caller);
  command.parse(GIVEN, { from: 'user' });
  const request = runRequest(command.opts<SandboxOptions>(), ['true'], command, caller.ids);
  t.deepEqual(limitsOf(request), WANTED);
});

test('kiln build passes on every limit', (t) => {
  const command = new KilnCommand('build').argument('[source]').rows(BUILD, caller);
  command.parse(['-r', 'image', ...GIVEN, 'a.src.rpm'], { from: 'user' });
  const options = command.opts<BuildOptions>();
  t.notThrows(() => refuseUnused('package', command));
  t.notThrows(() => refuseUnused('recipe', command));
  t.deepEqual(limitsOf(buildRequest(ownPath('/a.src.rpm'), options, command, caller)), WANTED);
});

test('service definitions and recipes have every limit', (t) => {
  const command = new KilnCommand('set').rows(SETTINGS);
  command.parse(GIVEN, { from: 'user' });
  const settings = givenSettings({ ...command.opts(), publish: [] });
  t.deepEqual(Object.keys(settings).sort(), Object.keys(keysOf(SANDBOX_LIMITS)).sort());
  t.deepEqual(valuesOfKeys(SANDBOX_LIMITS, settings as Readonly<Record<string, number>>), WANTED);
});

test('kiln.yaml has a default for each option whose row says so, and for no other', (t) => {
  const rows = Object.entries<Row>(SANDBOX).filter(([, { defaults }]) => defaults !== undefined);
  const keys = rows.map(([name, row]) => keyOf(name, row));
  t.deepEqual(
    [...keys, 'detach-keys', 'parked', 'parked-vms'].sort(),
    Object.keys(defaultsSchema.shape).sort(),
  );
});
