import { existsSync } from 'node:fs';
import { cp, mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { processCaller } from '../../src/cli/caller/process-caller.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { openKiln } from '../support/kiln.ts';

/** What a person is told who got a command line wrong: what is wrong, and what to do. */

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** Runs kiln, and holds it to a plain refusal: its own status, the message, a hint, no stack. */
async function refused(
  t: ExecutionContext,
  args: readonly string[],
  message: RegExp,
  { hint = /./, env = state.env }: { hint?: RegExp; env?: NodeJS.ProcessEnv } = {},
): Promise<void> {
  const { exitCode, stderr } = await state.kiln(args, { env, timeout: 30_000 * PATIENCE });
  const text = String(stderr);
  const lines = text.split('\n');
  const what = `kiln ${args.join(' ')}: ${exitCode}\n${text}`;
  t.is(exitCode, 125, what);
  t.regex(lines[0] ?? '', /^kiln: .* \[E_[A-Z0-9_]+\]$/, what);
  t.regex(text, message, what);
  const hints = lines.filter((line) => line.startsWith('  hint: '));
  t.is(hints.length, 1, what);
  t.regex(hints[0] ?? '', hint, what);
  t.notRegex(text, /internal error|\n {4}at /, what);
}

const place = (...names: string[]) => join(state.paths.root, ...names);

test.serial('an output file that cannot be written is named before the work is done', async (t) => {
  const recipe = place('r.yaml');
  await writeFile(recipe, 'packages: [no-such-package]\nrepositories: []\n');
  const folder = place('folder');
  await mkdir(folder);
  const lock = (output: string) => ['image', 'lock', recipe, '-o', output];
  await refused(
    t,
    lock('/nonexistent/x.json'),
    /^kiln: you cannot use \/nonexistent\/x\.json: .*ENOENT \[E_\w+\]$/m,
  );
  await refused(t, lock(folder), /because: it is a folder/);
  await refused(t, lock('/etc/passwd/x.json'), /x\.json: ENOTDIR: not a directory/);
  for (const output of ['/etc/passwd', '/proc/kiln-test/x']) {
    await refused(
      t,
      ['image', 'export', IMAGE, '-o', output],
      RegExp(`folder ${output} cannot be used`),
    );
  }
});

test.serial('an unusable state folder is an error, not an empty state', async (t) => {
  const commands = [
    ['ps'],
    ['image', 'ls'],
    ['service', 'list'],
    ['park', '-n', '1'],
    ['gc'],
    ['events'],
  ];
  for (const command of commands) {
    for (const root of ['/etc/passwd', '/etc/passwd/x', '/proc/kiln-test']) {
      const env = { ...state.env, KILN_STATE: root };
      await refused(
        t,
        command,
        RegExp(`(?:state in|daemon of) ${root}(?:: | cannot be reached: )`),
        { env, hint: /KILN_STATE/ },
      );
    }
  }
  // One that is not there yet is empty, and looking does not make it.
  const fresh = place('a', 'b');
  const env = { ...state.env, KILN_STATE: fresh };
  const { exitCode, stdout } = await state.kiln(['ps', '--json'], { env });
  t.is(exitCode, 0);
  t.is(stdout, '[]');
  t.false(existsSync(fresh));
});

test.serial('kiln build refuses options that the given build would ignore', async (t) => {
  const recipe = place('t.yaml');
  await writeFile(recipe, 'image: busybox\nsteps: [{ run: "true" }]\n');
  const out = ['--resultdir', place('out')];
  const build = (...args: string[]) => ['build', ...out, ...args];
  const cases: readonly [string[], RegExp, RegExp][] = [
    [
      [recipe, '--verify', '--postinstall'],
      /a recipe takes no --verify, --postinstall/,
      /--verify/,
    ],
    [[recipe, '--lock', '/nonexistent'], /a recipe takes no --lock/, /for a build by a lock$/],
    [[recipe, '--cache', 'ccache'], /a recipe takes no --cache/, /a source package, a spec/],
    [[recipe, '--enable-network', '--network', 'x'], /no --enable-network, --network/, /a chain/],
    [[recipe, '-D', 'a b', '--addrepo', '/x'], /no --define, --addrepo/, /./],
    [[recipe, '--provenance-key', '/x', '--sign-key', '/x'], /no --provenance-key, --sign-k/, /./],
    [[recipe, '--param', 'a=b'], /a recipe in YAML takes no --param/, /TypeScript/],
    [
      ['x.src.rpm', '--param', 'a=b', '--bind', '/:/x'],
      /source package takes no --param, --bind/,
      /recipe/,
    ],
    [
      ['x.src.rpm', '-j', '3', '--recurse', '-c'],
      /takes no --jobs, --continue, --recurse/,
      /chain/,
    ],
    [['x.src.rpm', '--sources', '/tmp'], /a source package takes no --sources/, /a spec/],
    [['x.src.rpm', '--lock', '/x', '--update'], /a build by a lock takes no --update/, /./],
    [['--chain', '--spec', 'x.spec'], /a chain takes no --spec/, /a chain is of source packages/],
    [['--chain', 'x.src.rpm', '--verify'], /a chain takes no --verify/, /a source package/],
    [['--chain', '--spec', 'x.spec'], /a chain takes no --spec/, /a spec/],
    [
      ['--resume', 'abc', '--with', 'x', '--memory', '1G'],
      /resumed takes no --with, --memory/,
      /./,
    ],
    [['--schema', '--quiet'], /--schema takes no --resultdir, --quiet/, /./],
  ];
  for (const [args, message, hint] of cases) await refused(t, build(...args), message, { hint });
  t.false(existsSync(place('out')));
  // What the environment says for all builds is no mistake.
  const env = { ...state.env, KILN_IMAGE: IMAGE, KILN_BUILDER_ID: 'https://builder.example/1' };
  const right = await state.kiln(build(recipe), { env });
  t.is(right.exitCode, 0, String(right.stderr));
});

test('every option of kiln build applies to some kind of build', async (t) => {
  const { command } = await import('../../src/cli/rpmbuild/build.ts');
  const { refuseUnused } = await import('../../src/cli/rpmbuild/build-request.ts');
  for (const { long, attributeName } of command(processCaller).options.map((option) => ({
    long: option.long ?? '',
    attributeName: option.attributeName(),
  }))) {
    // What it is given becomes that of --bind.
    if (long === '--mount') continue;
    const it = command(processCaller);
    it.setOptionValueWithSource(attributeName, 'given', 'cli');
    const modes = ['package', 'spec', 'lock', 'resume', 'chain', 'recipe', 'schema'] as const;
    const taking = modes.filter((mode) => {
      try {
        refuseUnused(mode, it);
        return true;
      } catch (error) {
        t.true(String(error).includes(long), String(error));
        return false;
      }
    });
    t.true(taking.length > 0, long);
  }
});

test('definitions and --rpmbuild-opts are parsed as by rpm and a shell', async (t) => {
  const { command } = await import('../../src/cli/rpmbuild/build.ts');
  const it = command(processCaller);
  it.action(() => undefined);
  const opts = `--define 'a "b" c' --with\\ x "d\\"e"`;
  await it.parseAsync(['-D', '%_x  1', '--rpmbuild-opts', opts, 'x.src.rpm'], { from: 'user' });
  // The oracle: what a shell makes of it.
  const { stdout } = await execa('sh', ['-c', `printf '%s\\n' ${opts}`]);
  t.deepEqual(it.opts().rpmbuildOptions, stdout.split('\n'));
  t.deepEqual(it.opts().defines, ['_x 1']);
  const wrong = await state.kiln(['build', '-r', IMAGE, '-D', 'nospace', 'x.src.rpm']);
  t.is(wrong.exitCode, 125);
  t.regex(String(wrong.stderr), /'nospace' is invalid. write it as 'NAME VALUE'/);
});

test.serial('more parked sandboxes than fit into memory are refused', async (t) => {
  const park = ['park', '-n', '100000'];
  await refused(t, park, /no memory for 100000 parked/, {
    hint: /at most \d+ fit: kiln park -n \d+/,
  });
  const { stdout } = await state.kiln(['ps', '--json']);
  t.is(stdout, '[]');
  // The kernel's own word for what is free, before and after: other tests take and give meanwhile.
  const fitting = async () => {
    const { stdout: free } = await execa('awk', ['/^MemAvailable/{print $2}', '/proc/meminfo']);
    return (Number(free) - (512 << 10)) / (32 << 10);
  };
  const [before, most, after] = await eventually(async () => {
    const before = await fitting();
    const { stderr } = await state.kiln(park);
    const most = Number(/park -n (\d+)/.exec(String(stderr))?.[1]);
    const after = await fitting();
    return Math.abs(after - before) < 0.05 * before && ([before, most, after] as const);
  });
  const isNear = (wanted: number) => Math.abs(most - wanted) < 0.1 * wanted + 2;
  t.true(isNear(before) && isNear(after), `${most}, not ${before} to ${after}`);
});

test.serial('impossible options of a sandbox are refused', async (t) => {
  await refused(
    t,
    ['run', '--timeout', '5\nx', '--', 'true'],
    /argument '5 x' is invalid\. not a duration/,
  );
  const run = (...args: string[]) => ['run', '-r', IMAGE, ...args, '--', 'true'];
  const cases: readonly [string[], RegExp, RegExp][] = [
    [['--memory', '1'], /'--memory <size>'.*4M or more/, /--help/],
    [['--cpus', '0.001'], /'--cpus <number>'.*0\.01/, /--help/],
    [['--pids', '9999999999'], /pids\.max cannot be set/, /another value/],
    [['--hostname', 'a b'], /'--hostname <name>'.*letters/, /--help/],
    [['--hostname', 'a'.repeat(80)], /'--hostname <name>'.*63/, /--help/],
    [['--bind', '/etc/passwd:/etc:ro'], /bind \/etc\/passwd to \/etc: one is a folder/, /--bind/],
    [['--bind', '/etc:/etc/passwd:ro'], /bind \/etc to \/etc\/passwd: one is a folder/, /--bind/],
    [['--bind', '/nonexistent'], /cannot bind \/nonexistent/, /--bind SRC:DST/],
    [['--bind', '/etc:/proc:ro'], /nothing can be mounted on \/proc/, /--help/],
    [['--tmpfs', '/etc/passwd'], /tmpfs on \/etc\/passwd: there is a file/, /--tmpfs/],
    [['--tmpfs', '/'], /nothing can be mounted on \//, /--help/],
    [
      ['--disk', '0'],
      /'--disk <size>'.*'0'.*not a size: write it as 512M or 2G, not 0\./,
      /--help/,
    ],
    [['--disk', '0M'], /'--disk <size>'.*'0M'.*not a size/, /--help/],
    [['--disk', '0.0001'], /'--disk <size>'.*not a size/, /--help/],
    [['--tmpfs', '/x:0'], /'--tmpfs <dst\[:size\]>'.*not a size/, /--help/],
    [['--timeout', '0'], /'--timeout <time>'.*not a duration/, /--help/],
    [['--stall-timeout', '0ms'], /'--stall-timeout <time>'.*not a duration/, /--help/],
    [['--keep=0'], /'--keep \[time\]'.*not a duration/, /--help/],
    [['--tmpfs', '/x', '--bind', '/etc:/x:ro'], /two mounts are for \/x/, /--help/],
    [['--bind', '/etc:/x:ro', '-v', '/usr:/x:ro'], /two mounts are for \/x/, /--help/],
    [['--tmpfs', '/x', '--tmpfs', '//x/./'], /two mounts are for \/x/, /--help/],
    [['--workdir', '/nope'], /cannot enter \/nope/, /--workdir.*image’s own workdir/],
    [['--network', 'nonet'], /no network .*'nonet'/, /virsh -c '.*libvirt-sock' net-list.*engine/],
    [['--user', '99999:1'], /no user 99999:1/, /up to 65535/],
    [['--user', 'root:root'], /the group of user root:root is not a number/, /such as root:0;/],
    [['--resultdir', '/dev/null'], /folder \/dev\/null cannot be used \[E_RESULTDIR\]/, /name a/],
    [['--resultdir', '/proc/x/y'], /\/proc\/x\/y cannot be used \[E_R.*\n.*kernel’s/, /name a/],
    [['--frob'], /unknown option '--frob'/, /`kiln run --help`/],
    [['--memry', '1G'], /unknown option '--memry'/, /did you mean --memory\?/],
  ];
  for (const [args, message, hint] of cases) await refused(t, run(...args), message, { hint });
  const script = await state.kiln(['run', '-r', IMAGE, '--', '/etc/passwd']);
  t.is(script.exitCode, 126);
  t.regex(
    String(script.stderr),
    /cannot be executed: EACCES \[E_COMMAND_NOT_EXECUTABLE\]\n {2}hint: .*not a folder.*chmod \+x/,
  );
  const kept = await state.kiln(['run', '-r', IMAGE, '--keep', '5m', '--', 'true']);
  t.is(kept.exitCode, 127);
  t.regex(String(kept.stderr), /5m is taken for the command.*\n {2}hint: write --keep=5m$/m);
  for (const [word, what] of [
    ['shell', 'sandbox'],
    ['build', 'source'],
  ] as const) {
    const { exitCode, stderr } = await state.kiln([word, '-r', IMAGE, '--keep', '5m']);
    t.is(exitCode, 125);
    t.regex(
      String(stderr),
      new RegExp(`5m is taken for the ${what},.*\\n  hint: write --keep=5m$`),
    );
  }
  const nowhere = place('to-nowhere');
  await symlink('nowhere', nowhere);
  for (const unusable of ['/proc/x', nowhere, place('n'.repeat(256))]) {
    const unused = ['--resultdir', unusable, '--artifact', 'x', '--', 'echo', 'has run'];
    t.is((await state.kiln(['run', '-r', IMAGE, ...unused])).stdout, '', 'looked at before');
  }
  const recipe = place('unusable.yaml');
  await writeFile(recipe, `image: ${IMAGE}\nsteps: ['true']\n`);
  const build = ['build', recipe, '--resultdir', '/dev/null'];
  await refused(t, build, /^kiln: the result folder \/dev\/null cannot be used/);
  // No call is allowed, so that execve(2) cannot even be refused.
  const profile = place('none.json');
  const hint = RegExp(`profile ${profile} may refuse what a start takes`);
  for (const action of ['TRAP', 'ERRNO', 'KILL_PROCESS']) {
    await writeFile(profile, `{"defaultAction":"SCMP_ACT_${action}","syscalls":[]}`);
    const began = performance.now();
    await refused(t, run('--seccomp', profile), /cannot start true: start/, { hint });
    t.true(performance.now() - began < 15_000, 'it is not waited for');
  }
  const writes = { names: ['write'], action: 'SCMP_ACT_ALLOW' };
  await writeFile(profile, JSON.stringify({ defaultAction: 'SCMP_ACT_ERRNO', syscalls: [writes] }));
  await refused(t, run('--seccomp', profile), /not in force on the command/, { hint });
});

test.serial('an invalid limit is not taken for one that the host lacks', async (t) => {
  const env = { ...state.env, KILN_ALLOW_MISSING: 'pids-limit,memory-limit' };
  const run = ['run', '-r', IMAGE, '--pids', '9999999999', '--', 'true'];
  await refused(t, run, /pids\.max cannot be set/, { env });
  // The library's callers and recipes have no option that is checked before.
  await using kiln = openKiln({ env });
  const tiny = kiln.open({ image: IMAGE, limits: { memory: 1 } });
  await t.throwsAsync(tiny, { code: 'E_LIMIT', message: /less than a sandbox takes/ });
});

test.serial('missing files and names are reported', async (t) => {
  const build = (...args: string[]) => ['build', '--resultdir', place('none'), ...args];
  const cases: readonly [string[], RegExp, RegExp][] = [
    [['frobnicate'], /unknown command 'frobnicate'/, /`kiln --help`/],
    [['image', 'lss'], /unknown command 'lss'/, /did you mean ls\?/],
    // Words of podman's.
    [['images'], /unknown command 'images'/, /did you mean kiln image ls\?/],
    [['cp', 'a', 'b:c'], /b:c names no absolute path of a sandbox/, /write it as b:\/PATH/],
    [['run', '--privileged', '--', 'true'], /unknown option '--privileged'/, /--cap-add/],
    [['run', '--mount', 'type=bind'], /'type=bind' is invalid. type=bind needs target/, /--help/],
    [['run', '--mount', 'source=/a'], /it has no type: write it as type=bind/, /--help/],
    [['run', '--mount', 'type=volume,target=/a'], /there are no named volumes/, /--help/],
    [['run', '--mount=type=tmpfs,dst=/a,src=/b'], /type=tmpfs takes no source/, /--help/],
    [['run', '--mount', 'type=bind,src=/a:b,dst=/c'], /\/a:b has a colon/, /--help/],
    [['run', '--mount', 'type=bind,src=/a,dst=/c,ro=no'], /ro=no is neither true/, /--help/],
    [['build', '--mount', 'type=tmpfs,dst=/a'], /kiln build has no --tmpfs/, /--help/],
    [['shell', '--entrypoint', 'x'], /unknown option '--entrypoint'/, /an option of `kiln run`/],
    [['kill'], /say which sandbox/, /kiln ps/],
    [['kill', '--all', 'abc'], /--all takes no ids, such as abc/, /leave out/],
    [['kill', ''], /no sandbox ""/, /kiln ps/],
    [['report', '/nonexistent'], /\/nonexistent does not exist \[E_RESULT\]/, /--resultdir/],
    [['help', 'frobnicate'], /unknown command 'frobnicate'/, /`kiln --help`/],
    [['results', 'nightly', ''], /'dir'.*a path cannot be empty/, /--help/],
    [['report', ''], /'folder'.*a path cannot be empty/, /--help/],
    [['image', 'rm', ''], /there is no image ""/, /image ls/],
    [['image', 'rm', '../packages'], /there is no image \.\.\/packages/, /image ls/],
    [['image', 'build', '--update', IMAGE], /means an image itself/, /name the recipe/],
    [['image', 'lock', '/nope.yaml'], /no file \/nope\.yaml/, /\.yaml/],
    [['image', 'import', '/nope'], /cannot read \/nope/, /OCI layout/],
    [['image', 'import', '/dev/null'], /neither an archive/, /OCI layout/],
    ...['', 'A B/..', 'a\nb', '\x1b[31m', 'x.yaml'].map((name): [string[], RegExp, RegExp] => [
      ['image', 'import', '/dev/null', '--name', name],
      /'--name <name>' argument/,
      /--help/,
    ]),
    [
      ['image', 'export', IMAGE, '-o', place('x.zip')],
      /x\.zip is called like an archive/,
      /\.tar\.zst/,
    ],
    [['rpm', 'query', '--keyring', '/nope', '/x.rpm'], /the keyring \/nope cannot/, /--keyring/],
    [
      ['rpm', 'query', '--keyring', '/etc/passwd', '/x'],
      /\/etc\/passwd holds no armored/,
      /BEGIN PGP/,
    ],
    [
      build('--enable-network', '--network', 'private', '-r', 'x', 'a.src.rpm'),
      /private is/,
      /--help/,
    ],
  ];
  for (const [args, message, hint] of cases) await refused(t, args, message, { hint });
  // A build has an exit status for what is wrong with its source.
  for (const args of [['/nope.src.rpm'], ['--spec', '/nope.spec']]) {
    const { stderr } = await state.kiln(build('-r', IMAGE, ...args));
    t.regex(String(stderr), /it does not exist \[E_\w+\]\n {2}hint: give the path of a \.src\.rpm/);
  }
  const lock = await state.kiln(build('--lock', '/nope.json', 'a.src.rpm'));
  t.regex(
    String(lock.stderr),
    /cannot read the lock \/nope\.json \[E_\w+\]\n.*\n {2}hint: take the lock\.json/,
  );
  const key = await state.kiln(build('-r', IMAGE, '--sign-key', '/nope', 'a.src.rpm'));
  t.regex(
    String(key.stderr),
    /signing key \/nope cannot be read: ENOENT[^\n]*\n {2}hint: give the path/,
  );
});

test.serial('a checkout that was not built says so before it fetches anything', async (t) => {
  const top = join(import.meta.dirname, '../..');
  const checkout = place('checkout');
  await mkdir(checkout);
  await cp(join(top, 'src'), join(checkout, 'src'), { recursive: true });
  for (const name of ['node_modules', 'package.json', 'recipes']) {
    await symlink(join(top, name), join(checkout, name));
  }
  const env = { ...state.env, KILN_STATE: place('unbuilt') };
  const main = join(checkout, 'src/programs/command-line.ts');
  const recipe = ['image', 'build', 'debian-build'];
  const { exitCode, stderr } = await execa(process.execPath, [main, ...recipe], {
    env,
    reject: false,
    timeout: 60_000 * PATIENCE,
  });
  t.is(exitCode, 125);
  t.regex(
    stderr,
    /^kiln: .*(?:the guest init has not been compiled|is missing) \[E_\w+\]\n {2}hint: run `scripts\/quickstart`/m,
  );
  t.false(existsSync(place('unbuilt', 'store')));
  t.false(existsSync(place('unbuilt', 'cache')));
});

test.serial('an invalid id deletes nothing', async (t) => {
  // An empty id meant the folder of all images, and any path a folder beside it.
  const packages = join(state.paths.packages, 'x');
  await mkdir(packages, { recursive: true });
  for (const id of ['', '/', '.', '..', '../packages']) {
    await refused(t, ['image', 'rm', id], /there is no image/);
  }
  t.true(existsSync(packages));
  t.true(existsSync(join(state.paths.images, IMAGE, 'tree')));
  const { stdout } = await state.kiln(['image', 'ls']);
  t.regex(String(stdout), /busybox/);
});

test.serial('--network none means no network, as with podman', async (t) => {
  const script = ['sh', '-c', 'cat /proc/net/dev'];
  const { exitCode, stdout, stderr } = await state.kiln([
    ...['run', '-r', IMAGE, '--network', 'none', '--', ...script],
  ]);
  t.is(exitCode, 0, String(stderr));
  const names = [...String(stdout).matchAll(/^ *(\S+):/gm)].map(([, name]) => name);
  t.deepEqual(names, ['lo']);
  await refused(t, ['run', '-r', IMAGE, '--network', 'nine', '--', 'true'], /no network .*'nine'/);
});

test.serial('an unusable libvirt is refused, even if a sandbox is parked', async (t) => {
  const parked = await state.kiln(['park', '-n', '1']);
  t.is(parked.exitCode, 0, String(parked.stderr));
  for (const uri of ['xen:///system', 'lxc+ssh://host/', 'nonsense']) {
    const env = { ...state.env, KILN_URI: uri };
    await refused(t, ['run', '-r', IMAGE, '--', 'true'], /KILN_URI/, { env, hint: /KILN_URI/ });
  }
});

test.serial('kiln help COMMAND prints what COMMAND --help prints', async (t) => {
  for (const path of [['run'], ['image', 'build'], ['service', 'create'], ['mock']]) {
    const [asked, own] = await Promise.all([
      state.kiln(['help', ...path]),
      state.kiln([...path, '--help']),
    ]);
    t.is(asked.exitCode, 0);
    t.is(asked.stdout, own.stdout);
    t.true(String(asked.stdout).length > 300);
  }
});

test.serial('a refused call that programs do without is not blamed for a failure', async (t) => {
  const { mayExplainFailure } = await import('../../src/jobs/run/result.ts');
  const explains = (syscall: string, action: string) =>
    mayExplainFailure({ syscall, action, count: 1 });
  t.false(explains('io_uring_setup', 'EPERM'));
  t.false(explains('clone3', 'ENOSYS'));
  t.false(explains('anything', 'ENOSYS'));
  t.true(explains('io_uring_setup', 'KILL'));
  t.true(explains('unshare', 'EPERM'));
  // The machine's own Node, which tries io_uring, in a sandbox that refuses it.
  const binds = ['/usr', '/lib', '/lib64', dirname(process.execPath)];
  const { exitCode, stderr } = await state.kiln([
    ...['run', '-r', IMAGE, '--json', ...binds.flatMap((path) => ['--bind', `${path}:${path}:ro`])],
    ...['--', process.execPath, '-e', 'process.exit(3)'],
  ]);
  t.is(exitCode, 3, String(stderr));
  const result = JSON.parse(String(stderr).split('\n').at(-1) ?? '');
  // result.json still has it: it is what was measured.
  t.true(
    result.refusedCalls.some((call: { syscall: string }) => call.syscall === 'io_uring_setup'),
    JSON.stringify(result.refusedCalls),
  );
  t.notRegex(String(stderr), /refused system calls.*io_uring/);
});

test.serial('users other than root are told what needs root', async (t) => {
  const nobody = (args: readonly string[], env: NodeJS.ProcessEnv = state.env) =>
    execa('setpriv', ['--reuid', '65534', '--regid', '65534', '--clear-groups', KILN, ...args], {
      env,
      reject: false,
      timeout: 60_000 * PATIENCE,
    });
  // Another user may not even come to this checkout.
  if (/Permission denied/.test((await nobody(['--version'])).stderr)) {
    t.pass('the checkout is not for others');
    return;
  }
  const commands = [
    ...[['ps'], ['image', 'ls'], ['service', 'list'], ['gc'], ['kill', '--all'], ['park']],
    ...[
      ['run', '-r', IMAGE, '--', 'true'],
      ['build', '-r', IMAGE, 'x.src.rpm'],
      ['shell', 'x'],
    ],
    ...[
      ['image', 'build', 'debian-build'],
      ['service', 'create', '-r', IMAGE, 'x'],
    ],
  ];
  for (const command of commands) {
    const { exitCode, stdout, stderr } = await nobody(command);
    t.is(exitCode, 125, command.join(' '));
    t.is(stdout, '', command.join(' '));
    t.regex(
      stderr,
      /^kiln: only root and members of the group kiln can do this, and kiln runs as user 65534 \[E_NOT_ROOT\]\n {2}hint: .*sudo/,
    );
  }
  const mock = await nobody(['mock', '-r', IMAGE, '--init']);
  t.regex(mock.stderr, /ERROR: only root and members of the group kiln can do this/);
  for (const command of [
    ['--help'],
    ['--version'],
    ['version'],
    ['run', '--help'],
    ['help', 'run'],
    ['mock', '--help'],
    ['build', '--schema'],
  ]) {
    t.is((await nobody(command)).exitCode, 0, command.join(' '));
  }
  const doctor = await nobody(['doctor', '--json']);
  t.is(doctor.exitCode, 1);
  const { checks } = JSON.parse(doctor.stdout) as {
    checks: { name: string; status: string; mend?: string }[];
  };
  // Whatever fails is mended by being root, and by nothing else. (A check with isForAnybody may fail otherwise.)
  for (const { name, status, mend } of checks) {
    if (status !== 'ok') t.regex(mend ?? '', /as root/, name);
  }
  const failed = checks.filter(({ status }) => status === 'fail');
  t.deepEqual(
    failed.map(({ name }) => name),
    ['users'],
  );
});

test.serial('kiln says so on a machine without /proc', async (t) => {
  const without = (...command: string[]) =>
    execa('unshare', ['-m', 'sh', '-c', 'umount -l /proc && exec "$@"', 'sh', ...command], {
      env: state.env,
      reject: false,
      timeout: 60_000 * PATIENCE,
    });
  const main = join(import.meta.dirname, '../../src/programs/command-line.ts');
  const direct = await without(process.execPath, main, 'ps');
  t.is(
    direct.stderr,
    'kiln: /proc is not mounted [E_NO_PROC]\n  hint: mount it: mount -t proc proc /proc',
  );
  for (const command of [['ps'], ['run', '-r', IMAGE, '--', 'true']]) {
    const { exitCode, stderr } = await without(KILN, ...command);
    t.is(exitCode, 125);
    // The client, which needs it to find itself, or kiln's own check.
    t.regex(stderr, /^kiln: \/proc.*\n {2}hint: mount it: mount -t proc proc \/proc$/);
  }
  const { stdout } = await without(process.execPath, main, 'doctor', '--json');
  const { checks } = JSON.parse(stdout) as { checks: { status: string; mend?: string }[] };
  const failing = checks.filter(({ status }) => status === 'fail');
  t.true(failing.length > 1);
  for (const { mend } of failing) t.is(mend, 'mount -t proc proc /proc');
});
