/** KILN_STATE by whatever name: odd characters, links, nothing at all. */
import { mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { DEFAULT_STATE, statePaths } from '../../src/host/state/paths.ts';
import { hostInvocation, sharedUnits } from '../../src/service/definition/host-units.ts';
import { type ImageState, imageState } from '../image/image-state.ts';
import { PATIENCE } from '../support/busybox-state.ts';

/** What shells, libvirtd.conf, fstab, XML, URIs, systemd and mountinfo each take for something else. */
const ODD = 'a b"c\'d\\e%f$g\nh#i,j:k;l<m&n>o\tpü`q*r';

let state: ImageState;
let recipe: string;

test.before(async () => {
  state = await imageState();
  recipe = await state.recipe(
    'small',
    'packages: [coreutils, dash, /bin/bash]\nscriptlets: { mode: auto }',
  );
});
test.after.always(() => state?.[Symbol.asyncDispose]());

interface NamedState extends AsyncDisposable {
  readonly paths: ReturnType<typeof statePaths>;
  kiln(...args: readonly string[]): Promise<{ exitCode?: number; stdout: string; stderr: string }>;
  /** It has to go well. */
  ok(...args: readonly string[]): Promise<string>;
}

/** A state by some name. Disposing of it ends its libvirtd. */
function named(root: string): NamedState {
  const { KILN_FROM_SOURCE = '' } = process.env;
  const env = { ...state.env, KILN_STATE: root, KILN_FROM_SOURCE };
  const paths = statePaths(env);
  const kiln = async (...args: readonly string[]) => {
    const { exitCode, stdout, stderr } = await state.kiln(args, { env });
    return { exitCode: exitCode ?? -1, stdout: String(stdout), stderr: String(stderr) };
  };
  return {
    paths,
    kiln,
    async ok(...args) {
      const { exitCode, stdout, stderr } = await kiln(...args);
      if (exitCode !== 0) throw new Error(`kiln ${args.join(' ')}: ${stderr}`);
      return stdout;
    },
    async [Symbol.asyncDispose]() {
      await stopEmbeddedDaemon(paths);
      await rm(paths.run, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    },
  };
}

test.serial('a state whose name has every odd character works', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const root = join(state.directory, ODD);
  await using odd = named(root);
  t.is(odd.paths.root, root);
  t.regex(await odd.ok('image', 'build', recipe), /^[0-9a-f]{64}$/);
  t.is(await odd.ok('run', '-r', recipe, '--', 'echo', 'it works'), 'it works');
  await odd.ok('park', '-n', '1');
  t.is(await odd.ok('run', '-r', recipe, '--', 'echo', 'it works'), 'it works');
  await odd.ok('park', '--none');
  await odd.ok('service', 'create', '-r', recipe, 'idle', '--', 'sleep', '1000000');
  await odd.ok('service', 'start', 'idle');
  t.is(await odd.ok('service', 'execute', 'idle', '--', 'echo', 'in it'), 'in it');
  t.regex(await odd.ok('service', 'list'), /^idle +running/m);
  await odd.ok('service', 'stop', 'idle');
  await odd.ok('gc');
  const doctor = await odd.kiln('doctor', 'state-directory', 'id-mapped-mounts', 'overlay');
  t.is(doctor.exitCode, 0, doctor.stdout + doctor.stderr);
  // libvirt's log is where it belongs, and nothing lies beside the state.
  t.true((await readdir(odd.paths.libvirt)).includes('libvirtd.log'));
  t.deepEqual(
    (await readdir(state.directory)).filter((name) => name !== ODD && !name.endsWith('.yaml')),
    [],
  );
});

test('a host unit names an odd state in one line, as systemd reads it', (t) => {
  const { env } = hostInvocation({ ...statePaths({}), root: `/x/${ODD}` }, {});
  const text = sharedUnits({ command: ['/bin/kiln'], env })['kiln@.service'] ?? '';
  const [line = ''] = text.split('\n').filter((line) => line.includes('KILN_STATE'));
  // systemd.syntax(7): C's escapes, and `%%` for a percent sign.
  const value = /^Environment="(.*)"$/.exec(line)?.[1] ?? '';
  const read = value
    .replaceAll('%%', '%')
    .replace(/\\(x[0-9a-f]{2}|.)/g, (_, c: string) =>
      c.length === 3 ? String.fromCharCode(Number.parseInt(c.slice(1), 16)) : c,
    );
  t.is(read, `KILN_STATE=/x/${ODD}`);
});

test.serial('a state with two names has one supervisor for each service', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const real = join(state.directory, 'real');
  const [link, alias] = [join(state.directory, 'link'), join(state.directory, 'alias')];
  await mkdir(real, { mode: 0o755 });
  await mkdir(alias);
  await symlink('real', link);
  await using first = named(real);
  await first.ok('image', 'build', recipe);
  await first.ok('service', 'create', '-r', recipe, 'idle', '--', 'sleep', '1000000');
  await first.ok('service', 'start', 'idle');
  try {
    // A link is the same state in everything.
    const second = named(link);
    t.deepEqual(second.paths, first.paths);
    t.regex(await second.ok('service', 'start', 'idle'), /runs already/);
    t.regex(await second.ok('service', 'list'), /^idle +running/m);
    t.true((await second.kiln('image', 'rm', 'small')).stderr.includes('in use'));
    // A bind mount is another path, but its locks are the same.
    await execa('mount', ['--bind', real, alias]);
    await using third = named(alias);
    t.not(third.paths.run, first.paths.run);
    const refused = await third.kiln('service', 'supervise', 'idle');
    t.is(refused.exitCode, 78);
    t.regex(refused.stderr, /idle has a supervisor already/);
  } finally {
    await execa('umount', ['--lazy', alias], { reject: false });
    await first.ok('service', 'stop', 'idle');
  }
});

test('an empty KILN_STATE means the default, and an impossible one is refused', async (t) => {
  t.is(statePaths({ KILN_STATE: '' }).root, statePaths({}).root);
  t.is(statePaths({ KILN_STATE: DEFAULT_STATE }).root, statePaths({}).root);
  t.is(statePaths({ KILN_STATE: 'some/where' }).root, join(process.cwd(), 'some/where'));
  t.is(statePaths({ KILN_STATE: '/missing/parents/state' }).root, '/missing/parents/state');

  const at = (name: string) => join(state.directory, name);
  await writeFile(at('file'), '');
  await symlink('nowhere', at('dangling'));
  await symlink('loop', at('loop'));
  const { KILN_FROM_SOURCE = '' } = process.env;
  for (const [name, why] of [
    ['file', /is not a folder/],
    ['file/below', /is not a folder/],
    ['dangling', /symbolic link to what is not there/],
    ['loop', /ELOOP/],
    ['\ufffd', /not UTF-8/],
    ['x'.repeat(300), /ENAMETOOLONG/],
  ] as const) {
    for (const command of [['ps'], ['gc'], ['run', '-r', 'x', '--', 'true'], ['service', 'list']]) {
      const { exitCode, stderr } = await state.kiln(command, {
        env: { ...state.env, KILN_STATE: at(name), KILN_FROM_SOURCE },
      });
      t.is(exitCode, 125, name);
      t.notRegex(String(stderr), /internal error|^ +at /m);
      // The native client has words of its own for a daemon that cannot be.
      t.regex(String(stderr), /KILN_STATE/);
      if (command[0] === 'run') continue;
      t.regex(String(stderr), why);
      t.regex(String(stderr), /cannot keep kiln’s state in .*\n.*name a folder in KILN_STATE/s);
    }
  }
  t.deepEqual(
    (await readdir(state.directory)).filter((name) => name.startsWith('nowhere')),
    [],
  );
});
