/** A proxy that learns hosts lets public ones through, and no others. */
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { egressProxy } from '../../src/egress/proxy.ts';
import { EgressLog, parseEgressRules } from '../../src/egress/rule.ts';
import { learnedOptions } from '../../src/jobs/run/explain-refusals.ts';

async function proxied(t: ExecutionContext, learns: boolean, listed: readonly string[] = []) {
  const log = new EgressLog();
  const { server, close } = egressProxy({ rules: parseEgressRules(listed), learns }, log);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(close);
  const { port } = server.address() as AddressInfo;
  /** The status of the proxy's answer. */
  const ask = async (path: string): Promise<number | undefined> => {
    const asked = request({ host: '127.0.0.1', port, method: 'CONNECT', path });
    asked.end();
    const [{ statusCode }] = await Promise.race([once(asked, 'connect'), once(asked, 'response')]);
    asked.destroy();
    return statusCode;
  };
  return { log, ask };
}

test('a proxy that learns reaches nothing of this host and its networks', async (t) => {
  const { log, ask } = await proxied(t, true);
  const own = createServer().listen(0, '127.0.0.1');
  await once(own, 'listening');
  t.teardown(() => own.close());
  const { port } = own.address() as AddressInfo;
  for (const place of [
    `127.0.0.1:${port}`,
    `localhost:${port}`,
    '10.0.0.1:80',
    '169.254.169.254:80',
    '[::1]:80',
  ])
    t.is(await ask(place), 403, place);
  t.true(log.entries().every(({ refused }) => refused?.startsWith('its address is not public')));
  t.deepEqual(learnedOptions(log.entries()), []);
  // What is listed is reached as ever.
  const both = await proxied(t, true, [`127.0.0.1:${port}`]);
  t.is(await both.ask(`127.0.0.1:${port}`), 200);
});

test('only a proxy that learns tries hosts that are not listed', async (t) => {
  const [plain, learning] = [await proxied(t, false), await proxied(t, true)];
  // A name that nobody has (RFC 6761): it was looked up, so the list did not refuse it.
  t.is(await plain.ask('kiln.invalid:80'), 403);
  t.is(await learning.ask('kiln.invalid:80'), 502);
  t.regex(learning.log.entries()[0]?.refused ?? '', /^cannot be resolved/);
});

test('hosts that were reached are told as options, each once', (t) => {
  const entry = { count: 1, sentBytes: 1, receivedBytes: 1 };
  t.deepEqual(
    learnedOptions([
      { host: 'b.example', port: 443, ...entry },
      { host: 'b.example', port: 80, ...entry },
      { host: 'a.example', port: 8443, ...entry },
      { host: 'c.example', port: 443, refused: 'does not answer', ...entry },
    ]),
    ['--egress a.example:8443', '--egress b.example'],
  );
});
