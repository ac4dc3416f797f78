/** The API for users who are not root: what they may, what they may not, and what they see of others. */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { IMAGE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import {
  kilnForUsers,
  labelForBinds,
  leftOfJobs,
  OTHER,
  USER,
  type UserState,
  userState,
} from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;
const image = 'busybox';
const SANDBOXES = 3;

test.before(async (t) => {
  t.context = await userState(
    `  egress: [127.0.0.1:9]\n  limits: { sandboxes: ${SANDBOXES}, memory: 768M, keep: 1h }\n`,
  );
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

type Who = typeof USER | typeof OTHER;

/** Calls a method with systemd's client; all replies, and the error. */
async function call(
  state: UserState,
  who: Who,
  method: string,
  parameters: object = {},
  ...options: string[]
) {
  const socket = join(state.paths.root, 'io.kiln');
  const words = ['call', socket, `io.kiln.${method}`, JSON.stringify(parameters)];
  const ran = await state.run(who, ['varlinkctl', '--no-pager', '-j', ...options, ...words]);
  const error = /failed: (\S+)/.exec(String(ran.stderr))?.[1];
  const replies = String(ran.stdout)
    .split(/[\n\x1e]/)
    .filter((line) => line.trim() !== '')
    .map((line) => JSON.parse(line));
  return { error, replies, reply: replies.at(-1) };
}

/** Begins a call with `--more`, and tells what it has said so far. */
function begin(state: UserState, who: Who, method: string, parameters: object) {
  const socket = join(state.paths.root, 'io.kiln');
  const words = ['call', socket, `io.kiln.${method}`, JSON.stringify(parameters)];
  const running = state.run(who, ['varlinkctl', '-j', '--more', ...words]);
  let said = '';
  running.stdout?.on('data', (text: Buffer) => {
    said += text;
  });
  return { running, said: () => said };
}

const decoded = (text: string) => Buffer.from(text, 'base64').toString();

test.serial('a member of the group can run a command; others cannot even connect', async (t) => {
  const argv = ['sh', '-c', 'cat; id -u >&2; exit 3'];
  const { reply } = await call(t.context, USER, 'Run', { image, argv, input: 'aGk=' });
  t.deepEqual([decoded(reply.stdout), decoded(reply.stderr)], ['hi', '1000\n']);
  t.deepEqual(reply.result.ended, { exitCode: 3, exitStatus: 3 });
  // The share of one of the user's sandboxes.
  t.is(reply.result.report.policy.limits.memory, (768 << 20) / SANDBOXES);
  const more = await call(t.context, USER, 'Run', { image, argv: ['echo', 'x'] }, '--more');
  t.deepEqual(
    more.replies.map((each) => Object.keys(each)[0]),
    ['started', 'stdout', 'result'],
  );
  const socket = join(t.context.paths.root, 'io.kiln');
  const words = ['varlinkctl', 'call', socket, 'io.kiln.GetVersion', '{}'];
  const stranger = await t.context.run(OTHER, words, { groups: [] });
  t.not(stranger.exitCode, 0);
  t.regex(String(stranger.stderr), /Permission denied/);
});

test.serial('options and settings that are not for users are refused by name', async (t) => {
  const secret = join(t.context.beside, 'roots');
  writeFileSync(secret, 'secret', { mode: 0o600 });
  const refused: readonly (readonly [object, RegExp])[] = [
    [{ memory: 700 << 20 }, /--memory.*users\.limits\.memory/],
    [{ network: 'host' }, /--network host is not for users: it takes/],
    [{ network: 'default' }, /--network.*users\.networks/],
    [{ capabilities: ['NET_ADMIN'] }, /--cap-add.*users\.capabilities/],
    [{ egress: ['example.org'] }, /--egress.*users\.egress/],
    [{ label: 'none' }, /--label/],
    [{ profile: 'nested' }, /--profile/],
    [{ allowMissing: ['memory-limit'] }, /--allow-missing/],
    [{ allowHostWrite: true }, /--allow-host-write/],
    [{ seccomp: secret }, /--seccomp/],
    [{ binds: [{ source: secret, target: '/x' }] }, /roots in a call on the socket/],
    [{ binds: [{ source: '/', target: '/x', readonly: true }] }, /\/ in a call on the socket/],
    [{ secrets: [{ name: 'x', file: secret }] }, /roots in a call on the socket/],
  ];
  const argv = ['cat', '/x', '/run/secrets/x'];
  for (const [surroundings, why] of refused) {
    for (const method of ['Run', 'OpenSandbox']) {
      const of = method === 'Run' ? { image, argv, surroundings } : { image, surroundings };
      const { error, reply } = await call(t.context, USER, method, of);
      const what = `${method} ${JSON.stringify(surroundings)}`;
      t.deepEqual([error, reply.code], ['io.kiln.Failed', 'E_FORBIDDEN'], what);
      t.regex(`${reply.message} ${reply.hint}`, why, what);
    }
  }
  const folder = join(t.context.home, 'never');
  const runs: readonly object[] = [
    { copyIn: [{ source: secret, target: '/x' }] },
    { artifacts: ['x'], resultDirectory: folder },
    { keep: 7_200_000 },
    { image: join(t.context.beside, 'x.yaml') },
    { image: join(t.context.beside, 'x.lock.json') },
    { image: '/var/lib/x' },
  ];
  for (const run of runs) {
    const { reply } = await call(t.context, USER, 'Run', { image, argv, ...run });
    t.is(reply.code, 'E_FORBIDDEN', JSON.stringify(run));
  }
  t.false(existsSync(folder));
  const build = { sources: ['/tmp/x.src.rpm'], image, resultDirectory: folder };
  const definition = { image, units: {} };
  const others: readonly (readonly [string, object])[] = [
    ['Build', build],
    ['BuildImage', { image: secret }],
    ['BuildImage', { image: '/etc/x.yaml' }],
    ['LockImage', { recipe: 'debian-build' }],
    ['ListServices', {}],
    ['CreateService', { name: 'x', definition }],
    ...['StartService', 'StopService', 'RestartService', 'DeleteService'].map(
      (name) => [name, { name: 'x' }] as const,
    ),
    ['Doctor', { names: ['state-files'] }],
  ];
  for (const [method, parameters] of others) {
    const { error, reply } = await call(t.context, USER, method, parameters);
    t.deepEqual([error, reply.code], ['io.kiln.Failed', 'E_FORBIDDEN'], method);
  }
  const { checks } = (await call(t.context, USER, 'Doctor', { names: ['landlock'] })).reply;
  t.is(checks[0].name, 'landlock');
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('a user cannot find another user’s open sandbox', async (t) => {
  const state = t.context;
  const { sandbox } = (await call(state, USER, 'OpenSandbox', { image })).reply;
  const data = Buffer.from('from the user').toString('base64');
  t.falsy((await call(state, USER, 'WriteFile', { sandbox, path: '/tmp/in', data })).error);
  const argv = ['sh', '-c', 'cat /tmp/in; echo out >/tmp/out'];
  const done = (await call(state, USER, 'Execute', { sandbox, argv })).reply;
  t.is(decoded(done.stdout), 'from the user');
  const read = { sandbox, path: '/tmp/out' };
  t.is(decoded((await call(state, USER, 'ReadFile', read)).reply.data), 'out\n');
  const attempts: readonly (readonly [string, object])[] = [
    ['Execute', { sandbox, argv: ['cat', '/tmp/in'] }],
    ['ReadFile', read],
    ['WriteFile', { sandbox, path: '/tmp/in', data }],
    ['CloseSandbox', { sandbox }],
    ['KillSandbox', { sandbox }],
    ['KillSandbox', { sandbox: sandbox.slice(0, 6) }],
  ];
  for (const [method, parameters] of attempts) {
    const { reply } = await call(state, OTHER, method, parameters);
    t.is(reply.code, 'E_NO_SANDBOX', method);
  }
  const ids = async (who: Who) =>
    (await call(state, who, 'ListSandboxes')).reply.sandboxes.map(({ id }: { id: string }) => id);
  t.deepEqual(await ids(OTHER), []);
  t.deepEqual(await ids(USER), [sandbox]);
  const fill = ['dd', 'if=/dev/zero', 'of=/tmp/big', 'bs=1M', 'count=4'];
  await call(state, USER, 'Execute', { sandbox, argv: fill });
  const [listed] = (await call(state, USER, 'ListSandboxes')).reply.sandboxes;
  t.true(listed.sizeBytes >= 4 << 20 && listed.memoryBytes >= listed.sizeBytes);
  t.falsy((await call(state, USER, 'CloseSandbox', { sandbox })).error);
  t.deepEqual(await ids(USER), []);
});

test.serial('only the caller of a command can send it input and signals', async (t) => {
  const state = t.context;
  const argv = ['sh', '-c', 'echo ready; sleep 100'];
  const { running, said } = begin(state, USER, 'Run', { image, argv });
  await eventually(async () => said().includes('stdout'));
  const [, name = ''] = /"process":"(\w+)"/.exec(said()) ?? [];
  const end = { process: name, signal: 'SIGKILL' };
  t.is((await call(state, OTHER, 'SendSignal', end)).reply.code, 'E_NO_PROCESS');
  t.falsy((await call(state, USER, 'SendSignal', end)).error);
  await running;
  t.regex(said(), /"signal":"SIGKILL"/);
});

test.serial('the library can send more input than fits into one message of a user', async (t) => {
  const place = join(t.context.beside, 'library');
  const node = kilnForUsers(place);
  const script = `
    const { connect } = require(${JSON.stringify(join(place, 'dist/index.cjs'))});
    (async () => {
      await using kiln = await connect();
      const run = { image: 'busybox', argv: ['wc', '-c'], input: Buffer.alloc(5_000_000) };
      process.stdout.write((await kiln.run(run)).stdout);
    })();`;
  const { stdout, stderr } = await t.context.run(USER, [node, '-e', script]);
  t.is(String(stdout), '5000000', String(stderr));
});

test.serial(
  'a user’s open sandbox can have files of theirs, and is the user’s alone',
  async (t) => {
    const state = t.context;
    const place = join(state.beside, 'opening');
    const node = kilnForUsers(place);
    const bound = join(state.home, 'bound');
    await state.run(USER, ['sh', '-c', `mkdir ${bound} && echo bound >${bound}/file`]);
    labelForBinds(bound);
    const script = `
    const { connect } = require(${JSON.stringify(join(place, 'dist/index.cjs'))});
    (async () => {
      await using kiln = await connect();
      const surroundings = { binds: [{ source: 'bound', target: '/bound' }] };
      const copyIn = [{ source: 'bound/file', target: '/tmp/copied' }];
      const sandbox = await kiln.open({ image: 'busybox', surroundings, copyIn });
      await sandbox.writeFile('/tmp/in', 'written\\n');
      const { stdout } = await sandbox.exec('cat /bound/file /tmp/copied /tmp/in; echo out >/bound/new');
      console.log(stdout + (await sandbox.readFile('/bound/new')) + 'id ' + sandbox.id);
      await sandbox.exec('until test -e /tmp/go; do sleep 0.1; done');
      await sandbox.close();
      console.log('closed');
    })();`;
    const running = state.run(USER, [node, '-e', script], { cwd: state.home });
    let said = '';
    running.stdout?.on('data', (text: Buffer) => {
      said += text;
    });
    await Promise.race([running, eventually(async () => /^id \w+$/m.test(said))]);
    const [, sandbox = ''] = /^bound\nbound\nwritten\nout\nid (\w+)\n$/.exec(said) ?? [];
    t.not(sandbox, '', said);
    const data = Buffer.from('x').toString('base64');
    for (const [method, more] of [
      ['Execute', { argv: ['true'] }],
      ['ReadFile', { path: '/tmp/in' }],
      ['WriteFile', { path: '/tmp/go', data }],
    ] as const) {
      const { reply } = await call(state, OTHER, method, { sandbox, ...more });
      t.is(reply.code, 'E_NO_SANDBOX', method);
    }
    // A limit of time ends the command, and the sandbox goes on.
    const slow = { sandbox, argv: ['sleep', '100'], timeout: 300 };
    t.is((await call(state, USER, 'Execute', slow)).reply.result.limit, 'timeout');
    t.falsy((await call(state, USER, 'WriteFile', { sandbox, path: '/tmp/go', data })).error);
    t.is((await running).exitCode, 0, String((await running).stderr));
    t.regex(said, /closed\n$/);
    await eventually(
      async () => (await call(state, USER, 'ListSandboxes')).reply.sandboxes.length === 0,
    );
    t.is(readFileSync(join(bound, 'new'), 'utf8'), 'out\n');
  },
);

test.serial('a lease on a requested file does not hold up the daemon', async (t) => {
  const state = t.context;
  const lease = join(state.paths.images, IMAGE, 'tree/bin/lease');
  const source = join(import.meta.dirname, '../support/lease.c');
  await execa('cc', ['-static', '-O1', '-o', lease, source]);
  const { sandbox } = (await call(state, USER, 'OpenSandbox', { image })).reply;
  const path = '/tmp/leased';
  const holding = begin(state, USER, 'Execute', { sandbox, argv: ['lease', path] });
  const held = Buffer.from('held\n').toString('base64');
  await eventually(async () => holding.said().includes(held));
  // Whoever waits is let in after 45 seconds (/proc/sys/fs/lease-break-time), with the kernel's blessing.
  for (const [method, more] of [
    ['ReadFile', {}],
    ['WriteFile', { data: '' }],
  ] as const) {
    const { error } = await call(state, USER, method, { sandbox, path, ...more });
    t.is(error, 'io.kiln.Failed', method);
  }
  t.falsy((await call(state, USER, 'CloseSandbox', { sandbox })).error);
  await holding.running;
});

test.serial('a sandbox that root ended is gone for the user who opened it', async (t) => {
  const state = t.context;
  const { sandbox } = (await call(state, USER, 'OpenSandbox', { image })).reply;
  const killed = await state.kiln(['kill', sandbox]);
  t.is(killed.exitCode, 0, String(killed.stderr));
  for (const [method, more] of [
    ['ReadFile', { path: '/etc/passwd' }],
    ['WriteFile', { path: '/tmp/in', data: '' }],
    ['Execute', { argv: ['true'] }],
  ] as const) {
    const { reply } = await call(state, USER, method, { sandbox, ...more });
    t.regex(reply.code, /^E_(?:SANDBOX_GONE|NO_SANDBOX)$/, method);
  }
  // It is forgotten, and takes no room from the next one.
  const read = { sandbox, path: '/etc/passwd' };
  await eventually(
    async () => (await call(state, USER, 'ReadFile', read)).reply.code === 'E_NO_SANDBOX',
  );
  const next = (await call(state, USER, 'OpenSandbox', { image })).reply;
  t.falsy((await call(state, USER, 'CloseSandbox', { sandbox: next.sandbox })).error);
});

test.serial('a user sees root’s images, and cannot remove them', async (t) => {
  const { images } = (await call(t.context, USER, 'ListImages')).reply;
  t.deepEqual(
    images.map(({ id, name }: { id: string; name: string }) => [id, name]),
    [[IMAGE, image]],
  );
  for (const name of [image, IMAGE, IMAGE.slice(0, 12)]) {
    const { reply } = await call(t.context, USER, 'RemoveImage', { image: name });
    t.is(reply.code, 'E_FORBIDDEN', name);
  }
  t.is((await call(t.context, USER, 'BuildImage', { image })).reply.result.id, IMAGE);
});

test.serial('an image of one user does not exist for another', async (t) => {
  const state = t.context;
  const archive = join(state.home, 'mine.tar');
  const tree = join(state.paths.images, IMAGE, 'tree');
  await execa('tar', ['-C', tree, '-cf', archive, '.']);
  chownSync(archive, USER.uid, USER.gid);
  const made = await state.as(USER, ['image', 'import', archive, '--name', 'mine']);
  t.is(made.exitCode, 0, String(made.stderr));
  const id = String(made.stdout);
  const names = async (who: Who) =>
    (await call(state, who, 'ListImages')).reply.images.map(({ name }: { name: string }) => name);
  t.deepEqual((await names(USER)).sort(), [image, 'mine']);
  t.deepEqual(await names(OTHER), [image]);
  for (const name of ['mine', id, id.slice(0, 12)]) {
    const attempts: readonly (readonly [string, object])[] = [
      ['Run', { image: name, argv: ['true'] }],
      ['OpenSandbox', { image: name }],
      ['BuildImage', { image: name }],
      ['RemoveImage', { image: name }],
    ];
    for (const [method, parameters] of attempts) {
      const { reply } = await call(state, OTHER, method, parameters);
      t.is(reply.code, 'E_IMAGE_MISSING', `${method} ${name}`);
    }
  }
  const run = await call(state, USER, 'Run', { image: 'mine', argv: ['/bin/echo', 'mine'] });
  t.is(decoded(run.reply.stdout ?? ''), 'mine\n', JSON.stringify(run.reply));
  t.is((await call(state, USER, 'RemoveImage', { image: 'mine' })).reply.id, id);
  t.deepEqual(await names(USER), [image]);
});

test.serial('open sandboxes count against the limit: further ones wait, and say so', async (t) => {
  const state = t.context;
  const open = async () => (await call(state, USER, 'OpenSandbox', { image })).reply.sandbox;
  const sandboxes = [await open(), await open(), await open()];
  const { running, said } = begin(state, USER, 'Run', { image, argv: ['echo', 'x'] });
  await eventually(async () =>
    said().includes('waiting until one of your 3 sandboxes ends (users.limits.sandboxes)'),
  );
  t.false(said().includes('started'));
  const doctor = begin(state, USER, 'Doctor', { names: ['sandbox'] });
  // Another user does not wait.
  t.falsy((await call(state, OTHER, 'Run', { image, argv: ['true'] })).error);
  // What belongs to no new sandbox does not, either.
  t.is((await call(state, USER, 'ListSandboxes')).reply.sandboxes.length, SANDBOXES);
  t.is(doctor.said(), '');
  await call(state, USER, 'CloseSandbox', { sandbox: sandboxes[0] });
  t.is((await running).exitCode, 0);
  t.regex(said(), /"exitStatus":0/);
  // What the check starts has the share of one of the user's sandboxes.
  t.is((await doctor.running).exitCode, 0);
  t.regex(doctor.said(), /a sandbox was started, and ran a command: memory 256 MiB/);
  for (const sandbox of sandboxes.slice(1)) await call(state, USER, 'CloseSandbox', { sandbox });
});

/** What a program in Python prints, with `client` for kiln's client and `socket`. */
async function python(state: UserState, who: Who, text: string) {
  const client = join(state.beside, 'client/dist/kiln');
  const begin = `import base64, json, varlink
socket = "unix:${state.paths.root}/io.kiln"
client = ["${client}", "varlink"]
def connect(): return varlink.Client.new_with_bridge(client).open("io.kiln")
def code(call, **parameters):
    try:
        call(**parameters)
        return "done"
    except varlink.VarlinkError as error:
        return error.parameters()["code"]
`;
  return await state.run(who, ['/usr/bin/python3', '-c', begin + text]);
}

test.serial('another Varlink client can use the socket', async (t) => {
  const text = `
with varlink.Client(address=socket) as c, c.open("io.kiln") as kiln:
    print(base64.b64decode(kiln.Run(image="busybox", argv=["id", "-u"])["stdout"]).decode(), end="")
    for reply in kiln.Run(image="busybox", argv=["echo", "one"], _more=True):
        if reply.get("stdout"): print(base64.b64decode(reply["stdout"]).decode(), end="")
    box = kiln.OpenSandbox(image="busybox")["sandbox"]
    kiln.WriteFile(sandbox=box, path="/tmp/in", data=base64.b64encode(b"from python").decode())
    print(base64.b64decode(kiln.Execute(sandbox=box, argv=["cat", "/tmp/in"])["stdout"]).decode())
    kiln.CloseSandbox(sandbox=box)
    print(code(kiln.Run, image="busybox", argv=["true"], surroundings={"network": "host"}))
    print(code(kiln.RemoveImage, image="busybox"))
`;
  const { stdout, stderr } = await python(t.context, USER, text);
  t.is(String(stdout), '1000\none\nfrom python\nE_FORBIDDEN\nE_FORBIDDEN', String(stderr));
});

test.serial('files are copied with the caller’s rights, through kiln varlink', async (t) => {
  const { home, beside } = t.context;
  const own = (name: string, text: string) => {
    const path = join(home, name);
    writeFileSync(path, text);
    chownSync(path, USER.uid, USER.gid);
    return path;
  };
  own('in', 'mine ');
  const roots = join(beside, 'roots-own');
  writeFileSync(roots, 'secret', { mode: 0o600 });
  const others = join(beside, 'others');
  writeFileSync(others, 'secret', { mode: 0o600 });
  chownSync(others, OTHER.uid, OTHER.gid);
  const steps = [{ name: 'make', run: 'echo made >/tmp/made' }];
  own('made.yaml', JSON.stringify({ image, steps, artifacts: ['/tmp/made'] }));
  own('bad.yaml', JSON.stringify({ image, steps, sandbox: { network: 'host' } }));
  const text = `
home, roots, others = ${JSON.stringify(home)}, ${JSON.stringify(roots)}, ${JSON.stringify(others)}
with connect() as kiln:
    reply = kiln.Run(image="busybox", argv=["sh", "-c", "cat /b/in /tmp/in /run/secrets/s; id -u >/b/bound; cat /b/in >/tmp/out"],
        workdir="/tmp", surroundings={"binds": [{"source": home, "target": "/b"}], "secrets": [{"name": "s", "file": home + "/in"}]},
        copyIn=[{"source": home + "/in", "target": "/tmp/in"}], artifacts=["out"], resultDirectory=home + "/results")
    print(base64.b64decode(reply["stdout"]).decode(), reply["result"]["artifacts"])
    for bad in [roots, others, "/etc/shadow", "/proc/self/environ", "/dev/null"]:
        print(code(kiln.Run, image="busybox", argv=["cat", "/x"], surroundings={"binds": [{"source": bad, "target": "/x", "readonly": True}]}, timeout=9000) if bad.startswith(("/proc", "/dev")) else "-",
            code(kiln.Run, image="busybox", argv=["cat", "/x"], copyIn=[{"source": bad, "target": "/x"}]),
            code(kiln.Run, image="busybox", argv=["cat", "/x"], surroundings={"secrets": [{"name": "x", "file": bad}]}),
            code(kiln.Build, sources=[bad + ".src.rpm"], image="busybox", resultDirectory=home + "/results"))
    print(code(kiln.Run, image="busybox", argv=["touch", "x"], workdir="/tmp", artifacts=["x"], resultDirectory="${beside}"))
    print(code(kiln.Run, image="busybox", argv=["true"], surroundings={"capabilities": ["SYS_ADMIN"]}))
    print(code(kiln.OpenSandbox, image="busybox"), code(kiln.LockImage, recipe=home + "/x.yaml"))
    built = kiln.Build(sources=[home + "/made.yaml"], resultDirectory=home + "/made")["result"]
    print(built["exitStatus"], built["files"])
    print(code(kiln.Build, sources=[home + "/bad.yaml"], resultDirectory=home + "/bad"))
    print(code(kiln.Build, sources=[home + "/a.src.rpm", home + "/b.src.rpm"], image="busybox", resultDirectory=home + "/bad", jobs=9))
`;
  const { stdout, stderr } = await python(t.context, USER, text);
  const nothing = '- E_CALLER_FILE E_CALLER_FILE E_CALLER_FILE';
  const special = 'E_BIND E_CALLER_FILE E_CALLER_FILE E_CALLER_FILE';
  t.deepEqual(
    String(stdout).split('\n'),
    [
      ...["mine mine mine  ['out']", nothing, nothing, nothing, special, special],
      ...['E_RESULTDIR', 'E_FORBIDDEN', 'E_ARGUMENT E_CALLER_FILE', "0 ['made']"],
      ...['E_FORBIDDEN', 'E_FORBIDDEN'],
    ],
    String(stderr),
  );
  const ownerOf = (name: string) => statSync(join(home, name)).uid;
  t.deepEqual(['bound', 'results/out', 'made/made', 'made/result.json'].map(ownerOf), [
    ...[USER.uid, USER.uid, USER.uid, USER.uid],
  ]);
  t.is(readFileSync(join(home, 'results/out'), 'utf8'), 'mine ');
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('changes go into a user’s folder with that user’s rights', async (t) => {
  const { home } = t.context;
  const folder = join(home, 'checkout');
  mkdirSync(folder);
  chownSync(folder, USER.uid, USER.gid);
  const script = 'echo x >/src/new; chown 0 /src/new';
  const options = ['--user', 'root', '--keep', '--bind', `${folder}:/src:cow`];
  const words = ['run', '-r', image, ...options, '--', 'sh', '-c', script];
  const ran = await t.context.as(USER, words);
  t.is(ran.exitCode, 0, String(ran.stderr));
  const sandbox = /kept as (\w+)/.exec(String(ran.stderr))?.[1] ?? '';
  const at = { sandbox, target: '/src' };
  // On the socket nobody opens it; to another user, there is no sandbox.
  t.is((await call(t.context, USER, 'Apply', at)).reply.code, 'E_FORBIDDEN');
  t.is((await call(t.context, OTHER, 'Apply', at)).reply.code, 'E_NO_SANDBOX');
  t.is((await call(t.context, OTHER, 'Diff', { of: sandbox })).reply.code, 'E_NO_SANDBOX');
  t.deepEqual((await call(t.context, USER, 'Diff', { of: sandbox })).reply.changes, []);
  const text = `
kiln = connect()
print([c["path"] for c in kiln.Diff(of="${sandbox}", target="/src")["changes"]])
print(kiln.Apply(sandbox="${sandbox}", target="/src")["applied"])
`;
  const { stdout, stderr } = await python(t.context, USER, text);
  t.is(String(stdout), "['new']\n1", String(stderr));
  t.is(statSync(join(folder, 'new')).uid, USER.uid);
  t.is((await t.context.as(USER, ['kill', sandbox])).exitCode, 0);
});

test.serial('systemd’s client can also start kiln varlink as a program', async (t) => {
  const program = join(t.context.beside, 'kiln-varlink');
  const client = join(t.context.beside, 'client/dist/kiln');
  writeFileSync(program, `#!/bin/sh\nexec ${client} varlink <&3 >&3\n`);
  chmodSync(program, 0o755);
  const at = (method: string, parameters: object) =>
    t.context.run(USER, [
      ...['varlinkctl', '-j', 'call', `exec:${program}`, `io.kiln.${method}`],
      JSON.stringify(parameters),
    ]);
  const resultDirectory = join(t.context.home, 'systemd');
  const wanted = { workdir: '/tmp', artifacts: ['x'], resultDirectory };
  const { stdout, stderr } = await at('Run', { image, argv: ['touch', 'x'], ...wanted });
  t.deepEqual(JSON.parse(String(stdout)).result.artifacts, ['x'], String(stderr));
  t.is(statSync(join(resultDirectory, 'x')).uid, USER.uid);
  const version = await at('GetVersion', {});
  t.is(JSON.parse(String(version.stdout)).interface, 1);
});

test.serial('kiln varlink refuses to keep a sandbox, which would escape the limits', async (t) => {
  const text = 'print(code(connect().Run, image="busybox", argv=["true"], keep=60))';
  const { stdout, stderr } = await python(t.context, USER, text);
  t.is(String(stdout), 'E_FORBIDDEN', String(stderr));
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial('kiln varlink says so when kilnd does not run', async (t) => {
  const env = { ...t.context.env, KILN_FROM_SOURCE: '1' };
  const { exitCode, stderr } = await t.context.kiln(['varlink'], { env });
  t.is(exitCode, 125);
  t.regex(String(stderr), /no kilnd answers these calls/);
});

test.serial('closing a connection ends its job, whatever the transport', async (t) => {
  const text = `
import sys, time
kiln = connect()
for reply in kiln.Run(image="busybox", argv=["sleep", "100"], copyIn=[], resultDirectory="${t.context.home}/ended", _more=True):
    if reply.get("started"):
        print("started")
        sys.exit(0)
`;
  const { stdout } = await python(t.context, USER, text);
  t.is(String(stdout), 'started');
  await eventually(
    async () => (await call(t.context, USER, 'ListSandboxes')).reply.sandboxes.length === 0,
  );
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial(
  'a file that a user writes into a sandbox counts as the sandbox’s memory',
  async (t) => {
    const text = `
with varlink.Client(address=socket) as c, c.open("io.kiln") as kiln:
    of = {"memory": 48 << 20, "tmpfs": [{"target": "/mem"}]}
    box = kiln.OpenSandbox(image="busybox", surroundings=of)["sandbox"]
    piece = base64.b64encode(bytes(1 << 20)).decode()
    count = 0
    while count < 60:
        said = code(kiln.WriteFile, sandbox=box, path="/mem/x", data=piece, append=True)
        if said != "done": break
        count += 1
    print(16 < count < 48, said)
    kiln.CloseSandbox(sandbox=box)
`;
    const { stdout, stderr } = await python(t.context, USER, text);
    t.is(String(stdout), 'True E_ARGUMENT', String(stderr));
  },
);
