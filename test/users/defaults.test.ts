/** Defaults of kiln.yaml: whose file counts, that it allows nobody more, and what a hostile one comes to. */
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { parse } from 'yaml';
import { endDaemon } from '../support/daemon.ts';
import { OTHER, USER, type UserState, userState, writeConfig } from '../support/second-user.ts';

interface Context extends UserState {
  /** The user's own file. */
  readonly own: string;
  /** Runs `kiln` as the user, with the user's HOME. */
  user(
    args: readonly string[],
    env?: Readonly<Record<string, string>>,
    input?: string,
  ): ReturnType<UserState['as']>;
  /** Runs `kiln` as root with a HOME of the test's. */
  root(
    args: readonly string[],
    env?: Readonly<Record<string, string>>,
  ): ReturnType<UserState['as']>;
  readonly rootsOwn: string;
}

const test = anyTest as TestFn<Context>;
const MIB = 2 ** 20;

function put(file: string, text: string | Buffer, uid: number, mode = 0o644): void {
  rmSync(file, { force: true, recursive: true });
  writeFileSync(file, text);
  chownSync(file, uid, uid);
  chmodSync(file, mode);
}

test.before(async (t) => {
  const state = await userState();
  const folder = join(state.home, '.config');
  const rootsHome = join(state.beside, 'root');
  for (const [path, uid] of [
    [folder, USER.uid],
    [join(rootsHome, '.config'), 0],
  ] as const) {
    mkdirSync(path, { recursive: true });
    chownSync(path, uid, uid);
  }
  const usual = { PATH: process.env.PATH ?? '', KILN_STATE: state.paths.root };
  t.context = {
    ...state,
    own: join(folder, 'kiln.yaml'),
    rootsOwn: join(rootsHome, '.config/kiln.yaml'),
    user: (args, env, input) => {
      const stdin = input === undefined ? {} : { input, stdin: 'pipe' as const };
      return state.as(USER, args, { env: { ...usual, HOME: state.home, ...env }, ...stdin });
    },
    root: (args, env) => state.kiln(args, { env: { ...state.env, HOME: rootsHome, ...env } }),
  };
});

test.beforeEach(({ context: { config, own, rootsOwn } }) => {
  writeConfig(config, '');
  for (const file of [own, rootsOwn]) rmSync(file, { force: true, recursive: true });
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

interface Ran {
  readonly exitCode?: unknown;
  readonly stderr?: unknown;
}

/** What the sandbox of a run with `--json` was limited to, as it was measured. */
function limits(t: ExecutionContext, ran: Ran): Readonly<Record<string, number>> {
  t.is(ran.exitCode, 0, String(ran.stderr));
  const line = String(ran.stderr).trimEnd().split('\n').at(-1) ?? '';
  return JSON.parse(line).policy.limits;
}

function refuses(t: ExecutionContext, ran: Ran, ...words: readonly RegExp[]): void {
  t.is(ran.exitCode, 125, String(ran.stderr));
  for (const word of words) t.regex(String(ran.stderr), word);
}

test.serial(
  'an option counts first, then the environment, the user’s file, root’s file',
  async (t) => {
    const { config, own, user } = t.context;
    writeConfig(config, 'defaults: { image: nowhere, memory: 128M, pids: 99 }\n');
    refuses(t, await user(['run', '--', 'true']), /nowhere/);
    put(own, 'defaults:\n  image: busybox\n  memory: 96M\n', USER.uid);
    t.like(limits(t, await user(['run', '--json', '--', 'true'])), { memory: 96 * MIB, pids: 99 });
    const given = await user(['run', '--json', '--memory', '80M', '--', 'true']);
    t.like(limits(t, given), { memory: 80 * MIB, pids: 99 });
    refuses(t, await user(['run', '--', 'true'], { KILN_IMAGE: 'elsewhere' }), /elsewhere/);
    const option = await user(['run', '-r', 'busybox', '--', 'true'], { KILN_IMAGE: 'elsewhere' });
    t.is(option.exitCode, 0, String(option.stderr));
  },
);

test.serial('a command that a default has ended is told whose time it was', async (t) => {
  const { user, own } = t.context;
  put(own, 'defaults: { timeout: 1s }\n', USER.uid);
  const told = await user(['run', '-r', 'busybox', '--', 'sleep', '60']);
  t.is(told.exitCode, 124);
  t.regex(String(told.stderr), /\(timeout of kiln\.yaml: `kiln config show` tells which\)/);
  const given = await user(['run', '-r', 'busybox', '--timeout', '1s', '--', 'sleep', '60']);
  t.regex(String(given.stderr), /was reached \(--timeout\)/);
});

test.serial('shells, builds and services use the default image as well', async (t) => {
  const { config, own, user, root } = t.context;
  writeConfig(config, 'defaults: { image: nowhere, timeout: 1s, memory: 99M }\n');
  put(join(t.context.home, 'x.spec'), 'Name: x\n', USER.uid);
  for (const argv of [['shell'], ['build', '--spec', 'x.spec']])
    refuses(t, await user(argv), /nowhere/);
  const service = await root(['service', 'create', '-u', 'x.service', 'x']);
  refuses(t, service, /nowhere/);
  put(own, 'defaults: { image: busybox }\n', USER.uid);
  // Who sits in a shell may think for longer than a command may take.
  const shell = await user(['shell'], {}, 'sleep 2; echo over\n');
  t.is(shell.exitCode, 0, String(shell.stderr));
  t.is(String(shell.stdout), 'over');
});

test.serial('XDG_CONFIG_HOME replaces HOME as the place of the user’s file', async (t) => {
  const { home, own, user } = t.context;
  put(own, 'defaults: { image: nowhere }\n', USER.uid);
  const folder = join(home, 'xdg');
  mkdirSync(folder);
  put(join(folder, 'kiln.yaml'), 'defaults: { image: busybox }\n', USER.uid);
  const ran = await user(['run', '--', 'true'], { XDG_CONFIG_HOME: folder });
  t.is(ran.exitCode, 0, String(ran.stderr));
});

test.serial('root has defaults, too, with and without the daemon', async (t) => {
  const { config, root, rootsOwn } = t.context;
  writeConfig(config, 'defaults: { image: busybox, pids: 77 }\n');
  put(rootsOwn, 'defaults: { memory: 72M }\n', 0);
  for (const KILN_FROM_SOURCE of ['', '1']) {
    const ran = await root(['run', '--json', '--', 'true'], { KILN_FROM_SOURCE });
    t.like(limits(t, ran), { memory: 72 * MIB, pids: 77 });
  }
  // Each call looks at the files again.
  put(rootsOwn, 'defaults: { memory: 64M }\n', 0);
  t.like(limits(t, await root(['run', '--json', '--', 'true'])), { memory: 64 * MIB });
});

test.serial('a default allows a user nothing that the option would not', async (t) => {
  const { beside, config, own, user } = t.context;
  const policy = '  networks: [lab]\n  limits: { sandboxes: 2, memory: 512M }\n';
  writeConfig(config, policy);
  const wrong = [
    ['network: other', 'network'],
    ['memory: 400M', 'memory'],
    [`image: ${beside}/secret.yaml`, 'image'],
  ] as const;
  writeFileSync(join(beside, 'secret.yaml'), 'packages: [x]\n', { mode: 0o600 });
  for (const [line, key] of wrong) {
    put(own, `defaults:\n  pids: 50\n  ${line}\n`, USER.uid);
    const image = key === 'image' ? [] : ['-r', 'busybox'];
    const place = new RegExp(`home/\\.config/kiln\\.yaml:3: defaults\\.${key}: `);
    refuses(t, await user(['run', ...image, '--', 'true']), place);
  }
  put(own, 'defaults:\n  memory: 400M\n', USER.uid);
  const smaller = await user(['run', '-r', 'busybox', '--memory', '64M', '--', 'true']);
  t.is(smaller.exitCode, 0, String(smaller.stderr));
  rmSync(own);
  writeConfig(config, `${policy}defaults: { memory: 400M }\n`);
  const roots = await user(['run', '-r', 'busybox', '--', 'true']);
  refuses(t, roots, /beside\/kiln\.yaml:\d+: defaults\.memory: /);
});

test.serial('a user’s file cannot set policy, servers, or anything of kilnd’s', async (t) => {
  const { own, user } = t.context;
  const text = `users: { egress: ['*.example.org'] }
defaults: { image: busybox, parked: 9 }
repositories: { proxy: { http: 'http://127.0.0.1:9' } }
`;
  put(own, text, USER.uid);
  const said = [/:1:1: users: /, /:2:\d+: defaults\.parked: /, /:3:1: repositories: /];
  refuses(t, await user(['run', '--', 'true']), ...said);
  refuses(t, await user(['run', '-r', 'busybox', '--egress', 'a.example.org', '--', 'true']));
  // What takes no defaults goes on.
  t.is((await user(['ps'])).exitCode, 0);
});

test.serial('hostile files are refused in time, and never read with root’s rights', async (t) => {
  const { beside, own, user } = t.context;
  const loot = join(beside, 'loot');
  writeFileSync(loot, 'nobody-but-root', { mode: 0o600 });
  const run = () => user(['run', '-r', 'busybox', '--', 'true']);
  const bomb = [...'abcdefgh'].map(
    (name, index) =>
      `${name}: &${name} [${Array(9).fill(index === 0 ? 'x' : `*${'abcdefgh'[index - 1]}`)}]\n`,
  );
  const texts = [
    [
      'defaults: { memory: [1], cpus: {}, pids: few }\n',
      /:1:\d+: defaults\.memory.*defaults\.cpus.*defaults\.pids/s,
    ],
    // As the command line says it.
    [
      'defaults: { timeout: 0 }\n',
      /defaults\.timeout: "0" is not a duration: write it as 90s, 10m or 1h30m, not 0$/m,
    ],
    [`${bomb.join('')}defaults: { image: *h }\n`, /resource exhaustion/],
    ['['.repeat(30_000), /nested too deeply here/],
    [`a: ${'1\na: '.repeat(9_000)}1\n`, /:2:1: Map keys must be unique/],
    [`#${'x'.repeat(65_536)}`, /larger than 65536 bytes/],
    ['defaults: {}\0\n', /not a text file/],
    [Buffer.from('defaults:\n  image: gr\u00fcn\n', 'latin1'), /kiln\.yaml: line 2 is not UTF-8/],
  ] as const;
  for (const [text, said] of texts) {
    put(own, text, USER.uid);
    refuses(t, await run(), said);
  }
  put(own, 'defaults: {}\n', USER.uid, 0o666);
  refuses(t, await run(), /others can write it/);
  put(own, 'defaults: {}\n', OTHER.uid);
  refuses(t, await run(), /somebody else’s/);
  rmSync(own);
  mkdirSync(own);
  refuses(t, await run(), /not a text file/);
  rmSync(own, { recursive: true });
  execFileSync('mkfifo', [own]);
  chownSync(own, USER.uid, USER.gid);
  refuses(t, await run(), /not a text file/);
  rmSync(own);
  symlinkSync(loot, own);
  const linked = await user(['config', 'check']);
  t.notRegex(`${linked.stdout}${linked.stderr}`, /nobody-but-root/);
  t.is((await run()).exitCode, 0);
});

test.serial('a recipe’s limits override a default, and an option overrides both', async (t) => {
  const { home, own, user } = t.context;
  put(own, 'defaults: { image: nowhere, memory: 90M, pids: 70, timeout: 2m }\n', USER.uid);
  const recipe = "image: busybox\nsandbox: { memory: 100M }\nsteps: ['true']\n";
  put(join(home, 'r.yaml'), recipe, USER.uid);
  const build = ['build', 'r.yaml', '--json', '--resultdir', 'out'];
  t.like(limits(t, await user(build)), { memory: 100 * MIB, pids: 70 });
  const given = limits(t, await user([...build, '--memory', '110M']));
  t.like(given, { memory: 110 * MIB, pids: 70 });
});

test.serial(
  'config show says where each value comes from, and can be written into a file',
  async (t) => {
    const { config, own, user, root } = t.context;
    const proxy = "repositories: { proxy: { https: 'http://me:hidden@proxy.example:3128' } }\n";
    writeConfig(config, `defaults: { memory: 128M }\n${proxy}`);
    put(own, 'defaults:\n  memory: 96M\n', USER.uid);
    const shown = await user(['config', 'show', '--json'], { KILN_IMAGE: 'busybox' });
    const rows = JSON.parse(String(shown.stdout)) as {
      key: string;
      value: unknown;
      origin: string;
    }[];
    const of = (key: string) => rows.find((row) => row.key === key);
    t.deepEqual(of('defaults.memory'), {
      key: 'defaults.memory',
      value: '96M',
      origin: `${own}:2`,
    });
    t.like(of('defaults.image'), { value: 'busybox', origin: 'environment: KILN_IMAGE' });
    t.like(of('defaults.disk'), { value: '8G', origin: 'built in' });
    t.like(of('defaults.cpus'), { value: null, origin: 'built in' });
    t.like(of('users.group'), { origin: `${config}:2` });
    const text = await root(['config', 'show']);
    t.regex(String(text.stdout), /memory: 128M # .*kiln\.yaml:3\n/);
    t.notRegex(`${shown.stdout}${text.stdout}`, /hidden/);
    const written = parse(String(text.stdout));
    t.is(written.defaults.memory, '128M');
    const copy = join(t.context.beside, 'copy.yaml');
    writeFileSync(copy, String(text.stdout));
    t.is((await root(['config', 'check', copy])).exitCode, 0);
  },
);

test.serial('config check takes a file, and checks both files if none is named', async (t) => {
  const { beside, config, home, own, user, root } = t.context;
  put(own, 'defaults: { memry: 1G }\n', USER.uid);
  refuses(t, await user(['config', 'check']), /kiln\.yaml:1:\d+: defaults\.memry: .*"memory"/);
  refuses(t, await user(['config', 'check', '.config/kiln.yaml']), /\.config\/kiln\.yaml:1:/);
  const next = join(home, 'next.yaml');
  put(next, 'users:\n  groups: x\ndefaults: { parked: 1 }\n', USER.uid, 0o600);
  const found = await user(['config', 'check', 'next.yaml']);
  refuses(t, found, /next\.yaml:2:\d+: users\.groups/);
  t.notRegex(String(found.stderr), /parked|\/jobs\//);
  // What only root can see, it says to root alone.
  const hidden = join(beside, 'hidden');
  mkdirSync(join(hidden, 'open'), { recursive: true });
  chmodSync(join(hidden, 'open'), 0o777);
  chmodSync(hidden, 0o700);
  put(next, `users: { mockConfigs: ${hidden}/open }\n`, USER.uid);
  t.is((await user(['config', 'check', 'next.yaml'])).exitCode, 0);
  put(own, `users: { mockConfigs: ${hidden}/open }\n`, USER.uid);
  t.notRegex(String((await user(['config', 'check'])).stderr), /others than root/);
  refuses(t, await root(['config', 'check', next]), /others than root can write there/);
  rmSync(own);
  writeConfig(config, '  limits: { memory: 1G }\ndefaults: { memory: 900M, network: lab }\n');
  const warned = await root(['config', 'check']);
  t.is(warned.exitCode, 0);
  t.regex(String(warned.stderr), /defaults\.memory.*\[refused-default\]\n.*defaults\.network/s);
  writeFileSync(join(beside, 'bad.yaml'), 'defaults: { network: host }\n');
  refuses(t, await root(['config', 'check', join(beside, 'bad.yaml')]), /isolation/);
  refuses(t, await root(['config', 'check', join(beside, 'none.yaml')]), /none\.yaml/);
});

test.serial('packages come through the mirrors and the proxy of root’s file', async (t) => {
  const { beside, config, root, user } = t.context;
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? '');
    response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const recipe = join(beside, 'r.yaml');
  const repository = (of: string) =>
    `repositories: [{ id: r, baseurl: '${of}', gpgcheck: false }]\npackages: [x]\n`;
  writeFileSync(recipe, repository('http://packages.invalid/pub/os'));
  writeConfig(
    config,
    `repositories: { mirrors: { 'http://packages.invalid/pub/': ['${url}/m'] } }\n`,
  );
  const mirrored = await root(['image', 'lock', recipe]);
  refuses(t, mirrored, /127\.0\.0\.1:\d+\/m\/os\/repodata\/repomd\.xml: 404/);
  t.deepEqual([...new Set(asked.splice(0))], ['/m/os/repodata/repomd.xml']);
  writeConfig(config, `repositories: { proxy: { http: '${url}' } }\n`);
  await root(['image', 'lock', recipe]);
  t.deepEqual(
    [...new Set(asked.splice(0))],
    ['http://packages.invalid/pub/os/repodata/repomd.xml'],
  );
  // The environment counts first.
  await root(['image', 'lock', recipe], { http_proxy: 'http://127.0.0.1:1', no_proxy: '' });
  t.deepEqual(asked.splice(0), []);
  // Root's mirrors are for users, too, whose recipes reach public addresses only.
  writeConfig(config, `repositories: { mirrors: { 'http://packages.invalid/': ['${url}'] } }\n`);
  const sources = `sources: [{ url: 'http://packages.invalid/pub/../f', sha256: '${'0'.repeat(64)}' }]\n`;
  put(join(t.context.home, 's.yaml'), `image: busybox\n${sources}steps: ['true']\n`, USER.uid);
  await user(['build', 's.yaml', '--resultdir', 'out']);
  t.deepEqual([...new Set(asked.splice(0))], ['/f']);
});

test.serial('root’s file sets how many sandboxes stay parked', async (t) => {
  const { config, kiln, env, paths } = t.context;
  writeConfig(config, 'defaults: { parked: 1 }\n');
  await endDaemon(paths.root);
  const { KILN_PARKED: _, ...others } = env;
  const parked = await kiln(['park'], { env: others, extendEnv: false });
  t.is(String(parked.stdout), '1 of 1 parked', String(parked.stderr));
});
