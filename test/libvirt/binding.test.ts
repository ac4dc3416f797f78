import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import test from 'ava';
import koffi from 'koffi';
import { openConnection } from '../../src/libvirt/connection.ts';
import { LibvirtError } from '../../src/libvirt/errors.ts';
import type { LifecycleEvent } from '../../src/libvirt/lifecycle.ts';

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

test.serial('lists, describes and identifies what virsh does', async (t) => {
  await using connection = await openConnection(URI);
  const [listed, ...others] = await connection.listDomains();
  if (listed === undefined) return t.fail('nothing listed');
  t.is(others.length, 0);
  t.is(listed.name, await virsh('list', '--name'));
  t.is(listed.uuid, await virsh('domuuid', 'test'));
  t.is(String(listed.id), await virsh('domid', 'test'));

  const domain = await connection.lookupByUuid(listed.uuid);
  t.is((await domain.xml()).trim(), await virsh('dumpxml', 'test'));
  const { cpus, maxMemory, memory } = await domain.info();
  const described = await virsh('dominfo', 'test');
  t.regex(described, new RegExp(`^CPU\\(s\\): +${cpus}$`, 'm'));
  t.regex(described, new RegExp(`^Max memory: +${maxMemory} KiB$`, 'm'));
  t.regex(described, new RegExp(`^Used memory: +${memory} KiB$`, 'm'));
  t.is(listed.state, 'running');
  t.is(await virsh('domstate', 'test'), 'running');

  t.is((await connection.capabilities()).trim(), await virsh('capabilities'));
  t.regex(await virsh('version'), new RegExp(`API: TEST ${await connection.version()}`));
  const [network] = await connection.networks();
  t.is(network?.name, await virsh('net-list', '--name'));
  t.is(network?.uuid, await virsh('net-uuid', 'default'));
  t.true(network?.active);
});

test.serial('defines, starts, destroys and undefines', async (t) => {
  await using connection = await openConnection(URI);
  const domain = await connection.defineDomain(xml('defined'));
  t.is(await domain.state(), 'shutoff');
  t.is(await domain.id(), null);
  await domain.start();
  t.is(await domain.state(), 'running');
  t.is(await domain.destroy(), true);
  t.is(await domain.destroy(), false);
  await domain.undefine();
  await t.throwsAsync(domain.state(), { code: 'E_LIBVIRT_NO_DOMAIN' });
  t.is(await domain.destroy(), false);
});

test.serial('an error carries everything libvirt says', async (t) => {
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

test.serial('calls that fail at the same time each get their own error', async (t) => {
  await using connection = await openConnection(URI);
  const uuids = Array.from(
    { length: 60 },
    (_, index) => `00000000-0000-0000-0000-${String(index).padStart(12, '0')}`,
  );
  const wrong = (index: number) => connection.createDomain(`<domain><x${index}></domain>`);
  const errors = await Promise.all(
    uuids.map((uuid, index) =>
      (index % 2 === 0 ? wrong(index) : connection.lookupByUuid(uuid)).then(
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

test.serial('after close every call is refused, and close waits for calls under way', async (t) => {
  const connection = await openConnection(URI);
  const domain = await connection.lookupByName('test');
  const pending = Promise.all(Array.from({ length: 20 }, () => domain.xml()));
  await connection.close();
  t.is((await pending.catch(() => [])).length, 20);
  await connection.close();
  for (const call of [
    () => connection.listDomains(),
    () => connection.createDomain(xml('late')),
    () => connection.onLifecycle({ onEvent: () => undefined }),
    () => domain.xml(),
    () => domain.destroy(),
  ]) {
    await t.throwsAsync<LibvirtError>(call, { code: 'E_LIBVIRT_CLOSED' });
  }
});

test.serial('a server that is not there is named in the error', async (t) => {
  const error = await t.throwsAsync(openConnection('lxc+unix:///system?socket=/nonexistent'), {
    instanceOf: LibvirtError,
  });
  t.is(error?.code, 'E_LIBVIRT_CONNECT');
  t.regex(error?.message ?? '', /\/nonexistent.*No such file or directory/);
});

test.serial('lifecycle events arrive until the listener leaves', async (t) => {
  await using connection = await openConnection(URI);
  const domain = await connection.defineDomain(xml('watched'));
  const seen: LifecycleEvent[] = [];
  let arrived = (): void => undefined;
  const next = async (act: () => Promise<unknown>): Promise<void> => {
    const event = new Promise<void>((resolve) => {
      arrived = resolve;
    });
    await act();
    await event;
  };
  {
    using _listening = await connection.onLifecycle({
      onEvent: (event) => {
        seen.push(event);
        arrived();
      },
    });
    await next(() => domain.start());
    await next(() => domain.destroy());
  }
  await domain.undefine();
  await new Promise((resolve) => setTimeout(resolve, 50));
  t.deepEqual(
    seen.map(({ name, uuid, kind }) => [name, uuid, kind]),
    [
      ['watched', domain.uuid, 'started'],
      ['watched', domain.uuid, 'stopped'],
    ],
  );
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

test.serial('thousands of calls leave no native memory behind', async (t) => {
  await using connection = await openConnection(URI);
  const domain = await connection.lookupByName('test');
  // Objects are counted by libvirt, and a leak of one makes close() throw. Strings are not.
  const kinds: Record<string, () => Promise<unknown>> = {
    xml: () => domain.xml(),
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
    // bytes a call. A leak moves every one, by 800 or more.
    const median = growth.toSorted((a, b) => a - b)[3] ?? 0;
    t.true(Math.abs(median) < 300, `${name}: bytes a call: ${growth.map(Math.round).join(' ')}`);
  }
});
