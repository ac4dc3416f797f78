/** A name never means a file of the working directory, whatever takes it: each file that lies there is a decoy. */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { IMAGE, KILN } from '../support/busybox-state.ts';
import { type UserState, userState } from '../support/second-user.ts';
import { ownRepository } from '../users/own-package.ts';

interface Context extends UserState {
  /** Where root works, among decoys. */
  readonly cwd: string;
  /** Root's folder of recipes. */
  readonly recipes: string;
}

const test = anyTest as TestFn<Context>;
const TOP = join(import.meta.dirname, '../..');
const MOCK = join(TOP, 'bin/kiln-mock');
const DECOY = 'this-is-the-decoy';

/** A recipe that is made in a second, and says in /etc/who whose it is. */
function recipe({ beside }: Pick<Context, 'beside'>, who: string): string {
  const directory = who === DECOY ? 'repo' : `${beside}/repo`;
  return `repositories: [{ id: own, directory: ${directory} }]
packages: [tiny]
scriptlets: { mode: none }
workdir: /
files: [{ path: /etc/who, content: ${who} }]
`;
}

const WHO = ['--', '/bin/busybox', 'cat', '/etc/who'];

test.before(async (t) => {
  const state = await userState();
  const root = { uid: 0, gid: 0 };
  const install = 'mkdir -p %{buildroot}/bin; cp /bin/busybox %{buildroot}/bin/';
  const parts = { name: 'tiny', preamble: 'AutoReqProv: no', install, files: '/bin/busybox' };
  await ownRepository(join(state.beside, 'repo'), parts, root);
  const recipes = join(state.beside, 'recipes');
  mkdirSync(recipes);
  writeFileSync(join(recipes, 'site.yaml'), recipe(state, 'root'));
  const cwd = join(state.beside, 'cwd');
  const names = ['busybox', 'site', 'debian-minimal', 'default', 'zlib', IMAGE, IMAGE.slice(0, 8)];
  for (const folder of ['', 'recipes/images', 'recipes/builds']) {
    mkdirSync(join(cwd, folder), { recursive: true });
    cpSync(join(state.beside, 'repo'), join(cwd, folder, 'repo'), { recursive: true });
    for (const name of names) {
      const path = join(cwd, folder, `${name}.yaml`);
      writeFileSync(path, recipe(state, DECOY));
    }
  }
  for (const name of ['recipes/builds/zlib', 'zlib']) {
    const text = `image: busybox\nsteps: ['echo ${DECOY}']\n`;
    for (const ending of ['yaml', 'yml', 'ts']) writeFileSync(join(cwd, `${name}.${ending}`), text);
  }
  // A profile that lets everything pass.
  for (const name of ['mine', 'strict', 'nested'])
    writeFileSync(
      join(cwd, name),
      JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [] }),
    );
  for (const name of ['default', 'site']) writeFileSync(join(cwd, `${name}.cfg`), `${DECOY}\n`);
  t.context = { ...state, cwd, recipes };
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

/** Nothing of a decoy was said, and no image is made of one. */
async function noDecoy(t: ExecutionContext<Context>, ended: object, what: string) {
  const { paths, cwd } = t.context;
  const { stdout, stderr } = ended as { stdout?: unknown; stderr?: unknown };
  const decoys = new RegExp(`${DECOY}|${cwd}/(?:recipes|[^ ]*\\.(?:yaml|cfg|ts))`);
  t.notRegex(`${stdout}${stderr}`, decoys, what);
  const { stdout: found } = await execa('grep', ['-rl', DECOY, paths.images], { reject: false });
  t.is(found, '', what);
}

test.serial('a stored image is found by its name, its id and a prefix of its id', async (t) => {
  const { kiln, cwd } = t.context;
  for (const name of ['busybox', IMAGE, IMAGE.slice(0, 8)]) {
    const ran = await kiln(['run', '-r', name, '--', 'echo', '$FROM_IMAGE'], { cwd });
    t.is(ran.exitCode, 0, String(ran.stderr));
    await noDecoy(t, ran, name);
    const shell = await kiln(['shell', '-r', name], { cwd, stdin: 'pipe', input: 'echo in-it\n' });
    t.is(shell.stdout, 'in-it', String(shell.stderr));
    await noDecoy(t, shell, name);
    const built = await kiln(['image', 'build', name], { cwd });
    t.is(built.stdout, IMAGE, String(built.stderr));
    await noDecoy(t, built, name);
  }
  const none = await kiln(['run', '-r', '0'.repeat(64), '--', 'true'], { cwd });
  t.regex(String(none.stderr), /there is no image .*0000 \[E_IMAGE_MISSING\]/);
});

test.serial('no command takes the name of an image for a file', async (t) => {
  const { kiln, cwd, env, beside } = t.context;
  const hook = (image: string) => {
    const container = { image, systemMountVolumes: [] };
    const responseFile = join(beside, 'response.json');
    const request = { command: 'prepare_job', responseFile, args: { container } };
    return ['ci', 'github-hook', '--allow-image', image, JSON.stringify(request)] as const;
  };
  const config = join(beside, 'config');
  mkdirSync(config);
  for (const name of ['busybox', 'site', IMAGE]) {
    writeFileSync(join(config, 'kiln.yaml'), `defaults: { image: ${name} }\n`);
    const calls: readonly (readonly [string, Promise<object>])[] = [
      ['run', kiln(['run', '-r', name, ...WHO], { cwd })],
      ['KILN_IMAGE', kiln(['run', ...WHO], { cwd, env: { ...env, KILN_IMAGE: name } })],
      ['kiln.yaml', kiln(['run', ...WHO], { cwd, env: { ...env, XDG_CONFIG_HOME: config } })],
      ['build', kiln(['build', '-r', name, 'x.src.rpm'], { cwd })],
      ['build --spec', kiln(['build', '-r', name, '--spec', 'x.spec'], { cwd })],
      ['chain', kiln(['build', '--chain', '-r', name, 'x.src.rpm'], { cwd })],
      ['image export', kiln(['image', 'export', name, '-o', join(beside, 'x.tar')], { cwd })],
      [
        'service',
        kiln(['service', 'create', '-r', name, `s-${name.slice(0, 9)}`, '--', 'true'], { cwd }),
      ],
      ['mock', execa(MOCK, ['-r', name, '--init'], { cwd, env, reject: false, stdin: 'ignore' })],
    ];
    for (const [what, call] of calls) await noDecoy(t, await call, `${what} ${name}`);
    const upgraded = await kiln(['service', 'upgrade', `s-${name.slice(0, 9)}`], { cwd });
    await noDecoy(t, upgraded, `upgrade ${name}`);
    const [input, ...words] = [...hook(name)].reverse();
    const hooked = await kiln(words.reverse(), { cwd, stdin: 'pipe', input: `${input}\n` });
    await noDecoy(t, hooked, `github-hook ${name}`);
  }
  await kiln(['kill', '--all']);
});

test.serial('an assistant’s call does not take an image’s name for a file', async (t) => {
  const { cwd, env } = t.context;
  const plain = Object.entries(env).filter(
    (pair): pair is [string, string] => pair[1] !== undefined,
  );
  for (const name of ['busybox', 'site']) {
    const client = new Client({ name: 'test', version: '1' });
    const args = ['mcp', '-r', name];
    const transport = new StdioClientTransport({
      command: KILN,
      args,
      env: Object.fromEntries(plain),
      cwd,
    });
    t.teardown(() => client.close());
    await client.connect(transport);
    for (const image of [undefined, 'busybox', 'debian-minimal']) {
      const command = 'busybox cat /etc/who';
      const given = { command, ...(image === undefined ? {} : { image }) };
      const { content } = await client.callTool({ name: 'run_command', arguments: given });
      await noDecoy(t, { stdout: JSON.stringify(content) }, `${name} ${image}`);
    }
  }
});

test.serial('a build recipe’s name means one that comes with kiln', async (t) => {
  const { kiln, cwd, beside } = t.context;
  const out = join(beside, 'out');
  const built = await kiln(['build', 'zlib', '--offline', '--resultdir', out], { cwd });
  t.not(built.exitCode, 0);
  await noDecoy(t, built, 'zlib');
  const none = await kiln(['build', 'busybox', '--resultdir', out], { cwd });
  t.regex(String(none.stderr), /there is no build recipe busybox \[E_RECIPE_MISSING\]/);
  await noDecoy(t, none, 'busybox');
  // The image that a recipe names is no file of the working directory, either: a path is relative to the recipe.
  const elsewhere = join(beside, 'elsewhere');
  mkdirSync(elsewhere);
  writeFileSync(join(elsewhere, 'it.yaml'), "image: site.yaml\nsteps: ['true']\n");
  const words = ['build', join(elsewhere, 'it.yaml'), '--allow-host', '--resultdir', out];
  const ran = await kiln(words, { cwd });
  t.regex(String(ran.stderr), /there is no file \S+elsewhere\/site\.yaml/);
  await noDecoy(t, ran, 'image of a recipe');
});

test.serial('the name of a seccomp profile never means a file', async (t) => {
  const { kiln, cwd } = t.context;
  const ran = await kiln(['run', '-r', 'busybox', '--seccomp', 'mine', '--', 'true'], { cwd });
  t.regex(String(ran.stderr), /there is no seccomp profile mine \[E_SECCOMP_PROFILE\]\n.*\.\/mine/);
  const own = await kiln(['run', '-r', 'busybox', '--seccomp', './mine', '--', 'true'], { cwd });
  t.is(own.exitCode, 0, String(own.stderr));
  const strict = ['run', '-r', 'busybox', '--seccomp', 'strict', '--', 'busybox', 'nc', '-l'];
  t.not((await kiln(strict, { cwd })).exitCode, 0);
});

test.serial('names in recipes, services and completions never mean files', async (t) => {
  const { kiln, cwd, beside, recipes } = t.context;
  writeFileSync(join(beside, 'child.yaml'), 'extends: site\nenvironment: { CHILD: yes }\n');
  const child = await kiln(['run', '-r', join(beside, 'child.yaml'), ...WHO], { cwd });
  t.is(child.stdout, 'root', String(child.stderr));
  await noDecoy(t, child, 'extends');
  const { stdout } = await kiln(['complete', 'recipe'], { cwd });
  t.regex(String(stdout), /^site\trecipe$/m);
  t.notRegex(String(stdout), /^(?:zlib|default|busybox)\t/m);
  // One word once, though a recipe and its image have the name.
  const { stdout: images } = await kiln(['complete', 'image'], { cwd });
  t.regex(String(images), /^site\timage site$/m);
  t.notRegex(String(images), /^(?:site|zlib|default)\trecipe$/m);
  // A service that was restored, or is written by hand.
  const { paths } = t.context;
  const made = await kiln(['service', 'create', '-r', 'busybox', 'by-hand', '--', 'true'], { cwd });
  t.is(made.exitCode, 0, String(made.stderr));
  const file = join(paths.services, 'by-hand/service.yaml');
  writeFileSync(file, readFileSync(file, 'utf8').replace('image: busybox', 'image: site.yaml'));
  const upgraded = await kiln(['service', 'upgrade', 'by-hand'], { cwd });
  t.regex(String(upgraded.stderr), /there is no file \S+by-hand\/site\.yaml/);
  await noDecoy(t, upgraded, 'service');
  t.true(existsSync(recipes));
});

test.serial('a path means a file, and kiln says what an image is made from', async (t) => {
  const { kiln, cwd, recipes } = t.context;
  for (const word of ['./site.yaml', 'site.yaml']) {
    const ran = await kiln(['run', '-r', word, ...WHO], { cwd });
    t.is(ran.stdout, DECOY, String(ran.stderr));
  }
  const { stdout: id } = await kiln(['image', 'build', 'site.yaml'], { cwd });
  t.is((await kiln(['image', 'rm', String(id)])).exitCode, 0);
  const again = await kiln(['image', 'build', './site.yaml'], { cwd });
  t.regex(String(again.stderr), new RegExp(`^kiln: making an image from ${cwd}/site\\.yaml;`, 'm'));
  t.is((await kiln(['image', 'rm', String(id)])).exitCode, 0);
  const file = join(recipes, 'fresh.yaml');
  t.teardown(() => rmSync(file));
  writeFileSync(file, recipe(t.context, 'fresh'));
  const made = await kiln(['run', '-r', 'fresh', ...WHO], { cwd });
  t.is(made.stdout, 'fresh');
  t.regex(String(made.stderr), new RegExp(`^kiln: making fresh from ${file}$`, 'm'));
  const known = await kiln(['run', '-r', 'fresh', ...WHO], { cwd });
  t.notRegex(String(known.stderr), /making/);
});

test.serial('root’s folder of recipes counts only if nobody else can write to it', async (t) => {
  const { kiln, recipes, beside } = t.context;
  const file = join(recipes, 'site.yaml');
  const loose = async (path: string, mode: number, back: number) => {
    chmodSync(path, mode);
    const ran = await kiln(['run', '-r', 'site', ...WHO]);
    t.regex(
      String(ran.stderr),
      new RegExp(`${file} is not used: others than root can write ${path} \\[`),
      path,
    );
    t.regex(String(ran.stderr), /E_RECIPE_READ/);
    // It is no reason to refuse what lies elsewhere.
    t.is((await kiln(['run', '-r', 'busybox', '--', 'true'])).exitCode, 0);
    chmodSync(path, back);
  };
  await loose(file, 0o666, 0o644);
  await loose(recipes, 0o775, 0o755);
  await loose(beside, 0o757, 0o755);
  await execa('chown', ['61001', file]);
  t.regex(
    String((await kiln(['run', '-r', 'site', ...WHO])).stderr),
    /is not used: others than root/,
  );
  await execa('chown', ['0', file]);
  writeFileSync(join(beside, 'aside.yaml'), recipe(t.context, 'aside'));
  symlinkSync(join(beside, 'aside.yaml'), join(recipes, 'linked.yaml'));
  const linked = await kiln(['run', '-r', 'linked', ...WHO]);
  t.regex(String(linked.stderr), /linked\.yaml is not used: \S+ is a link/);
  rmSync(join(recipes, 'linked.yaml'));
  t.is((await kiln(['run', '-r', 'site', ...WHO])).stdout, 'root');
  t.deepEqual(readdirSync(dirname(file)), ['site.yaml']);
});

test.serial('root’s recipe replaces one that comes with kiln, and may extend it', async (t) => {
  const { kiln, recipes, cwd } = t.context;
  const file = join(recipes, 'debian-minimal.yaml');
  t.teardown(() => rmSync(file));
  writeFileSync(file, recipe(t.context, 'instead'));
  const ran = await kiln(['run', '-r', 'debian-minimal', ...WHO], { cwd });
  t.is(ran.stdout, 'instead', String(ran.stderr));
  writeFileSync(file, 'extends: debian-minimal\npackages: [no-such-package]\n');
  const extended = await kiln(['image', 'build', 'debian-minimal'], { cwd });
  // The one that comes with kiln names the repository.
  t.regex(String(extended.stderr), /no-such-package|repository debian/);
  t.notRegex(String(extended.stderr), /extends itself/);
});
