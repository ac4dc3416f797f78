import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { KilnError } from '../../src/errors.ts';
import { Cache, publish } from '../../src/packages/repository/cache.ts';
import { fetchPackages } from '../../src/packages/repository/fetch-packages.ts';
import type { Lock } from '../../src/packages/repository/lock/lock.ts';
import type { RepositoryProgress } from '../../src/packages/repository/transport/transfer.ts';
import { MirrorServer } from './mirror-server.ts';
import { impatient, veryImpatient } from './open.ts';
import { temporaryDirectory } from './rpm-repository.ts';

/** Any bytes do: what a download is checked against is its digest. */
const CONTENT = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 7919) >> 3));
const DIGEST = createHash('sha256').update(CONTENT).digest('hex');

interface Scene extends AsyncDisposable {
  readonly server: MirrorServer;
  readonly cache: string;
  readonly root: string;
  readonly events: RepositoryProgress[];
  /** The path of the one package. */
  fetch(lock?: Lock, options?: Partial<Parameters<typeof fetchPackages>[1]>): Promise<string>;
}

async function scene(t: ExecutionContext): Promise<Scene> {
  const directory = await temporaryDirectory(t);
  const root = join(directory, 'www');
  const cache = join(directory, 'cache');
  await mkdir(join(root, 'repo'), { recursive: true });
  await writeFile(join(root, 'repo', 'thing.rpm'), CONTENT);
  const server = await MirrorServer.start(root);
  const events: RepositoryProgress[] = [];
  return {
    server,
    cache,
    root,
    events,
    async fetch(lock = lockFor([`${server.url}repo/`]), options = {}) {
      const onProgress = (event: RepositoryProgress) => events.push(event);
      const usual = { paths: { cache }, transfer: impatient, onProgress };
      const files = await fetchPackages(lock, { ...usual, ...options });
      return files.get(`sha256:${DIGEST}`) ?? '';
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

function lockFor(urls: string[], overrides: Partial<Lock['packages'][number]> = {}): Lock {
  return {
    format: 1,
    arch: 'noarch',
    requested: ['thing'],
    repositories: [{ id: 'repo', source: { kind: 'baseurl', urls }, gpgcheck: false, gpgkey: [] }],
    packages: [
      {
        nevra: 'thing-1-1.noarch',
        name: 'thing',
        epoch: 0,
        version: '1',
        release: '1',
        arch: 'noarch',
        digest: `sha256:${DIGEST}`,
        size: CONTENT.length,
        location: 'thing.rpm',
        repository: 'repo',
        ...overrides,
      },
    ],
  };
}

async function isWhole(t: ExecutionContext, path: string): Promise<void> {
  t.true((await readFile(path)).equals(CONTENT));
}

test('a host that is out of reach is named, with what to do', async (t) => {
  await using it = await scene(t);
  // RFC 2606: nobody has that name.
  const fetched = it.fetch(lockFor(['http://mirror.example.invalid/repo']));
  const error = await t.throwsAsync<KilnError>(fetched, { code: 'E_DOWNLOAD' });
  t.regex(error?.message ?? '', /mirror\.example\.invalid/);
  t.regex(error?.hint ?? '', /name server.*https_proxy/);
});

test('a package is downloaded once', async (t) => {
  await using it = await scene(t);
  const path = await it.fetch();
  await isWhole(t, path);
  t.true(path.startsWith(it.cache));
  t.is(await it.fetch(), path);
  t.deepEqual(it.server.served(), ['/repo/thing.rpm']);
  t.deepEqual(it.events.filter(({ kind }) => kind === 'packages').at(-1), {
    kind: 'packages',
    done: 1,
    count: 1,
  });
});

test('a cached file that was damaged is downloaded again', async (t) => {
  await using it = await scene(t);
  const path = await it.fetch();
  const damaged = Buffer.from(CONTENT);
  damaged[1000] = (damaged[1000] ?? 0) ^ 1;
  await writeFile(path, damaged);
  await isWhole(t, await it.fetch());
  t.is(it.server.served().length, 2);
});

test('looking for a file does not delete one that was just fetched', async (t) => {
  const directory = await temporaryDirectory(t);
  const cache = new Cache({ cache: directory });
  for (let round = 0; round < 200; round++) {
    const content = `content ${round}`;
    const digest = `sha256:${createHash('sha256').update(content).digest('hex')}`;
    const brought = join(directory, 'brought');
    await writeFile(brought, content);
    const looked = Array.from({ length: 8 }, () => cache.find(digest));
    await publish(brought, cache.object(digest));
    await Promise.all(looked);
    t.is(await cache.find(digest), cache.object(digest));
  }
});

test('a broken connection is resumed where it broke', async (t) => {
  await using it = await scene(t);
  let first = true;
  it.server.misbehave = (_, response) => {
    if (!first) return false;
    first = false;
    response.writeHead(200, { 'content-length': CONTENT.length, etag: '"x"' });
    response.write(CONTENT.subarray(0, 100_000), () => response.destroy());
    return true;
  };
  await isWhole(t, await it.fetch());
  t.is(it.server.requests[1]?.headers.range, 'bytes=100000-');
  t.is(it.server.requests[1]?.headers['if-range'], '"x"');
  t.true(it.events.some(({ kind }) => kind === 'retry'));
});

test('a download left by a killed process is resumed, unless its beginning is wrong', async (t) => {
  await using it = await scene(t);
  const partial = join(it.cache, 'partial', `sha256-${DIGEST}`);
  await mkdir(join(it.cache, 'partial'), { recursive: true });
  await writeFile(partial, CONTENT.subarray(0, 250_000));
  const path = await it.fetch();
  await isWhole(t, path);
  t.is(it.server.requests[0]?.headers.range, 'bytes=250000-');
  t.deepEqual(await readdir(join(it.cache, 'partial')), []);

  await rm(path);
  await writeFile(partial, Buffer.alloc(250_000, 1));
  await isWhole(t, await it.fetch());
  t.is(it.server.requests.at(-1)?.headers.range, undefined);

  await rm(path);
  await writeFile(partial, CONTENT);
  const before = it.server.requests.length;
  await isWhole(t, await it.fetch());
  t.is(it.server.requests.length, before);
});

test('a broken download begins anew at a server without ranges', async (t) => {
  await using it = await scene(t);
  let tries = 0;
  it.server.misbehave = (_, response) => {
    response.writeHead(200, { 'content-length': CONTENT.length });
    if (tries++ === 0) response.write(CONTENT.subarray(0, 99), () => response.destroy());
    else response.end(CONTENT);
    return true;
  };
  await isWhole(t, await it.fetch());
});

test('a range other than the requested one is rejected', async (t) => {
  await using it = await scene(t);
  await mkdir(join(it.cache, 'partial'), { recursive: true });
  await writeFile(join(it.cache, 'partial', `sha256-${DIGEST}`), CONTENT.subarray(0, 1000));
  it.server.misbehave = (request, response) => {
    if (request.headers.range === undefined) return false;
    response.writeHead(206, { 'content-range': `bytes 5-9/${CONTENT.length}` }).end('12345');
    return true;
  };
  const error = await t.throwsAsync<KilnError>(it.fetch());
  t.is(error?.code, 'E_DOWNLOAD');
});

test('a mirror that stalls, crawls or never answers is replaced by the next one', async (t) => {
  await using it = await scene(t);
  it.server.misbehave = (request, response) => {
    const mirror = request.url?.split('/')[1];
    if (mirror === 'silent') return true;
    if (mirror !== 'stall' && mirror !== 'crawl') return false;
    response.writeHead(200, { 'content-length': CONTENT.length });
    response.write(CONTENT.subarray(0, 100));
    if (mirror === 'crawl') {
      const timer = setInterval(() => response.write('x'), 20);
      response.on('close', () => clearInterval(timer));
    }
    return true;
  };
  const urls = ['stall', 'crawl', 'silent', 'repo'].map((name) => `${it.server.url}${name}/`);
  await isWhole(t, await it.fetch(lockFor(urls), { transfer: veryImpatient }));
  const reasons = it.events.flatMap((event) => (event.kind === 'retry' ? [event.reason] : []));
  t.is(reasons.length, 3);
  t.regex(reasons[0] ?? '', /stalled: nothing came/);
  t.regex(reasons[1] ?? '', /stalled: \d+ bytes\/s/);
  t.regex(reasons[2] ?? '', /no answer within 2500 ms/);
});

test('a mirror in trouble is asked again, after the time of Retry-After', async (t) => {
  await using it = await scene(t);
  let tries = 0;
  it.server.misbehave = (_, response) => {
    if (tries++ >= 2) return false;
    response.writeHead(503, { 'retry-after': '0' }).end();
    return true;
  };
  await isWhole(t, await it.fetch());
  t.deepEqual(
    it.server.requests.map(({ status }) => status),
    [503, 503, 200],
  );
});

test('a mirror without the file is asked once, and all tries are reported', async (t) => {
  await using it = await scene(t);
  const urls = ['nowhere', 'not-here-either'].map((name) => `${it.server.url}${name}`);
  const error = await t.throwsAsync<KilnError>(it.fetch(lockFor(urls)));
  t.is(error?.code, 'E_DOWNLOAD');
  t.regex(error?.message ?? '', /repository repo: thing-1-1\.noarch.*2 tries/s);
  t.regex(error?.message ?? '', /nowhere\/thing\.rpm: 404 Not Found/);
  t.is(it.server.requests.length, 2);
  const again = it.events.filter(({ kind }) => kind === 'retry');
  t.is(again.length, 1, 'after the last one there is no other try');
});

test('a file with wrong content is refused, and another mirror is asked', async (t) => {
  await using it = await scene(t);
  await mkdir(join(it.root, 'bad'));
  const other = Buffer.from(CONTENT);
  other[0] = 255;
  await writeFile(join(it.root, 'bad', 'thing.rpm'), other);
  await isWhole(t, await it.fetch(lockFor([`${it.server.url}bad`, `${it.server.url}repo`])));

  const alone = await scene(t);
  await using _alone = alone;
  await writeFile(join(alone.root, 'repo', 'thing.rpm'), other);
  const error = await t.throwsAsync<KilnError>(alone.fetch());
  t.is(error?.code, 'E_DOWNLOAD');
  t.regex(error?.message ?? '', /its sha256 is not the one it should have/);
  t.deepEqual(await readdir(alone.cache), ['partial']);
});

test('no more than the announced size is read', async (t) => {
  await using it = await scene(t);
  it.server.misbehave = (request, response) => {
    if (request.url?.startsWith('/endless')) {
      response.writeHead(200);
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536)));
        response.once('drain', more);
      };
      more();
      return true;
    }
    response.writeHead(200, { 'content-length': 2 ** 45 }).flushHeaders();
    return true;
  };
  const urls = [`${it.server.url}endless`, `${it.server.url}huge`];
  const error = await t.throwsAsync<KilnError>(it.fetch(lockFor(urls)));
  t.regex(error?.message ?? '', /longer than the 300000 bytes/);
  const partial = join(it.cache, 'partial', `sha256-${DIGEST}`);
  t.true((await stat(partial)).size <= CONTENT.length);
});

test('redirects are followed, but not for ever, nor to other protocols', async (t) => {
  await using it = await scene(t);
  let target = '/repo/thing.rpm';
  it.server.misbehave = (request, response) => {
    if (request.url?.startsWith('/repo/')) return false;
    response.writeHead(302, { location: target }).end();
    return true;
  };
  const lock = lockFor([`${it.server.url}away`]);
  await isWhole(t, await it.fetch(lock));
  for (const bad of ['/away/thing.rpm', 'file:///etc/passwd', 'ftp://127.0.0.1/x']) {
    target = bad;
    await rm(it.cache, { recursive: true });
    const error = await t.throwsAsync<KilnError>(it.fetch(lock));
    t.regex(error?.message ?? '', /redirects/, bad);
  }
});

test('a location outside the repository is refused', async (t) => {
  await using it = await scene(t);
  for (const location of ['../secret.rpm', '/etc/passwd', 'a/%2e%2e/b', 'x?y']) {
    const lock = lockFor([`${it.server.url}repo`], { location });
    t.is((await t.throwsAsync<KilnError>(it.fetch(lock)))?.code, 'E_REPOSITORY_METADATA', location);
  }
  t.is(it.server.requests.length, 0);
});

test('an absolute URL in the lock is used as it is', async (t) => {
  await using it = await scene(t);
  const lock = lockFor(['http://127.0.0.1:1/'], { location: `${it.server.url}repo/thing.rpm` });
  await isWhole(t, await it.fetch(lock));
});

test('abort ends a download at once with the reason', async (t) => {
  await using it = await scene(t);
  it.server.misbehave = () => true;
  const abort = new AbortController();
  const fetched = it.fetch(undefined, { signal: abort.signal });
  setTimeout(() => abort.abort(new Error('enough')), 50);
  await t.throwsAsync(fetched, { message: 'enough' });
});

/** Fetches a lock in a process whose proxy is the server; what it says when it fails. */
async function fetchThroughProxy(it: Scene, lock: Lock): Promise<string> {
  const script = `
    import { fetchPackages } from ${JSON.stringify(new URL('../../src/packages/repository/fetch-packages.ts', import.meta.url).href)};
    await fetchPackages(JSON.parse(process.argv[1]), { paths: { cache: process.argv[2] } });`;
  const { execa } = await import('execa');
  const args = ['--input-type=module', '-e', script, JSON.stringify(lock), it.cache];
  const { stderr } = await execa(process.execPath, args, {
    env: { http_proxy: it.server.url, no_proxy: '127.0.0.1' },
    reject: false,
  });
  return stderr;
}

test('the proxy of the environment is used', async (t) => {
  await using it = await scene(t);
  t.is(await fetchThroughProxy(it, lockFor(['http://mirror.example.invalid/repo'])), '');
  t.deepEqual(it.server.served(), ['/repo/thing.rpm']);
  t.is(it.server.requests[0]?.headers.host, 'mirror.example.invalid');
});

test('a server out there cannot send kiln to this host, by redirect or list of mirrors', async (t) => {
  await using it = await scene(t);
  // What the proxy is asked for is out there, for all that kiln can tell.
  it.server.misbehave = (request, response) => {
    if (request.headers.host !== 'mirror.example.invalid') return false;
    if (request.url?.endsWith('list')) response.end(`${it.server.url}repo/\n`);
    else response.writeHead(302, { location: `${it.server.url}repo/thing.rpm` }).end();
    return true;
  };
  const lock = lockFor(['http://mirror.example.invalid/repo']);
  t.regex(await fetchThroughProxy(it, lock), /127\.0\.0\.1 is not a public address/);
  lock.repositories[0]!.source = { kind: 'mirrorlist', url: 'http://mirror.example.invalid/list' };
  t.regex(await fetchThroughProxy(it, lock), /127\.0\.0\.1 is not a public address/);
  t.false(it.server.served().includes('/repo/thing.rpm'));
  // A server of this host's may: whoever runs kiln named it.
  const own = lockFor([]);
  own.repositories[0]!.source = { kind: 'mirrorlist', url: `${it.server.url}list` };
  it.server.misbehave = (request, response) => {
    if (request.url !== '/list') return false;
    response.end(`${it.server.url}repo/\n`);
    return true;
  };
  await isWhole(t, await it.fetch(own));
});

test('a remote repository cannot name a file of this host', async (t) => {
  await using it = await scene(t);
  const location = `file://${join(it.root, 'repo', 'thing.rpm')}`;
  const lock = lockFor([`${it.server.url}repo`], { location });
  t.is((await t.throwsAsync<KilnError>(it.fetch(lock)))?.code, 'E_REPOSITORY_METADATA');
});

test('local packages are used in place', async (t) => {
  await using it = await scene(t);
  const lock = lockFor(['http://127.0.0.1:1/']);
  const directory = join(it.root, 'repo');
  lock.repositories[0]!.source = { kind: 'directory', path: directory };
  t.is(await it.fetch(lock), join(directory, 'thing.rpm'));
  await writeFile(join(directory, 'thing.rpm'), 'changed');
  const error = await t.throwsAsync<KilnError>(it.fetch(lock));
  t.is(error?.code, 'E_PACKAGE_CHANGED');
  t.deepEqual(await readdir(join(it.cache)).catch(() => []), []);
});

test('no more files are fetched at once than parallel says', async (t) => {
  await using it = await scene(t);
  let now = 0;
  let most = 0;
  it.server.misbehave = (request, response) => {
    most = Math.max(most, ++now);
    response.on('close', () => now--);
    // Long enough for others to come meanwhile, on a busy machine, too.
    setTimeout(() => response.end(request.url), 200);
    return true;
  };
  const lock = lockFor([it.server.url]);
  const [entry] = lock.packages;
  lock.packages = Array.from({ length: 12 }, (_, index) => {
    const location = `file-${10 + index}`;
    const digest = createHash('sha256').update(`/${location}`).digest('hex');
    return { ...entry!, size: 8, location, digest: `sha256:${digest}` };
  });
  await it.fetch(lock, { transfer: { ...impatient, parallel: 3 } });
  t.is(it.server.requests.length, 12);
  t.is(most, 3);
});

test('user and password of a URL are sent, and appear in no message', async (t) => {
  await using it = await scene(t);
  const url = it.server.url.replace('http://', 'http://joe:secret@');
  await isWhole(t, await it.fetch(lockFor([`${url}repo`])));
  const basic = Buffer.from('joe:secret').toString('base64');
  t.is(it.server.requests[0]?.headers.authorization, `Basic ${basic}`);
  await rm(it.cache, { recursive: true });
  const error = await t.throwsAsync<KilnError>(it.fetch(lockFor([`${url}nowhere`])));
  t.notRegex(JSON.stringify([error?.message, error?.details, it.events]), /secret/);
});

test('an unknown authority is refused, and files without a digest never come by plain http', async (t) => {
  await using it = await scene(t);
  const { execa } = await import('execa');
  const [key, certificate] = ['key.pem', 'cert.pem'].map((name) => join(it.root, name));
  await execa('openssl', [
    ...[
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-days',
      '2',
    ],
    ...['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'],
    ...['-keyout', key!, '-out', certificate!],
  ]);
  const program = (body: string) => `
    import { readFileSync } from 'node:fs';
    import { createServer } from 'node:https';
    import { fetchPackages } from ${JSON.stringify(new URL('../../src/packages/repository/fetch-packages.ts', import.meta.url).href)};
    import { openRepositories } from ${JSON.stringify(new URL('../../src/packages/repository/open.ts', import.meta.url).href)};
    const [key, cert, plain, cache, lock] = process.argv.slice(1);
    const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => {
      response.writeHead(302, { location: plain + request.url.slice(1) }).end();
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    const url = 'https://127.0.0.1:' + server.address().port + '/repo/';
    const options = { paths: { cache }, transfer: { attempts: 1 } };
    const changed = JSON.parse(lock);
    changed.repositories[0].source.urls = [url];
    try { ${body} } catch (error) { console.log(error.message); }
    process.exit();`;
  const run = async (body: string, env: Record<string, string>) => {
    const args = [key!, certificate!, it.server.url, it.cache, JSON.stringify(lockFor(['x']))];
    const node = ['--input-type=module', '-e', program(body), ...args];
    return (await execa(process.execPath, node, { env })).stdout;
  };
  const fetching = 'console.log((await fetchPackages(changed, options)).size);';
  t.regex(await run(fetching, { NODE_EXTRA_CA_CERTS: '' }), /self-signed certificate/);
  const trusted = { NODE_EXTRA_CA_CERTS: certificate! };
  t.is(await run(fetching, trusted), '1');
  const opening = `await openRepositories([{ id: 'r', name: 'r', source: { kind: 'baseurl', urls: [url] },
    gpgcheck: false, repoGpgcheck: false, gpgkey: [], priority: 99, cost: 1000, excludepkgs: [],
    includepkgs: [], metadataExpire: 0 }], options);`;
  t.regex(await run(opening, trusted), /redirects to http:.*which is not encrypted/);
});
