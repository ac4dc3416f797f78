import test from 'ava';
import { printEgressRefusals } from '../../src/cli/output/errors.ts';

const entry = (host: string, port: number, refused?: string) => ({
  host,
  port,
  count: 3,
  sentBytes: 0,
  receivedBytes: 0,
  ...(refused === undefined ? {} : { refused }),
});

function printed(entries: Parameters<typeof printEgressRefusals>[0]): string[] {
  const lines: string[] = [];
  printEgressRefusals(entries, { say: (line) => void lines.push(line) });
  return lines.map((line) => line.replace(/^kiln: /, '').trimEnd());
}

test('a refusal names the option that would allow it, if there is one', (t) => {
  t.deepEqual(printed([entry('given.example', 443)]), []);
  t.deepEqual(
    printed([
      entry('a.example', 8080, 'not on the list'),
      entry('[::1]', 80, 'not on the list'),
      entry('?[31m', 80, 'not a host'),
      entry('b.example', 443, 'its address is not public, and not on the list'),
      entry('10.1.2.3', 8080, 'its address is not public, and not on the list'),
      entry('c.example', 443, 'cannot be reached: ECONNREFUSED'),
    ]),
    [
      'egress refused: a.example:8080: not on the list (--egress a.example:8080 allows it)',
      'egress refused: [::1]:80: not on the list (--egress [::1]:80 allows it)',
      'egress refused: ?[31m:80: not a host',
      'egress refused: b.example:443: its address is not public, and not on the list (--egress with its address, beside its name allows it)',
      'egress refused: 10.1.2.3:8080: its address is not public, and not on the list (--egress 10.1.2.3:8080 allows it)',
      'egress refused: c.example:443: cannot be reached: ECONNREFUSED',
    ],
  );
});

test('a command that asks for many hosts gets few lines', (t) => {
  const many = Array.from({ length: 200 }, (_, n) =>
    entry(`h${n}.example`, 443, 'not on the list'),
  );
  const lines = printed([...many, ...many]);
  t.is(lines.length, 11);
  t.is(lines.at(-1), 'egress refused: 190 more; result.json names them');
});
