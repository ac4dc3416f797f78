import { readlinkSync } from 'node:fs';
import test from 'ava';
import type { KilnError } from '../../src/errors.ts';
import {
  type ExpectedCommand,
  type ExpectedFacts,
  readCommandFacts,
  readSandboxFacts,
} from '../../src/sandbox/command/facts.ts';

/**
 * What kiln makes of a report of the init, line by line. Whether the report is true is tested in
 * layers.test.ts, with inits and domains that lack what they should have.
 */

const NAMESPACES = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'time', 'user', 'uts'];
const labels = {
  ...({
    module: 'apparmor',
    init: 'kiln-init',
    command: 'kiln-sandbox',
    nested: 'kiln-nested',
    files: '',
  } as const),
};

const plan: ExpectedFacts = {
  network: 'own',
  range: { base: 200000, count: 65536 },
  operations: [
    { op: 'mask', path: '/proc/keys' },
    { op: 'readonly', path: '/proc/sys' },
    { op: 'bind', fd: 0, path: '/in', access: 'readonly', directory: true },
    { op: 'bind', fd: 1, path: '/out', access: 'host', directory: true },
    { op: 'user-limit', name: 'max_user_namespaces', most: 0 },
  ],
  time: true,
  labels,
};

const sandbox = [
  ...NAMESPACES.map((name) => `ns=${name}:[1]`),
  ...['uid_map=0 200000 65536', 'gid_map=0 200000 65536', 'interface=lo'],
  ...[
    'mask=/proc/keys',
    'readonly=/proc/sys',
    'bind_readonly=/in',
    'user_limit=max_user_namespaces 0',
  ],
  'init_label=kiln-init (enforce)',
];

/** The line that is another one, or none, and the layer that must be named then. */
const sandboxes: readonly (readonly [line: string, other: string, layer: string])[] = [
  ...NAMESPACES.map(
    (name) =>
      [
        `ns=${name}:[1]`,
        `ns=${readlinkSync(`/proc/self/ns/${name}`)}`,
        `${name}-namespace`,
      ] as const,
  ),
  ...NAMESPACES.map((name) => [`ns=${name}:[1]`, '', `${name}-namespace`] as const),
  ['uid_map=0 200000 65536', 'uid_map=0 0 4294967295', 'user-namespace'],
  ['uid_map=0 200000 65536', 'uid_map=0 265536 65536', 'user-namespace'],
  ['gid_map=0 200000 65536', 'gid_map=0 200000 65537', 'user-namespace'],
  ['mask=/proc/keys', '', 'masked-paths'],
  ['readonly=/proc/sys', '', 'read-only-paths'],
  ['bind_readonly=/in', 'bind_readonly=/out', 'binds'],
  ['user_limit=max_user_namespaces 0', 'user_limit=max_user_namespaces 1', 'user-limits'],
  ['user_limit=max_user_namespaces 0', '', 'user-limits'],
  ['init_label=kiln-init (enforce)', '', 'apparmor'],
  ['init_label=kiln-init (enforce)', 'init_label=kiln-init (complain)', 'apparmor'],
  ['init_label=kiln-init (enforce)', 'init_label=unconfined', 'apparmor'],
];

const command = [
  ...['Uid=1000\t1000\t1000\t1000', 'Gid=1000\t1000\t1000\t1000', 'Groups=1000 50'],
  ...['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'].map((name) => `${name}=0000000000000001`),
  ...['NoNewPrivs=1', 'Seccomp=2', 'landlock=6', 'walls=5', 'descriptors=0'],
  ...['network=host', 'host_files=1', 'set_id=refused'],
  ...['rlimit=4 1 1', 'rlimit=7 1024 4096', 'mask=/proc/keys', 'label=kiln-sandbox (enforce)'],
];

const commandPlan: ExpectedCommand = {
  user: '1000',
  capabilities: 1n,
  landlock: ['files', 'abstract-sockets'],
  openSockets: false,
  limits: [
    { resource: 4, soft: 1, hard: 1 },
    { resource: 7, soft: 1024, hard: Infinity },
  ],
  labels,
  boot: [{ path: '/proc/keys', rule: 'mask' }],
};

const commands: readonly (readonly [line: string, other: string, layer: string])[] = [
  ['Uid=1000\t1000\t1000\t1000', 'Uid=1000\t1000\t0\t1000', 'user'],
  ...['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'].flatMap((name) => [
    [`${name}=0000000000000001`, `${name}=0000000000000003`, 'capabilities'] as const,
    [`${name}=0000000000000001`, '', 'capabilities'] as const,
  ]),
  ['NoNewPrivs=1', 'NoNewPrivs=0', 'no_new_privs'],
  ['NoNewPrivs=1', '', 'no_new_privs'],
  ['Seccomp=2', 'Seccomp=0', 'seccomp'],
  ['Seccomp=2', '', 'seccomp'],
  ['landlock=6', 'landlock=0', 'landlock'],
  ['walls=5', 'walls=1', 'landlock'],
  ['walls=5', '', 'landlock'],
  ['set_id=refused', 'set_id=unknown', 'set-id'],
  ['set_id=refused', '', 'set-id'],
  ['descriptors=0', 'descriptors=1', 'descriptors'],
  ['descriptors=0', '', 'descriptors'],
  ['rlimit=4 1 1', '', 'limits'],
  ['rlimit=4 1 1', 'rlimit=4 1 18446744073709551615', 'limits'],
  ['rlimit=7 1024 4096', 'rlimit=7 1025 4096', 'limits'],
  ['mask=/proc/keys', 'readonly=/proc/keys', 'boot'],
  ['label=kiln-sandbox (enforce)', 'label=kiln-init (enforce)', 'apparmor'],
  ['label=kiln-sandbox (enforce)', '', 'apparmor'],
];

test('a sandbox that is as planned is accepted', (t) => {
  const facts = readSandboxFacts(sandbox.join('\n'), plan);
  t.deepEqual(facts.readonlyBinds, ['/in']);
  const found = readCommandFacts(command.join('\n'), commandPlan);
  t.deepEqual(found.landlock, { abi: 6, walls: ['files', 'abstract-sockets'] });
});

test('the layers a command must have follow from what the init found', (t) => {
  const asked: ExpectedCommand = { ...commandPlan, landlock: ['files'] };
  const read = (change: (line: string) => string, plan = asked) =>
    readCommandFacts(command.map(change).join('\n'), plan);
  const open = (line: string) => (line === 'walls=5' ? 'walls=1' : line);
  t.throws(() => read(open), { code: 'E_LAYER_MISSING', message: /abstract-sockets/ });
  t.notThrows(() => read(open, { ...asked, openSockets: true }));
  t.notThrows(() => read((line) => (line === 'network=host' ? 'network=own' : open(line))));
  const unguarded = (line: string) => (line === 'set_id=refused' ? 'set_id=unknown' : line);
  t.throws(() => read(unguarded), { code: 'E_LAYER_MISSING', message: /set-id/ });
  const nowhere = (line: string) => (line === 'host_files=1' ? 'host_files=0' : unguarded(line));
  t.false(read(nowhere).setIdRefused);
});

for (const [what, lines, read, cases] of [
  ['sandbox', sandbox, (text: string) => readSandboxFacts(text, plan), sandboxes],
  ['command', command, (text: string) => readCommandFacts(text, commandPlan), commands],
] as const) {
  test(`a report of a ${what} that lacks a layer is refused, and names the layer`, (t) => {
    for (const [line, other, layer] of cases) {
      t.true(lines.includes(line), line);
      const text = lines.map((it) => (it === line ? other : it)).join('\n');
      const error = t.throws(() => read(text), { code: 'E_LAYER_MISSING' }, `${line} -> ${other}`);
      t.is((error as KilnError | undefined)?.details?.layer, layer, `${line} -> ${other}`);
    }
  });
}
