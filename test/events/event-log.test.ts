/** The files of events, and what the journal gets, without a sandbox. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import type { KilnEvent } from '../../src/events/event.ts';
import { writeEvent } from '../../src/events/event-log.ts';
import { EventReader } from '../../src/events/read.ts';
import { until } from '../support/eventually.ts';

const event = (n: number, more: Partial<KilnEvent> = {}): KilnEvent => ({
  ...{ event: 'start', id: String(n).padStart(10, '0'), time: new Date(n).toISOString() },
  ...{ uid: 0, user: 'root', command: 'run', by: 'command' },
  ...more,
});

const NOWHERE = '/nonexistent/journal';

function place(t: { teardown(act: () => void): void }): string {
  const root = mkdtempSync(join(tmpdir(), 'kiln-events-'));
  t.teardown(() => rmSync(root, { recursive: true }));
  return root;
}

test('kilnd keeps two event files for each uid, and a full one changes nobody else’s totals', (t) => {
  const root = place(t);
  const options = { bytes: 10_000, journal: NOWHERE };
  writeEvent({ root }, event(1, { uid: 7, user: 'quiet' }), options);
  for (let n = 0; n < 500; n++) writeEvent({ root }, event(n), options);
  const files = readdirSync(join(root, 'events')).toSorted();
  t.deepEqual(files, ['0.1.jsonl', '0.jsonl', '0.totals.json', '7.jsonl']);
  for (const file of files) t.true(statSync(join(root, 'events', file)).size < 11_000);
  using reader = new EventReader({ root });
  const read = reader.read();
  t.is(read.filter(({ uid }) => uid === 7).length, 1);
  const own = read.filter(({ uid }) => uid === 0).map(({ id }) => Number(id));
  t.is(own.at(-1), 499);
  t.deepEqual(
    own,
    Array.from({ length: own.length }, (_, n) => 500 - own.length + n),
  );
});

test('kilnd.log has a line for each event, JSON with KILN_LOG=json, and is bounded', (t) => {
  const root = place(t);
  const log = join(root, 'kilnd.log');
  const options = { bytes: 2000, journal: NOWHERE };
  writeEvent({ root }, event(1, { argv: ['a\nb\u001b[2J'] }), options);
  t.is(readFileSync(log, 'utf8'), '1970-01-01T00:00:00.001Z root run started: a\ufffdb\ufffd[2J\n');
  t.is(statSync(log).mode & 0o777, 0o600);
  process.env.KILN_LOG = 'json';
  writeEvent({ root }, event(2), options);
  delete process.env.KILN_LOG;
  t.is(JSON.parse(readFileSync(log, 'utf8').split('\n')[1] ?? '').id, '0000000002');
  for (let n = 0; n < 500; n++) writeEvent({ root }, event(n), options);
  for (const name of ['kilnd.log', 'kilnd.1.log']) t.true(statSync(join(root, name)).size < 2200);
});

test('a reader that follows misses no event when a file is rotated', (t) => {
  const root = place(t);
  const options = { bytes: 2000, journal: NOWHERE };
  using reader = new EventReader({ root });
  const seen: number[] = [];
  for (let n = 0; n < 200; n++) {
    writeEvent({ root }, event(n), options);
    if (n % 7 === 0) seen.push(...reader.read().map(({ id }) => Number(id)));
  }
  seen.push(...reader.read().map(({ id }) => Number(id)));
  t.deepEqual(
    seen,
    Array.from({ length: 200 }, (_, n) => n),
  );
});

test('a user sees nothing of the account that had the number before', (t) => {
  const root = place(t);
  const options = { journal: NOWHERE };
  writeEvent({ root }, event(1, { uid: 7, user: 'before' }), options);
  writeEvent({ root }, event(2, { uid: 7, user: 'now' }), options);
  writeEvent({ root }, event(3, { uid: 8, user: 'now' }), options);
  using reader = new EventReader({ root }, { viewer: { uid: 7, user: 'now' } });
  t.deepEqual(
    reader.read().map(({ id }) => Number(id)),
    [2],
  );
});

/** As systemd-journald reads its socket, by https://systemd.io/JOURNAL_NATIVE_PROTOCOL. */
const JOURNAL = `
import json, socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
data = s.recv(1 << 20)
fields = {}
while data:
    line, _, data = data.partition(b'\\n')
    name, is_text, value = line.partition(b'=')
    if not is_text:
        size = struct.unpack('<Q', data[:8])[0]
        value, data = data[8:8 + size], data[8 + size + 1:]
    fields[name.decode()] = value.decode()
print(json.dumps(fields))
`;

test('the journal gets an event by its native protocol, with a field for each', async (t) => {
  const root = place(t);
  const journal = join(root, 'journal');
  const python = spawn('python3', ['-c', JOURNAL, journal], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  python.stdout.on('data', (chunk) => {
    text += chunk;
  });
  t.true(await until(() => existsSync(journal)));
  const argv = ['sh', '-c', 'echo a\necho b'];
  const about = { sandbox: 'aaaaaaaaaa', argv, image: 'b'.repeat(64), isolation: 'container' };
  writeEvent({ root }, event(0, about), { journal });
  await once(python, 'close');
  const { MESSAGE, ...fields } = JSON.parse(text);
  t.is(
    MESSAGE,
    'root run started (image bbbbbbbbbbbb, container) in sandbox aaaaaaaaaa: sh -c echo a\ufffdecho b',
  );
  t.deepEqual(fields, {
    ...{ PRIORITY: '6', SYSLOG_IDENTIFIER: 'kiln', KILN_EVENT: 'start', KILN_UID: '0' },
    ...{ KILN_ID: '0000000000', KILN_TIME: '1970-01-01T00:00:00.000Z', KILN_USER: 'root' },
    ...{ KILN_COMMAND: 'run', KILN_BY: 'command', KILN_SANDBOX: 'aaaaaaaaaa' },
    ...{ KILN_ARGV: argv.join('\n'), KILN_IMAGE: about.image, KILN_ISOLATION: 'container' },
  });
  // The state has it as well, and where the journal is gone by now, all the same.
  writeEvent({ root }, event(1), { journal });
  using reader = new EventReader({ root });
  t.is(reader.read().length, 2);
});
