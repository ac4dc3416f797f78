/**
 * Every option of `kiln run` in a machine: it is tried, or refused by name with its reason, or it is nothing to a machine.
 * An option that is new is in none of these lists, and the first test fails.
 */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest from 'ava';
import { RUN } from '../../src/options/sandbox.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { long } from '../support/long.ts';

const test = anyTest.serial;

type Option = keyof typeof RUN | 'mount';

/** All at once, below. */
const HERE: readonly Option[] = [
  ...([
    'protect',
    'ioRead',
    'ioWrite',
    'timeout',
    'stallTimeout',
    'envFile',
    'guestBinds',
  ] as const),
  ...(['cpus', 'pids', 'seccomp', 'secrets', 'samples', 'entrypoint', 'explainRefusals'] as const),
  ...(['quiet', 'hostname', 'json', 'save', 'memory'] as const),
];

/** By these files of test/machine. */
const ELSEWHERE: Readonly<Record<string, readonly Option[]>> = {
  'commands.test.ts': ['profile', 'env', 'tmpfs', 'tty'],
  'images.test.ts': ['explain', 'mount'],
  'kernel.test.ts': ['kernel'],
  'layers.test.ts': ['binds', 'capabilities', 'disk', 'fromSnapshot', 'keep', 'user', 'workdir'],
  'living.test.ts': ['name'],
  'matrix.test.ts': ['copyIn'],
  'network.test.ts': ['network', 'publish'],
  'run.test.ts': [
    'allowMissing',
    'artifacts',
    'egress',
    'image',
    'isolation',
    'readOnly',
    'resultDirectory',
  ],
};

const REFUSED: Readonly<Partial<Record<Option, readonly [words: readonly string[], why: RegExp]>>> =
  {
    onDisk: [['--on-disk'], /a machine has no --on-disk: the host’s disk comes to it by virtiofs/],
    label: [['--label', 'none'], /a machine has no --label: no process of this host is in it/],
    allowHostNetwork: [
      ['--network', 'host', '--allow-host-network'],
      /a machine cannot have the host’s network/,
    ],
  };

/** The client or kilnd do this, before there is a sandbox or around it. */
const AROUND: readonly Option[] = [
  ...(['allowHost', 'allowHostWrite', 'ci', 'detach', 'detachKeys', 'egressLearn'] as const),
  ...(['file', 'interactive', 'protection', 'rm'] as const),
];

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(() => state[Symbol.asyncDispose]());

test('no option of `kiln run` is forgotten', async (t) => {
  const known = [HERE, Object.values(ELSEWHERE).flat(), Object.keys(REFUSED), AROUND].flat();
  t.deepEqual(known.toSorted(), [...Object.keys(RUN), 'mount'].toSorted());
  const files = await readdir(import.meta.dirname);
  t.deepEqual(
    Object.keys(ELSEWHERE).filter((file) => !files.includes(file)),
    [],
  );
});

test('an option that machines do not have is refused by name', async (t) => {
  for (const [words, why] of Object.values(REFUSED)) {
    const asked = ['run', '--isolation', 'vm', '-r', IMAGE, ...words, '--', 'true'];
    const { exitCode, stderr } = await state.kiln(asked);
    t.is(exitCode, 125, words.join(' '));
    t.regex(String(stderr), why);
  }
});

long('options together do in a machine what they do in a container', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const folder = join(state.beside, 'checkout');
  await mkdir(join(folder, 'tools'), { recursive: true });
  await writeFile(join(folder, 'tools/run'), 'of the host\n');
  await writeFile(join(state.beside, 'env'), 'FROM_FILE=yes\n');
  await writeFile(join(state.beside, 'key'), 'hush');
  const script = `echo $FROM_FILE $(hostname) $(cat /run/secrets/key) $(cat /again/tools/run)
echo x > /src/tools/run || echo protected; echo x > /again/y || echo closed; echo new > /src/new
grep -E 'Seccomp:|NoNewPrivs|CapEff' /proc/self/status; unshare -U true; exit 3`;
  const run = async (...ground: readonly string[]) => {
    const saved = join(state.beside, `saved-${ground.length}.yaml`);
    const words = [
      ...['run', ...ground, '-r', IMAGE, '--bind', `${folder}:/src`, '--protect', 'tools'],
      ...['--guest-bind', '/src:/again:ro', '--env-file', join(state.beside, 'env')],
      ...['--secret', `key=${join(state.beside, 'key')}`, '--hostname', 'optional', '--quiet'],
      ...[
        '--cpus',
        '1.5',
        '--pids',
        '100',
        '--memory',
        '300M',
        '--seccomp',
        'build',
        '--no-samples',
      ],
      ...['--io-read', '50M', '--io-write', '50M', '--allow-missing', 'io-limit'],
      ...['--timeout', '5m', '--stall-timeout', '4m', '--explain-refusals', '--json'],
      ...['--entrypoint', '["sh", "-c"]', '--', `${script}`],
    ];
    const ran = await state.kiln(words, { timeout: 240_000 * PATIENCE });
    const save = await state.kiln([...words.slice(0, -2), '--save', saved, '--', 'true']);
    t.is(save.exitCode, 0, String(save.stderr));
    const { policy } = JSON.parse(String(ran.stderr).trim().split('\n').at(-1) ?? '');
    const { memory, cpus, pids } = policy.limits;
    const told = { exitCode: ran.exitCode, out: ran.stdout, limits: { memory, cpus, pids } };
    return { told, saved: await readFile(saved, 'utf8') };
  };
  const machine = await run('--isolation', 'vm', '--allow-missing', 'kvm');
  const container = await run();
  t.deepEqual(machine.told, container.told);
  t.is(machine.told.exitCode, 3);
  t.regex(String(machine.told.out), /^yes optional hush of the host\nprotected\nclosed\n/);
  t.regex(machine.saved, /isolation: vm/);
});
