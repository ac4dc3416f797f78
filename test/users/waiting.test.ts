/** What one user’s image holds up and changes: nobody else’s. */
import { once } from 'node:events';
import {
  chmodSync,
  cpSync,
  createReadStream,
  mkdirSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { specText } from '../build/core/build-state.ts';
import { until } from '../support/eventually.ts';
import { startedByKiln } from '../support/processes.ts';
import { OTHER, USER, type UserState, userState, writeConfig } from '../support/second-user.ts';

interface Context extends UserState {
  readonly server: Server;
  /** The packages that the server was asked for. */
  readonly asked: string[];
  /** Has the server answer. */
  release(): void;
}

const test = anyTest as TestFn<Context>;

const KEY = join(import.meta.dirname, '../../fixtures/keys/rpm-testkey-v4-rsa4096.asc');

/** Makes a package with `kilobytes` of zeros in a repository. */
async function pack(repo: string, name: string, kilobytes = 1): Promise<void> {
  const top = join(repo, 'top');
  mkdirSync(top, { recursive: true });
  const install = `head -c ${kilobytes}K /dev/zero >%{buildroot}/usr/share/${name}/zeros`;
  const spec = join(top, 'x.spec');
  writeFileSync(spec, specText({ name, install, files: `/usr/share/${name}` }));
  const defines = [`_topdir ${top}`, `_rpmdir ${repo}`].flatMap((it) => ['--define', it]);
  await execa('rpmbuild', ['-bb', '--quiet', ...defines, spec]);
  rmSync(top, { recursive: true });
  await execa('createrepo_c', ['--quiet', repo]);
}

/** Writes a recipe of these packages into a folder that is this user's, root's by default. */
async function recipe(
  folder: string,
  repository: string,
  packages: readonly string[],
  { uid, gid } = { uid: 0, gid: 0 },
  more = '',
): Promise<string> {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, 'made.yaml');
  const text = `repositories: [{ id: own, ${repository} }]\npackages: [${packages}]\n`;
  writeFileSync(path, `${text}scriptlets: { mode: none }\nworkdir: /\n${more}`);
  await execa('chown', ['-R', `${uid}:${gid}`, folder]);
  return path;
}

function made(t: ExecutionContext, result: { exitCode?: unknown; stderr?: unknown }): void {
  t.is(result.exitCode, 0, String(result.stderr));
}

test.before(async (t) => {
  const state = await userState();
  await pack(join(state.beside, 'repo'), 'slow');
  chmodSync(join(state.beside, 'repo'), 0o700);
  const asked: string[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? '', 'http://packages.invalid');
    if (pathname.endsWith('.rpm')) {
      asked.push(pathname);
      await promise;
    }
    createReadStream(join(state.beside, 'repo', pathname)).pipe(response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  // Users reach public addresses only, and root's mirrors.
  const mirror = `{ 'http://packages.invalid/': ['http://127.0.0.1:${port}'] }`;
  writeConfig(state.config, `repositories: { mirrors: ${mirror} }\n`);
  t.context = { ...state, server, asked, release: resolve };
});

test.after.always(async ({ context }) => {
  context.release();
  context.server.close();
  await context[Symbol.asyncDispose]();
});

test.serial('a server that does not answer one user holds up nobody else', async (t) => {
  const { as, asked, beside, kiln, paths, release } = t.context;
  const repo = join(beside, 'repo');
  const url = "baseurl: 'http://packages.invalid/', gpgcheck: false";
  const theirs = await recipe(join(beside, 'theirs'), url, ['slow'], USER);
  const waiting = as(USER, ['image', 'build', theirs], { cwd: join(beside, 'theirs') });
  t.true(await until(() => asked.length > 0));
  // Root makes the very image.
  const roots = await recipe(join(beside, 'roots'), `directory: ${repo}`, ['slow']);
  const first = await kiln(['image', 'build', '--allow-host', roots]);
  made(t, first);
  // Packages are removed that no image needs, and no other.
  const needed = readdirSync(paths.packages);
  t.is(needed.length, 1);
  await pack(join(beside, 'more'), 'unneeded');
  const more = await recipe(join(beside, 'roots'), `directory: ${beside}/more`, ['unneeded']);
  const second = await kiln(['image', 'build', '--allow-host', more]);
  made(t, second);
  t.is(readdirSync(paths.packages).length, 2);
  const ids = [first, second].map(({ stdout }) => String(stdout).trim());
  made(t, await kiln(['image', 'rm', '--packages', ...ids]));
  t.deepEqual(readdirSync(paths.packages), needed);
  release();
  const late = await waiting;
  made(t, late);
  t.is(String(late.stdout).trim(), ids[0] ?? '');
});

test.serial('a user’s packages that take long to unpack hold up nobody else', async (t) => {
  const { as, beside, kiln, paths } = t.context;
  const own = join(beside, 'large');
  await pack(join(own, 'repo'), 'large', 40_000);
  const large = await recipe(own, 'directory: repo', ['large'], USER);
  const build = () => as(USER, ['image', 'build', large], { cwd: own });
  const waiting = build();
  const children = () => startedByKiln(paths.root, undefined, /rpm-unpack/);
  const stopped = new Set<number>();
  const stop = () => {
    const pids = children();
    // Not before the child itself is there, which its parent waits for.
    if (pids.length < 2) return false;
    for (const pid of pids) process.kill(pid, 'SIGSTOP');
    for (const pid of pids) stopped.add(pid);
    return true;
  };
  t.true(await until(stop));
  await pack(join(beside, 'quick'), 'quick');
  const roots = await recipe(join(beside, 'quick'), `directory: ${beside}/quick`, ['quick']);
  made(t, await kiln(['image', 'build', roots]));
  await pack(join(beside, 'other/repo'), 'other');
  const others = await recipe(join(beside, 'other'), 'directory: repo', ['other'], OTHER);
  made(t, await as(OTHER, ['image', 'build', others], { cwd: join(beside, 'other') }));
  t.true(children().some((pid) => stopped.has(pid)));
  for (const pid of stopped) process.kill(pid, 'SIGKILL');
  t.not((await waiting).exitCode, 0);
  made(t, await build());
});

test.serial('rechecking the signatures of a user’s packages holds up nobody else', async (t) => {
  const { as, beside, paths } = t.context;
  const cwd = join(beside, 'headers');
  const names = ['one', 'two', 'three'];
  for (const name of names) await pack(join(cwd, 'repo'), name);
  const unchecked = await recipe(cwd, 'directory: repo', names, USER);
  made(t, await as(USER, ['image', 'build', unchecked], { cwd }));
  cpSync(KEY, join(cwd, 'key.asc'));
  const own = 'directory: repo, gpgcheck: false, gpgkey: key.asc';
  const checked = await recipe(cwd, own, names, USER, 'environment: { CHECKED: anew }\n');
  // A child that reads headers is a process, and the one that has started it and waits for it.
  const seen = new Set<number>();
  const building = as(USER, ['image', 'build', checked], { cwd });
  let isOver = false;
  const over = building.then((result) => {
    isOver = true;
    return result;
  });
  // Without a pause: they live for some milliseconds.
  for (; !isOver; await nextTurn()) {
    for (const pid of startedByKiln(paths.root, undefined, /rpm-read/)) seen.add(pid);
  }
  made(t, await over);
  t.true(seen.size >= 2 * names.length, `${seen.size} processes`);
});
