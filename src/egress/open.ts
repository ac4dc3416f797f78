import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { startProgram } from '../host/process/child-process.ts';
import { nodeCommand } from '../host/process/own-node.ts';
import type { Listener } from '../host/sockets/unix-socket.ts';
import { programPath } from '../host/state/paths.ts';
import { awaitedLater } from '../promise.ts';
import {
  type EgressEntry,
  EgressLog,
  MAX_ENTRIES,
  PUBLIC_HOSTS,
  parseEgressRules,
} from './rule.ts';

const PORT = 3128;

/** How long the proxy may take to start, and to end, ms. */
const PATIENCE = 30_000;

/** The most characters of a line from the proxy: the most entries with the longest names. */
const MAX_LINE = 1 << 20;

export interface Egress {
  readonly environment: Readonly<Record<string, string>>;
  close(): Promise<readonly EgressEntry[]>;
}

/**
 * For a sandbox without a network: what listens on its loopback is a socket that an unprivileged process of the host
 * accepts at. Throws E_EGRESS.
 */
export async function openEgress(
  listen: (port: number) => Promise<Listener>,
  rules: readonly string[],
): Promise<Egress> {
  using opened = new DisposableStack();
  try {
    const listener = opened.use(await listen(PORT));
    const { environment, close } = await startProxy(listener.fd, rules);
    const listening = opened.move();
    return {
      environment,
      close: async () => {
        using _ = listening;
        return await close();
      },
    };
  } catch (cause) {
    throw new KilnError('E_EGRESS', 'cannot open the way out of the sandbox', {
      cause,
      hint: '`kiln doctor` tells what this host lacks',
    });
  }
}

async function startProxy(listener: number, rules: readonly string[]): Promise<Egress> {
  const [node, ...args] = nodeCommand({
    options: ['--max-old-space-size=256', '--disable-warning=ExperimentalWarning'],
    program: programPath('egress-proxy'),
  });
  using _ = closing(listener);
  const child = startProgram(node, args, {
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    cwd: '/',
    stdio: ['pipe', 'pipe', 'pipe', listener],
  });
  const { stdin, stdout, stderr } = child as ChildProcess & {
    readonly stdin: Writable;
    readonly stdout: Readable;
    readonly stderr: Readable;
  };
  let errors = '';
  stderr.on('data', (chunk: Buffer) => {
    errors = (errors + chunk.toString('latin1')).slice(-4096);
  });
  stdin.on('error', () => undefined);
  const ended = awaitedLater(once(child, 'exit'));
  const lines = createInterface({ input: stdout })[Symbol.asyncIterator]();
  stdin.write(`${JSON.stringify(rules)}\n`);
  const line = async (): Promise<string | undefined> => {
    using _timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE);
    const { value, done } = await lines.next();
    return done === true || value.length > MAX_LINE ? undefined : value;
  };
  if ((await line()) !== 'ready') {
    child.kill('SIGKILL');
    await ended;
    throw new Error(`the proxy did not start: ${errors}`);
  }
  let closed: Promise<readonly EgressEntry[]> | undefined;
  const close = async () => {
    stdin.end();
    const report = await line();
    child.kill('SIGKILL');
    await ended;
    return readEntries(report);
  };
  return {
    environment: proxyEnvironment(rules),
    close: () => (closed ??= awaitedLater(close())),
  };
}

/** In lower case, and in upper case for programs that know only that; curl ignores HTTP_PROXY in upper case. */
function proxyEnvironment(rules: readonly string[]): Record<string, string> {
  const proxy = `http://127.0.0.1:${PORT}`;
  // What the list names is a server of the host's: without the proxy, it would be looked for in the sandbox.
  const named = rules.filter((host) => host !== PUBLIC_HOSTS);
  const listed = new Set(parseEgressRules(named).map(({ host }) => host));
  const none = ['localhost', '127.0.0.1', '::1'].filter((host) => !listed.has(host)).join();
  return {
    ...{ http_proxy: proxy, https_proxy: proxy, no_proxy: none },
    ...{ HTTP_PROXY: proxy, HTTPS_PROXY: proxy, NO_PROXY: none },
  };
}

/** The proxy's report. The proxy has read the sandbox's data, so malformed parts are dropped. */
function readEntries(line: string | undefined): EgressEntry[] {
  let value: unknown;
  try {
    value = JSON.parse(line ?? '');
  } catch {
    throw new KilnError('E_EGRESS', 'the proxy ended without a report', {
      hint: 'the command may have brought it down',
    });
  }
  const log = new EgressLog();
  for (const item of Array.isArray(value) ? value.slice(0, MAX_ENTRIES + 2) : []) {
    const { host, port, refused, count, sentBytes, receivedBytes } = item as EgressEntry;
    const number = (it: unknown) => (Number.isSafeInteger(it) && Number(it) >= 0 ? Number(it) : 0);
    log.add({
      host: printable(host),
      port: number(port),
      ...(refused === undefined ? {} : { refused: printable(refused) }),
      ...{ count: number(count), sentBytes: number(sentBytes) },
      receivedBytes: number(receivedBytes),
    });
  }
  return log.entries();
}

function printable(text: unknown): string {
  return String(text)
    .slice(0, 255)
    .replace(/[^\x20-\x7e]/g, '?');
}
