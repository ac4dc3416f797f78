/** Logging in at a repository's server: to whom it goes, and that it is written nowhere. */
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { inspect } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import type { KilnError } from '../../src/errors.ts';
import type { RepositoryInput } from '../../src/packages/repository/configuration-schema.ts';
import { fetchPackages } from '../../src/packages/repository/fetch-packages.ts';
import { lockSchema } from '../../src/packages/repository/lock/lock.ts';
import { MirrorServer } from './mirror-server.ts';
import { impatient, lockOf, nevras, repository } from './open.ts';
import { buildPackages, createRepository, temporaryDirectory } from './rpm-repository.ts';

const SECRET = 'pa:ss w0rd-äöü';
const BASIC = `Basic ${Buffer.from(`joe:${SECRET}`).toString('base64')}`;

async function scene(t: ExecutionContext) {
  const directory = await temporaryDirectory(t);
  const rpms = join(directory, 'rpms');
  await buildPackages(rpms, [{ name: 'one' }, { name: 'two' }]);
  await createRepository(rpms);
  const server = await MirrorServer.start(rpms);
  t.teardown(() => server[Symbol.asyncDispose]());
  return { directory, rpms, server, cache: join(directory, 'cache') };
}

/** Answers 401 to everything without this header. */
function demand(server: MirrorServer, authorization: string): void {
  server.misbehave = (request, response) => {
    if (request.headers.authorization === authorization) return false;
    response.writeHead(401).end('who are you?');
    return true;
  };
}

const WAYS: Record<
  string,
  (directory: string, url: string) => Promise<[Partial<RepositoryInput>, string]>
> = {
  'username and password': async (_, url) => [
    { baseurl: url, username: 'joe', password: SECRET },
    BASIC,
  ],
  'a password in a file': async (directory, url) => {
    const file = join(directory, 'password');
    await writeFile(file, `${SECRET}\nignored\n`);
    return [{ baseurl: url, username: 'joe', password_file: file }, BASIC];
  },
  'a token in a file': async (directory, url) => {
    const file = join(directory, 'token');
    await writeFile(file, 'tok3n\n');
    return [{ baseurl: url, token_file: file }, 'Bearer tok3n'];
  },
  'both in the URL': async (_, url) => {
    const written = url.replace('http://', `http://joe:${encodeURIComponent(SECRET)}@`);
    return [{ baseurl: written }, BASIC];
  },
};
for (const [title, make] of Object.entries(WAYS)) {
  test.serial(`${title}: metadata and packages arrive, and no login is written`, async (t) => {
    const { directory, server, cache } = await scene(t);
    const [options, header] = await make(directory, server.url);
    demand(server, header);
    const config = repository({ id: 'closed', gpgcheck: false, ...options });
    const lock = await lockOf([config], cache, { install: ['one'] });
    await fetchPackages(lock, { paths: { cache }, transfer: impatient });
    t.true(server.requests.every(({ headers }) => headers.authorization === header));
    // From the cache of answers, too.
    const again = await lockOf([config], cache, { install: ['one'] });
    const other = join(directory, 'other');
    await fetchPackages(again, { paths: { cache: other }, transfer: impatient });

    const written = [
      JSON.stringify(lock),
      JSON.stringify([lock, config]),
      inspect([lock, config], { depth: 9 }),
    ];
    for (const text of [...written, ...(await filesBelow(cache))]) {
      for (const secret of [
        SECRET,
        encodeURIComponent(SECRET),
        'joe',
        'tok3n',
        header.split(' ')[1]!,
      ]) {
        t.false(text.includes(secret), secret);
      }
    }
    // A lock alone cannot log in, and says what to do.
    const alone = lockSchema.parse({ ...lock, access: undefined });
    const error = await t.throwsAsync<KilnError>(
      fetchPackages(alone, { paths: { cache: join(directory, 'third') }, transfer: impatient }),
    );
    t.regex(error?.message ?? '', /401/);
    t.regex(error?.hint ?? '', /password_file/);
  });
}

async function filesBelow(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  return await Promise.all(
    files.map(
      async (entry) =>
        `${entry.name} ${await readFile(join(entry.parentPath, entry.name), 'latin1')}`,
    ),
  );
}

test.serial('the error of a wrong login has neither name nor password', async (t) => {
  const { server, cache } = await scene(t);
  demand(server, 'another');
  const config = repository({
    ...{ id: 'closed', gpgcheck: false, baseurl: server.url },
    ...{ username: 'joe', password: SECRET },
  });
  const error = await t.throwsAsync<KilnError>(lockOf([config], cache, { install: ['one'] }));
  t.is(error?.code, 'E_DOWNLOAD');
  t.regex(error?.hint ?? '', /does not take this login/);
  const said = inspect(error, { depth: 9 }) + JSON.stringify(error?.details);
  t.false(said.includes(SECRET) || said.includes('joe'));
});

test.serial('a login goes to no other host: not by redirects, not by absolute URLs', async (t) => {
  const { rpms, server, cache } = await scene(t);
  const other = await MirrorServer.start(rpms);
  t.teardown(() => other[Symbol.asyncDispose]());
  server.misbehave = (request, response) => {
    if (!request.url?.includes('one-1')) return false;
    response.writeHead(302, { location: `${other.url}${request.url.slice(1)}` }).end();
    return true;
  };
  const config = repository({
    ...{ id: 'closed', gpgcheck: false, baseurl: server.url },
    ...{ username: 'joe', password: SECRET },
  });
  const lock = await lockOf([config], cache, { install: ['one', 'two'] });
  const moved = lock.packages.map((entry) =>
    entry.name === 'two' ? { ...entry, location: `${other.url}${entry.location}` } : entry,
  );
  await fetchPackages({ ...lock, packages: moved }, { paths: { cache }, transfer: impatient });
  t.is(other.served().length, 2);
  t.true(other.requests.every(({ headers }) => headers.authorization === undefined));
});

test.serial('the client shows its own certificate, and trusts the named authority', async (t) => {
  const { directory, rpms, cache } = await scene(t);
  const pki = join(directory, 'pki');
  await mkdir(pki);
  const openssl = (...args: string[]) => execa('openssl', args, { cwd: pki });
  const subject = ['-nodes', '-newkey', 'rsa:2048', '-days', '2', '-x509'];
  for (const name of ['server', 'client']) {
    const names = name === 'server' ? ['-addext', 'subjectAltName=IP:127.0.0.1'] : [];
    await openssl(
      'req',
      ...subject,
      ...names,
      '-subj',
      `/CN=${name}`,
      '-keyout',
      `${name}.key`,
      '-out',
      `${name}.crt`,
    );
  }
  const read = (name: string) => readFile(join(pki, name));
  const backend = await MirrorServer.start(rpms);
  t.teardown(() => backend[Symbol.asyncDispose]());
  const server = createTlsServer(
    {
      ...{ cert: await read('server.crt'), key: await read('server.key') },
      ...{ ca: await read('client.crt'), requestCert: true, rejectUnauthorized: true },
    },
    (request, response) => {
      void fetch(`${backend.url}${request.url?.slice(1)}`).then(async (answer) => {
        response.writeHead(answer.status).end(Buffer.from(await answer.arrayBuffer()));
      });
    },
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const baseurl = `https://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const files = {
    sslclientcert: join(pki, 'client.crt'),
    sslclientkey: join(pki, 'client.key'),
    sslcacert: join(pki, 'server.crt'),
  };
  let asked = 0;
  const plain = { id: 'tls', gpgcheck: false, baseurl };
  const ask = (more: Partial<RepositoryInput>) =>
    lockOf([repository({ ...plain, ...more })], join(cache, String(++asked)), {
      install: ['one'],
    });
  const lock = await ask(files);
  t.deepEqual(nevras(lock), ['one-1-1.noarch']);
  await fetchPackages(lock, { paths: { cache }, transfer: impatient });
  t.false(JSON.stringify(lock).includes('client'));
  const { sslcacert: _, ...untrusting } = files;
  const unknown = await t.throwsAsync<KilnError>(ask(untrusting));
  t.regex(unknown?.message ?? '', /self.signed certificate/);
  t.deepEqual(nevras(await ask({ ...untrusting, sslverify: false })), ['one-1-1.noarch']);
  const nobody = await t.throwsAsync<KilnError>(ask({ sslcacert: files.sslcacert }));
  t.is(nobody?.code, 'E_DOWNLOAD');
  const missing = await t.throwsAsync<KilnError>(ask({ ...files, sslclientcert: '/nowhere' }));
  t.is(missing?.code, 'E_REPOSITORY_ACCESS');
  t.regex(missing?.message ?? '', /repository tls: sslclientcert \/nowhere cannot be read/);
});

test('settings that cannot be meant are refused', async (t) => {
  const directory = await temporaryDirectory(t);
  const empty = join(directory, 'empty');
  await writeFile(empty, '\nsecond line\n');
  await chmod(empty, 0o600);
  const base = { id: 'x', gpgcheck: false, baseurl: 'https://example.invalid/' };
  const bad: [Partial<RepositoryInput>, RegExp][] = [
    [{ password: 'x' }, /password needs username/],
    [{ username: 'a', password: 'x', password_file: '/x' }, /one too many/],
    [{ username: 'a', token_file: '/x' }, /a token stands alone/],
    [{ sslclientkey: '/x' }, /sslclientkey needs sslclientcert/],
  ];
  for (const [options, message] of bad) {
    t.throws(() => repository({ ...base, ...options }), { message });
  }
  t.throws(() => repository({ id: 'x', directory, username: 'a', password: 'b' }), {
    message: /a folder of this host has no login/,
  });
  const error = await t.throwsAsync<KilnError>(
    lockOf([repository({ ...base, token_file: empty })], join(directory, 'cache'), {
      install: ['one'],
    }),
  );
  t.regex(error?.message ?? '', /repository x: token_file .*empty has no line of text/);
});
