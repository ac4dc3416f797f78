/** Build recipes of users’ own: whose files they read, what they may ask for, and what `$host` is. */

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { checked, tryCall } from '../../src/host/calls/system-call.ts';
import { boundsOfClient, refuseLandlock } from '../../src/users/client-process.ts';
import { eventually } from '../support/eventually.ts';
import { isLong, long } from '../support/long.ts';
import { ownSeconds } from '../support/processes.ts';
import {
  GROUP,
  leftOfJobs,
  OTHER,
  SHARED,
  USER,
  type UserState,
  userState,
  writeConfig,
} from '../support/second-user.ts';

const test = anyTest as TestFn<UserState & { readonly closed: UserState }>;
const MARK = 'nobody-but-root';

test.before(async (t) => {
  const state = await userState('  hostCommands: true\n');
  writeFileSync(join(state.beside, 'loot'), MARK, { mode: 0o600 });
  t.context = { ...state, closed: await userState() };
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
  await context.closed[Symbol.asyncDispose]();
});

let folders = 0;

/** Writes files of the user’s into a folder of its own, whose name it gives. */
function folder({ home }: UserState, files: Readonly<Record<string, string>>): string {
  const name = `recipe-${++folders}`;
  const path = join(home, name);
  mkdirSync(path);
  for (const [file, text] of Object.entries(files)) {
    writeFileSync(join(path, file), text, { mode: 0o600 });
    chownSync(join(path, file), USER.uid, USER.gid);
  }
  chownSync(path, USER.uid, USER.gid);
  return name;
}

function yaml(lines: readonly string[], steps = "['true']"): string {
  return [`image: busybox`, ...lines, `steps: ${steps}`, ''].join('\n');
}

function script(steps: string, more = ''): string {
  return `import { $host, defineRecipe } from 'kiln';
import { $ } from 'zx';
export default defineRecipe({ image: 'busybox', ${more} steps: [${steps}] });
`;
}

function succeeds(t: ExecutionContext, result: { exitCode?: unknown; stderr?: unknown }): void {
  t.is(result.exitCode, 0, String(result.stderr));
}

test.serial(
  'a recipe in YAML can use the files beside it, and its results are the user’s',
  async (t) => {
    const { as, home } = t.context;
    const lines = [
      'sources: [{ file: mine.txt }]',
      'sandbox: { workdir: /tmp }',
      'artifacts: [out]',
    ];
    const name = folder(t.context, {
      'r.yaml': yaml(lines, "['cat /sources/mine.txt >out']"),
      'mine.txt': 'mine',
    });
    const built = await as(USER, ['build', `${name}/r.yaml`, '--resultdir', `${name}/out`]);
    succeeds(t, built);
    const out = join(home, name, 'out');
    t.is(readFileSync(join(out, 'out'), 'utf8'), 'mine');
    for (const file of ['out', 'result.json', 'build.log']) {
      t.is(statSync(join(out, file)).uid, USER.uid, file);
    }
    t.notRegex(`${readFileSync(join(out, 'result.json'), 'utf8')}${built.stderr}`, /\/jobs\//);
    t.deepEqual(await leftOfJobs(t.context), []);
  },
);

long<UserState & { readonly closed: UserState }>(
  'a recipe’s log keeps within the user’s share',
  async (t) => {
    const { closed } = t.context;
    const name = folder(closed, {
      'loud.yaml': yaml([], "['yes | head -c 20m; seq 600000; exit 3']"),
    });
    writeConfig(closed.config, '  limits: { disk: 8M }\n');
    t.teardown(() => writeConfig(closed.config, ''));
    const built = await closed.as(USER, [
      'build',
      `${name}/loud.yaml`,
      '--resultdir',
      `${name}/out`,
    ]);
    t.is(built.exitCode, 3, String(built.stderr));
    const out = join(closed.home, name, 'out');
    const sizes = ['build.log', 'build.log.rest.gz'].map((file) => statSync(join(out, file)).size);
    for (const size of sizes) t.true(size > 2 ** 17 && size < 2 ** 20 + 2 ** 18, sizes.join(' '));
    t.regex(
      readFileSync(join(out, 'build.log'), 'utf8').slice(-100),
      /goes on in build.log.rest.gz/,
    );
    const { stdout: rest } = await execa('gzip', ['-dc', join(out, 'build.log.rest.gz')]);
    t.true(rest.endsWith('[kiln: the log ends here: its rest is 1.0M long]'));
  },
);

test.serial('a result folder takes one build of a user at a time', async (t) => {
  const { as, beside } = t.context;
  // Of everybody's, with recipes that everybody reads.
  const shared = join(beside, 'shared');
  mkdirSync(join(shared, 'out'), { recursive: true });
  for (const [file, text] of [
    ['slow.yaml', yaml([], "['sleep 5']")],
    ['quick.yaml', yaml([])],
  ] as const) {
    writeFileSync(join(shared, file), text);
    chmodSync(join(shared, file), 0o644);
  }
  // By another name it is the same folder.
  symlinkSync('.', join(shared, 'link'));
  chmodSync(shared, 0o755);
  chmodSync(join(shared, 'out'), 0o777);
  const build = (user: typeof USER | typeof OTHER, recipe: string, out: string) =>
    as(user, ['build', recipe, '--resultdir', out], { cwd: shared });
  const first = build(USER, 'slow.yaml', 'out');
  const jobs = join(t.context.paths.root, 'jobs');
  t.true(
    await eventually(async () => readdirSync(jobs).some((each) => each.startsWith('results-'))),
  );
  for (const out of ['out', 'link/out']) {
    const second = await build(USER, 'quick.yaml', out);
    t.is(second.exitCode, 125, String(second.stderr));
    t.regex(String(second.stderr), /another build of yours writes to [\w/]+ \[E_RESULTDIR_BUSY\]/);
  }
  t.deepEqual(readdirSync(join(shared, 'out')), []);
  // Nobody keeps another user from a folder.
  succeeds(t, await build(OTHER, 'quick.yaml', 'out'));
  for (const file of readdirSync(join(shared, 'out'))) rmSync(join(shared, 'out', file));
  succeeds(t, await first);
  succeeds(t, await build(USER, 'quick.yaml', 'link/out'));
  t.deepEqual(await leftOfJobs(t.context), []);
});

test.serial(
  'a recipe’s artifacts keep within the user’s share, including those of binds',
  async (t) => {
    const { closed } = t.context;
    const name = folder(closed, {
      'r.yaml': yaml(['artifacts: [/b/large]']),
      large: 'x'.repeat(9 << 20),
    });
    writeConfig(closed.config, '  limits: { disk: 8M }\n');
    t.teardown(() => writeConfig(closed.config, ''));
    const bind = ['--bind', `${name}:/b`, '--resultdir', `${name}/out`];
    const built = await closed.as(USER, ['build', `${name}/r.yaml`, ...bind]);
    t.is(built.exitCode, 125, String(built.stderr));
    t.regex(String(built.stderr), /E_ARTIFACT_LIMIT/);
    // It was refused where it is collected, on root's disk, not only where it comes out.
    const result = readFileSync(join(closed.home, name, 'out/result.json'), 'utf8');
    t.is(JSON.parse(result).failure.code, 'E_ARTIFACT_LIMIT');
    const ran = await closed.as(USER, [
      'run',
      '-r',
      'busybox',
      ...bind,
      '--artifact',
      '/b/large',
      '--',
      'true',
    ]);
    t.regex(String(ran.stderr), /E_ARTIFACT_LIMIT/);
  },
);

test.serial('a recipe in TypeScript can import its modules, and runs in the sandbox', async (t) => {
  const step = `async () => { await $\`echo said: \${text}\`; }`;
  const name = folder(t.context, {
    'r.ts': `import { text } from './other.ts';\n${script(step)}`,
    'other.ts': "export const text: string = 'hello';\n",
  });
  const built = await t.context.as(USER, ['build', `${name}/r.ts`, '--resultdir', `${name}/out`]);
  succeeds(t, built);
  t.regex(readFileSync(join(t.context.home, name, 'out/build.log'), 'utf8'), /said: hello/);
});

test.serial('a recipe cannot read others’ files', async (t) => {
  const { as, beside, home } = t.context;
  const loot = join(beside, 'loot');
  const name = folder(t.context, {
    'link.yaml': yaml(['sources: [{ file: link }]'], "['cat /sources/*']"),
    'up.yaml': yaml(['sources: [{ file: ../../loot }]'], "['cat /sources/*']"),
    'up.ts': `import text from '../../loot';\n${script('async () => { console.log(text); }')}`,
    'link.ts': `import text from './link.json';\n${script('async () => { console.log(text); }')}`,
  });
  for (const link of ['link', 'link.json', 'recipe.yaml'])
    symlinkSync(loot, join(home, name, link));
  for (const recipe of ['link.yaml', 'up.yaml', 'up.ts', 'link.ts', 'recipe.yaml']) {
    const argv = ['build', `${name}/${recipe}`, '--resultdir', `${name}/out`];
    const refused = await as(USER, argv);
    t.not(refused.exitCode, 0, recipe);
    t.notRegex(`${refused.stdout}${refused.stderr}`, /nobody-but-root/, recipe);
  }
  // The user’s own file elsewhere is the user’s; a recipe, which may be a stranger’s, does not get it.
  writeFileSync(join(home, 'own'), 'my-own-secret', { mode: 0o600 });
  chownSync(join(home, 'own'), USER.uid, USER.gid);
  symlinkSync('../own', join(home, name, 'own'));
  writeFileSync(
    join(home, name, 'own.yaml'),
    yaml(['sources: [{ file: own }]'], "['cat /sources/*']"),
  );
  const kept = await as(USER, ['build', `${name}/own.yaml`, '--resultdir', `${name}/out`]);
  t.not(kept.exitCode, 0);
  t.notRegex(`${kept.stdout}${kept.stderr}`, /my-own-secret/);
});

test.serial('a recipe cannot read files of kilnd’s own processes', async (t) => {
  // Somebody may bind /proc anywhere; a folder that has it shows each process itself.
  const { home } = t.context;
  const name = folder(t.context, {
    'r.yaml': yaml(['sources: [{ file: proc/self/maps, name: x }]'], "['cat /sources/x']"),
  });
  mkdirSync(join(home, name, 'proc'));
  await execa('mount', ['--bind', '/proc', join(home, name, 'proc')]);
  try {
    const refused = await t.context.as(USER, [
      'build',
      `${name}/r.yaml`,
      '--resultdir',
      `${name}/out`,
    ]);
    t.not(refused.exitCode, 0);
    t.regex(String(refused.stderr), /is not a file on a disk/);
  } finally {
    await execa('umount', [join(home, name, 'proc')]);
  }
});

test.serial(
  'a file beside a recipe that is swapped gives the user’s own file, or none',
  async (t) => {
    const { as, beside, home, run } = t.context;
    const name = folder(t.context, {
      'r.yaml': yaml(['sources: [{ file: swapped, name: x }]'], "['cat /sources/x']"),
      mine: 'mine',
    });
    const loop = `while :; do ln -sfn ${join(beside, 'loot')} swapped; ln -f mine swapped; done`;
    const swapping = run(USER, ['sh', '-c', loop], { cwd: join(home, name) });
    for (let tries = 0; tries < 6; tries++) {
      const said = await as(USER, ['build', `${name}/r.yaml`, '--resultdir', `${name}/out`]);
      t.notRegex(`${said.stdout}${said.stderr}`, /nobody-but-root/);
    }
    swapping.kill('SIGKILL');
    await swapping;
  },
);

test.serial('sources that others fetched cannot be found by their digest', async (t) => {
  const { as, kiln, beside } = t.context;
  const content = 'a source of root’s';
  const sha256 = createHash('sha256').update(content).digest('hex');
  mkdirSync(join(beside, 'roots'));
  writeFileSync(join(beside, 'roots/r.yaml'), yaml(['sources: [{ file: x }]']));
  writeFileSync(join(beside, 'roots/x'), content);
  succeeds(
    t,
    await kiln(['build', join(beside, 'roots/r.yaml'), '--resultdir', join(beside, 'roots/out')]),
  );
  const name = folder(t.context, {
    'r.yaml': yaml([`sources: [{ name: x, sha256: ${sha256} }]`], "['cat /sources/x']"),
  });
  const refused = await as(USER, ['build', `${name}/r.yaml`, '--resultdir', `${name}/out`]);
  t.not(refused.exitCode, 0);
  t.regex(String(refused.stderr), /source x is not here/);
});

test.serial('a recipe’s bind has the user’s rights, and needs the user’s permission', async (t) => {
  const { as, beside } = t.context;
  chmodSync(beside, 0o755);
  const bind = `sandbox: { bind: [{ source: ${beside}, target: /b }] }`;
  const steps = "[{ user: root, run: 'cat /b/loot || true; touch /b/new || true' }]";
  const name = folder(t.context, { 'r.yaml': yaml([bind], steps) });
  const argv = ['build', `${name}/r.yaml`, '--resultdir', `${name}/out`];
  t.regex(String((await as(USER, argv)).stderr), /--allow-host/);
  const built = await as(USER, [...argv, '--allow-host']);
  succeeds(t, built);
  t.notRegex(`${built.stdout}${built.stderr}`, /nobody-but-root/);
  t.is(statSync(join(beside, 'new'), { throwIfNoEntry: false }), undefined);
});

for (const [what, lines, expected] of [
  [
    'the host’s network',
    ['sandbox: { network: host }'],
    /sandbox\.network host is not for users: it takes/,
  ],
  ['hosts', ['sandbox: { egress: [example.org] }'], /sandbox\.egress.*users\.egress/s],
  ['nested sandboxes', ['sandbox: { profile: nested }'], /sandbox\.profile nested/],
  ['an image by path', ['image: ./x.yaml'], /the image \.\/x\.yaml/],
] as const) {
  test.serial(`a recipe that asks for ${what} is refused by name`, async (t) => {
    const text = yaml(lines).replace(
      what.includes('path') ? 'image: busybox\n' : ' ',
      what.includes('path') ? '' : ' ',
    );
    const name = folder(t.context, { 'r.yaml': text });
    const argv = ['build', `${name}/r.yaml`, '--resultdir', `${name}/out`, '--allow-host'];
    const refused = await t.context.as(USER, argv);
    t.not(refused.exitCode, 0);
    t.regex(String(refused.stderr), expected);
  });
}

test.serial('$host needs the permission of root and of the user', async (t) => {
  const files = { 'r.ts': script('async () => { await $host`id`; }') };
  for (const [state, options, expected] of [
    [t.context.closed, ['--allow-host'], /\$host is not for users: .*users\.hostCommands/],
    [t.context, [], /\$host is not allowed: .*--allow-host/],
  ] as const) {
    const name = folder(state, files);
    const argv = ['build', `${name}/r.ts`, '--resultdir', `${name}/out`, ...options];
    const refused = await state.as(USER, argv);
    t.not(refused.exitCode, 0);
    t.regex(String(refused.stderr), expected);
    t.notRegex(String(refused.stderr), /errno|undefined|node:/);
  }
});

test.serial(
  '$host has the caller’s ids, groups, folder and bounds, and nothing of kilnd’s',
  async (t) => {
    const { home } = t.context;
    const facts =
      'cat /proc/self/status /proc/self/cgroup; ulimit -n; pwd; env; ls -l /proc/self/fd';
    const step = `async () => { await $host\`sh -c \${${JSON.stringify(facts)}}\`; }`;
    const name = folder(t.context, { 'r.ts': script(step) });
    const argv = ['build', 'r.ts', '--resultdir', 'out', '--allow-host'];
    const shell = `ulimit -n 300; exec "$@"`;
    const client = join(t.context.beside, 'client/dist/kiln');
    const done = await t.context.run(USER, ['sh', '-c', shell, 'sh', client, ...argv], {
      cwd: join(home, name),
      env: { PATH: process.env.PATH, KILN_STATE: t.context.paths.root, SECRET: 'x', LANG: 'C' },
    });
    succeeds(t, done);
    const log = readFileSync(join(home, name, 'out/build.log'), 'utf8');
    t.regex(log, new RegExp(`Uid:\\s${USER.uid}\\s${USER.uid}\\s${USER.uid}\\s${USER.uid}\\n`));
    t.regex(log, new RegExp(`Gid:\\s${USER.gid}\\s${USER.gid}\\s${USER.gid}\\s${USER.gid}\\n`));
    t.regex(log, new RegExp(`Groups:\\s${GROUP} ${SHARED} *\\n`));
    t.regex(log, /NoNewPrivs:\s1\n/);
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
      t.regex(log, new RegExp(`${set}:\\s0+\\n`), set);
    const own = readFileSync('/proc/self/cgroup', 'utf8').trim();
    t.true(log.includes(own), log);
    t.regex(log, /^300$/m);
    t.true(log.includes(`\n${join(home, name)}\n`), log);
    t.regex(log, /^LANG=C$/m);
    t.notRegex(log, /SECRET|KILN_STATE|NODE_/);
    // Its pipes, and what `ls` itself opens.
    t.is(log.match(/^l[rwx-]{9}.* -> /gm)?.length, 4);
  },
);

test.serial('what a recipe passes to $host runs with the rights of the user', async (t) => {
  const { as, beside, home } = t.context;
  const evil = join(home, 'evil.sh');
  writeFileSync(evil, `id -u >>${join(home, 'ran')}\n`, { mode: 0o755 });
  const env =
    "{ LD_PRELOAD: '/tmp/none.so', BASH_ENV: '" +
    evil +
    "', ENV: '" +
    evil +
    "', PATH: '" +
    home +
    ':/usr/bin:/bin\', X: "a\'b; touch /etc/kiln-test-env" }';
  const steps = [
    `async () => { await $host({ env: ${env} })\`sh -c 'echo "$X" >said'\`; }`,
    `async () => { await $host\`printf %s \${"a'; touch /etc/kiln-test-host; 'b"} >word\`; }`,
    `async () => { await $host({ cwd: '/root' })\`ls\`.nothrow(); }`,
    `async () => { await $host\`cat ${join(beside, 'loot')}\`.nothrow(); await $host\`touch /etc/kiln-test-host\`.nothrow(); }`,
  ];
  const name = folder(t.context, { 'r.ts': script(steps.join(', ')) });
  const built = await as(USER, ['build', 'r.ts', '--resultdir', 'out', '--allow-host'], {
    cwd: join(home, name),
  });
  succeeds(t, built);
  t.is(readFileSync(join(home, name, 'said'), 'utf8'), "a'b; touch /etc/kiln-test-env\n");
  t.is(readFileSync(join(home, name, 'word'), 'utf8'), "a'; touch /etc/kiln-test-host; 'b");
  t.notRegex(readFileSync(join(home, name, 'out/build.log'), 'utf8'), /nobody-but-root/);
  for (const path of ['/etc/kiln-test-env', '/etc/kiln-test-host'])
    t.is(statSync(path, { throwIfNoEntry: false }), undefined, path);
});

test.serial('$host is refused where the caller is confined: it would be a way out', async (t) => {
  const { home, paths, run, beside } = t.context;
  const name = folder(t.context, {
    'r.ts': script('async () => { await $host`touch out-of-it`; }'),
  });
  const client = join(beside, 'client/dist/kiln');
  const argv = [client, 'build', 'r.ts', '--resultdir', 'out', '--allow-host'];
  const env = { PATH: process.env.PATH, KILN_STATE: paths.root };
  const confined = await run(USER, ['unshare', '--user', '--map-current-user', '--net', ...argv], {
    cwd: join(home, name),
    env,
  });
  t.not(confined.exitCode, 0);
  t.regex(String(confined.stderr), /namespace of its own|not served|only root/);
  t.is(statSync(join(home, name, 'out-of-it'), { throwIfNoEntry: false }), undefined);
});

const HELPER = join(import.meta.dirname, 'host-caller.py');

test.serial('$host is refused if only Landlock confines the caller', async (t) => {
  const { home, paths, run, beside } = t.context;
  const name = folder(t.context, {
    'r.ts': script('async () => { await $host`touch out-of-it`; }'),
  });
  const helper = join(home, 'helper.py');
  copyFileSync(HELPER, helper);
  chmodSync(helper, 0o755);
  const client = join(beside, 'client/dist/kiln');
  const argv = [client, 'build', 'r.ts', '--resultdir', 'out', '--allow-host'];
  mkdirSync(join(home, name, 'out'));
  chownSync(join(home, name, 'out'), USER.uid, USER.gid);
  const confined = await run(USER, ['/usr/bin/python3', helper, 'landlock', ...argv], {
    cwd: join(home, name),
    env: { PATH: process.env.PATH, KILN_STATE: paths.root },
  });
  t.not(confined.exitCode, 0);
  t.regex(String(confined.stderr), /no_new_privs/);
  // Root can confine without that.
  const user = `${USER.uid}:${USER.gid}:${GROUP}`;
  const byRoot = await execa('/usr/bin/python3', [helper, 'roots-landlock', user, ...argv], {
    ...{ cwd: join(home, name), extendEnv: false, reject: false },
    env: { PATH: process.env.PATH, KILN_STATE: paths.root },
  });
  t.not(byRoot.exitCode, 0);
  t.regex(byRoot.stderr, /may not look into other processes of its user/);
  t.is(statSync(join(home, name, 'out-of-it'), { throwIfNoEntry: false }), undefined);
});

test.serial('$host tests the caller with a process that has the caller’s bounds', async (t) => {
  const { uid, gid } = USER;
  const client = spawn('sh', ['-c', 'ulimit -n 300; echo; exec sleep 1h'], { uid, gid });
  await once(client.stdout, 'data');
  const descriptor = checked('pidfd_open', tryCall('pidfd_open', client.pid ?? 0, 0));
  t.teardown(() => {
    closeSync(descriptor);
    client.kill('SIGKILL');
  });
  const { limits, ...bounds } = boundsOfClient({ process: descriptor, uid });
  t.true(limits.includes('--nofile=300:300'));
  let seen = '';
  const asOpened = async (path: string) => {
    const of = (name: string) => readFileSync(path.replace('environ', name), 'latin1');
    seen = of('oom_score_adj') + of('limits') + of('status') + of('stat');
    return openSync(path, 'r');
  };
  const user = { ...{ uid, gid, groups: [GROUP] }, files: { asOpened } };
  await refuseLandlock(user, { ...bounds, limits, oomScore: '777' });
  t.regex(seen, /^777$/m);
  t.regex(seen, /^Max open files +300 +300 /m);
  t.regex(seen, new RegExp(`^Uid:\\s${uid}\\s${uid}\\s${uid}\\s${uid}$`, 'm'));
  // Process, parent, group and session.
  t.regex(seen, /^(\d+) \(sh\) \S \d+ \1 \1 /m);
  const silent = { ...user, files: { asOpened: () => new Promise<number>(() => undefined) } };
  if (isLong) {
    const refusal = refuseLandlock(silent, { ...bounds, limits });
    await t.throwsAsync(refusal, { code: 'E_FORBIDDEN', message: /it does not answer/ });
  }
});

test.serial('$host does not mistake a process for the caller that got its pid', async (t) => {
  const { uid, gid } = USER;
  const first = spawn('sleep', ['1h'], { uid, gid });
  await once(first, 'spawn');
  const pid = first.pid ?? 0;
  const descriptor = checked('pidfd_open', tryCall('pidfd_open', pid, 0));
  t.teardown(() => closeSync(descriptor));
  t.truthy(boundsOfClient({ process: descriptor, uid }).oomScore);
  first.kill('SIGKILL');
  await once(first, 'exit');
  const numbered = [HELPER, 'numbered', String(pid), String(uid), 'sleep', '1h'];
  await execa('/usr/bin/python3', numbered, { stdio: 'ignore' });
  t.teardown(() => process.kill(pid, 'SIGKILL'));
  const second = checked('pidfd_open', tryCall('pidfd_open', pid, 0));
  t.teardown(() => closeSync(second));
  t.truthy(await eventually(async () => boundsOfClient({ process: second, uid })));
  t.throws(() => boundsOfClient({ process: descriptor, uid }), { message: /it is gone/ });
});

test.serial('$host has a keyring of its own', async (t) => {
  const { as, home } = t.context;
  const helper = join(home, 'key.py');
  copyFileSync(HELPER, helper);
  chmodSync(helper, 0o755);
  const step = `async () => { await $host\`/usr/bin/python3 ${helper} key kiln-test\`; }`;
  const name = folder(t.context, { 'r.ts': script(step) });
  for (const out of ['first', 'second']) {
    const argv = ['build', 'r.ts', '--resultdir', out, '--allow-host'];
    succeeds(t, await as(USER, argv, { cwd: join(home, name) }));
    t.regex(readFileSync(join(home, name, out, 'build.log'), 'utf8'), /^none$/m);
  }
});

test.serial('commands of $host end with the recipe', async (t) => {
  const { as, home, run } = t.context;
  const line = `sleep ${ownSeconds()}`;
  const name = folder(t.context, {
    'r.ts': script(`async () => { await $host\`${line}\`; }`, "sandbox: { timeout: '3s' },"),
  });
  const built = await as(USER, ['build', 'r.ts', '--resultdir', 'out', '--allow-host'], {
    cwd: join(home, name),
  });
  t.is(built.exitCode, 124, String(built.stderr));
  const sleeps = async () => (await run(USER, ['pgrep', '-f', line])).exitCode === 0;
  t.true(await eventually(async () => !(await sleeps())));
});
