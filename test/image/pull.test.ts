/** `kiln image pull`: what skopeo reads without a network. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState } from '../support/busybox-state.ts';

let state: BusyboxState;
let layout: string;
let digest: string;

test.before(async () => {
  state = await busyboxState();
  layout = join(state.beside, 'tools');
  const archive = join(state.beside, 'busybox.tar');
  for (const words of [
    ['export', 'busybox', '-o', archive],
    ['import', archive, '--name', 'imported'],
    ['export', 'imported', '-o', layout],
  ]) {
    const { exitCode, stderr } = await state.kiln(['image', ...words]);
    if (exitCode !== 0) throw new Error(String(stderr));
  }
  digest = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')).manifests[0].digest;
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const pull = (...words: string[]) => state.kiln(['image', 'pull', ...words]);

test.serial(
  'a layout and a folder of skopeo’s become images that are named by their digests',
  async (t) => {
    const pulled = await pull(`oci:${layout}`, '--digest', digest);
    t.is(pulled.exitCode, 0, String(pulled.stderr));
    t.true(
      String(pulled.stderr).includes(`pulled oci:${layout} (${digest})`),
      String(pulled.stderr),
    );
    const id = String(pulled.stdout);
    t.is((await state.kiln(['run', '-r', id, '-u', '1000', '--', 'id', '-u'])).stdout, '1000');
    const folder = join(state.beside, 'folder');
    await execa('skopeo', ['copy', '--quiet', `oci:${layout}`, `dir:${folder}`]);
    const named = await pull(`dir:${folder}`, '--name', 'mine');
    t.is(named.exitCode, 0, String(named.stderr));
    t.is((await state.kiln(['run', '-r', 'mine', '--', 'echo', 'runs'])).stdout, 'runs');
  },
);

test.serial('a pulled image is named after its place, not after its transport', async (t) => {
  const cwd = state.beside;
  await execa('skopeo', ['copy', '--quiet', 'oci:tools', 'oci-archive:both.tar:tag'], { cwd });
  for (const [reference, name] of [
    ['oci:tools', 'tools'],
    ['oci:tools:latest', 'tools'],
    [`oci:${layout}`, 'tools'],
    ['oci-archive:both.tar', 'both.tar'],
  ] as const) {
    const pulled = await state.kiln(['image', 'pull', reference], { cwd });
    t.is(pulled.exitCode, 0, String(pulled.stderr));
    t.regex(String(pulled.stderr), new RegExp(`^kiln: image \\w+ is called ${name}$`, 'm'));
  }
});

test.serial('another digest, a missing source and a missing transport are refused', async (t) => {
  const other = await pull(
    `oci:${layout}`,
    '--digest',
    `sha256:${'0'.repeat(64)}`,
    '--name',
    'never',
  );
  t.is(other.exitCode, 125);
  t.regex(String(other.stderr), new RegExp(`has the digest ${digest}, not sha256:0{64}`));
  t.not((await state.kiln(['run', '-r', 'never', '--', 'true'])).exitCode, 0);
  const none = await pull(`oci:${layout}-none`);
  t.is(none.exitCode, 125);
  t.regex(String(none.stderr), /kiln: skopeo: [\s\S]*no such file/);
  const bare = await pull('alpine');
  t.regex(String(bare.stderr), /hint: write docker:\/\/alpine for one of a registry/);
  const unknown = await state.kiln(['run', '-r', 'alpine', '--', 'true']);
  t.regex(String(unknown.stderr), /kiln image pull docker:\/\/alpine/);
});

/** A registry of one image, for whoever logs in. */
async function privateRegistry(user: string, password: string) {
  const wanted = `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
  const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8'));
  const blob = (name: string) => readFileSync(join(layout, 'blobs', ...name.split(':')));
  const asked: string[] = [];
  const server = createServer(({ url = '', headers }, response) => {
    if (headers.authorization !== wanted) {
      response.writeHead(401, { 'WWW-Authenticate': 'Basic realm="tests"' }).end('{}');
      return;
    }
    asked.push(url);
    const [, kind, name = ''] = /^\/v2\/tools\/(manifests|blobs)\/(.+)$/.exec(url) ?? [];
    if (kind === undefined) return void response.end('{}');
    const [{ mediaType, digest: latest }] = index.manifests;
    const named = name.startsWith('sha256:') ? name : latest;
    const type = kind === 'manifests' ? mediaType : 'application/octet-stream';
    response.writeHead(200, { 'Content-Type': type, 'Docker-Content-Digest': named });
    response.end(blob(named));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const home = join(state.beside, 'home');
  const folder = join(home, '.config/containers');
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, 'registries.conf'),
    `[[registry]]\nlocation = "${host}"\ninsecure = true\n`,
  );
  return { host, asked, home, [Symbol.dispose]: () => void server.close() };
}

test.serial('--authfile logs in to a registry, and is read as its caller opened it', async (t) => {
  using registry = await privateRegistry('seed', 'secret');
  const { host } = registry;
  // skopeo's list of registries without TLS.
  const env = { ...state.env, HOME: registry.home };
  const reference = `docker://${host}/tools:1`;
  const stranger = await state.kiln(['image', 'pull', reference], { env });
  t.is(stranger.exitCode, 125);
  t.regex(String(stranger.stderr), /skopeo: [\s\S]*\[E_PULL\]\n {2}hint: .*--authfile/);
  const login = ['login', '--authfile', 'auth.json', '--tls-verify=false', '-u', 'seed'];
  await execa('skopeo', [...login, '--password-stdin', host], {
    cwd: state.beside,
    input: 'secret',
  });
  const words = ['image', 'pull', '--authfile', 'auth.json', reference, '--name', 'private'];
  const pulled = await state.kiln(words, { env, cwd: state.beside });
  t.is(pulled.exitCode, 0, String(pulled.stderr));
  t.true(registry.asked.length > 2);
  t.regex(String(pulled.stderr), new RegExp(`pulled docker://${host}/tools@${digest}`));
  t.false(String(pulled.stderr).includes('secret'));
  t.is((await state.kiln(['run', '-r', 'private', '--', 'echo', 'runs'])).stdout, 'runs');
  const none = await state.kiln(words.with(3, 'none.json'), { env, cwd: state.beside });
  t.regex(String(none.stderr), /--authfile: .*none\.json cannot be read \[E_PULL\]/);
});
