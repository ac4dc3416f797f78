import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import test from 'ava';
import koffi from 'koffi';
import { openConnection } from '../../src/host/libvirt/connection.ts';
import { LibvirtError } from '../../src/host/libvirt/errors.ts';

const URI = 'test:///default';
const run = promisify(execFile);

/** virsh against the same built-in driver: each process has a fresh copy of its one domain. */
async function virsh(...words: string[]): Promise<string> {
  return (await run('virsh', ['-q', '-c', URI, ...words])).stdout.trim();
}

/** A domain for the test driver, which never runs anything. */
function xml(name: string): string {
  return `<domain type='test'><name>${name}</name><memory>8192</memory><os><type>hvm</type></os></domain>`;
}

test.serial('domains are listed, described and identified as by virsh', async (t) => {
  await using connection = await openConnection(URI);
  t.deepEqual(await connection.domainNames(), ['test']);
  t.is(await virsh('list', '--name'), 'test');
  const domain = await connection.lookupByName('test');
  t.is(domain.name, 'test');
  t.is(domain.uuid, await virsh('domuuid', 'test'));
  t.is((await connection.capabilities()).trim(), await virsh('capabilities'));
  t.regex(await virsh('version'), new RegExp(`API: TEST ${await connection.version()}`));
});

test.serial('destroy ends a running domain, and says if it was gone', async (t) => {
  await using connection = await openConnection(URI);
  const domain = await connection.createDomain(xml('made'));
  t.deepEqual((await connection.domainNames()).toSorted(), ['made', 'test']);
  t.is(await domain.destroy(), true);
  t.deepEqual(await connection.domainNames(), ['test']);
  t.is(await domain.destroy(), false);
});

test.serial('an error has everything that libvirt says', async (t) => {
  await using connection = await openConnection(URI);
  const missing = await t.throwsAsync(connection.lookupByName('absent'), {
    instanceOf: LibvirtError,
  });
  t.is(missing?.code, 'E_LIBVIRT_NO_DOMAIN');
  t.like(missing?.libvirt, { code: 42, domain: 12, level: 2, message: 'Domain not found' });

  const broken = await t.throwsAsync(connection.createDomain('<domain'), {
    instanceOf: LibvirtError,
  });
  t.is(broken?.code, 'E_LIBVIRT_XML');
  t.regex(broken?.libvirt?.message ?? '', /Couldn't find end of Start Tag domain line 1/);

  await connection.createDomain(xml('twice'));
  const twice = await t.throwsAsync(connection.createDomain(xml('twice')), {
    instanceOf: LibvirtError,
  });
  t.regex(twice?.message ?? '', /twice/);
  await (await connection.lookupByName('twice')).destroy();
});

test.serial('calls that fail at the same time get their own errors', async (t) => {
  await using connection = await openConnection(URI);
  const wrong = (index: number) => connection.createDomain(`<domain><x${index}></domain>`);
  const errors = await Promise.all(
    Array.from({ length: 60 }, (_, index) =>
      (index % 2 === 0 ? wrong(index) : connection.lookupByName(`absent${index}`)).then(
        () => undefined,
        (error: unknown) => error,
      ),
    ),
  );
  for (const [index, error] of errors.entries()) {
    if (!(error instanceof LibvirtError)) return t.fail(`call ${index} did not fail`);
    if (index % 2 === 0) t.regex(error.message, new RegExp(`x${index}\\b`));
    else t.is(error.code, 'E_LIBVIRT_NO_DOMAIN');
  }
});

test.serial('after close every call is refused, and close waits for running calls', async (t) => {
  const connection = await openConnection(URI);
  const domain = await connection.lookupByName('test');
  const pending = Promise.all(Array.from({ length: 20 }, () => connection.version()));
  await connection.close();
  t.is((await pending.catch(() => [])).length, 20);
  await connection.close();
  for (const call of [
    () => connection.domainNames(),
    () => connection.createDomain(xml('late')),
    () => domain.destroy(),
  ]) {
    await t.throwsAsync<LibvirtError>(call, { code: 'E_LIBVIRT_CLOSED' });
  }
});

test.serial('a missing server is named in the error', async (t) => {
  const error = await t.throwsAsync(openConnection('lxc+unix:///system?socket=/nonexistent'), {
    instanceOf: LibvirtError,
  });
  t.is(error?.code, 'E_LIBVIRT_CONNECT');
  t.regex(error?.message ?? '', /\/nonexistent.*No such file or directory/);
});

setFlagsFromString('--expose-gc');
const collectGarbage: () => void = runInNewContext('gc');

/** Bytes that malloc has handed out in this process, all arenas (mallinfo(3)). */
const mallocBytes: () => number = (() => {
  const fields = ['arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks'];
  const names = [...fields, 'uordblks', 'fordblks', 'keepcost'];
  const type = koffi.struct(Object.fromEntries(names.map((name) => [name, 'size_t'])));
  const mallinfo2 = koffi.load('libc.so.6').func('mallinfo2', type, []);
  return () => mallinfo2().uordblks;
})();

test.serial('thousands of calls leak no native memory', async (t) => {
  await using connection = await openConnection(URI);
  // Objects are counted by libvirt, and a leak of one makes close() throw. Strings and lists are not.
  const kinds: Record<string, () => Promise<unknown>> = {
    names: () => connection.domainNames(),
    capabilities: () => connection.capabilities(),
  };
  for (const [name, call] of Object.entries(kinds)) {
    const growth: number[] = [];
    while (growth.length < 7) {
      const before = mallocBytes();
      for (let done = 0; done < 1000; done += 50)
        await Promise.all(Array.from({ length: 50 }, call));
      collectGarbage();
      growth.push((mallocBytes() - before) / 1000);
    }
    // V8 and koffi take and return memory in big pieces, which moves some rounds by hundreds of
    // bytes a call, up and down. A leak moves every one, and so both of these, by 800 or more.
    const median = Math.abs(growth.toSorted((a, b) => a - b)[3] ?? 0);
    const mean = Math.abs(growth.reduce((sum, bytes) => sum + bytes, 0) / growth.length);
    const seen = `${name}: bytes a call: ${growth.map(Math.round).join(' ')}`;
    t.true(Math.min(median, mean) < 300, seen);
  }
});
