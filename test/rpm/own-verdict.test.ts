/** A package that its reader dies of: rpm's own library panics on it (rpm-sequoia 1.8). */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import test from 'ava';
import { fixture, kiln, put, scratch } from './fixtures.ts';

const SIGNED = fixture('v4-signed-rpm-basic-with-rsa4096');

/** A fingerprint of the signer (type 33) as of a version 5 key: one byte differs. */
function deadly(): Buffer {
  const bytes = readFileSync(SIGNED);
  const at = bytes.indexOf(Buffer.from([22, 33, 4]));
  bytes[at + 2] = 5;
  return bytes;
}

interface Result {
  readonly file: string;
  readonly name?: string;
  readonly verdict?: string;
  readonly error?: { readonly code: string; readonly message: string };
}

async function json(...args: readonly string[]) {
  const { stdout, stderr, exitCode } = await kiln('rpm', ...args);
  const lines = stdout.split('\n').filter((line) => line !== '');
  return { exitCode, stderr, results: lines.map((line) => JSON.parse(line) as Result) };
}

test('in a query, only the package that kills its reader is an error', async (t) => {
  const bad = put(scratch(t), 'bad.rpm', deadly());
  const few = await json('query', '--json', SIGNED, bad, SIGNED);
  t.is(few.exitCode, 1);
  t.deepEqual(
    few.results.map(({ file, name, error }) => [file, name, error?.code]),
    [
      [SIGNED, 'rpm-basic', undefined],
      [bad, undefined, 'E_CONFINE_DIED'],
      [SIGNED, 'rpm-basic', undefined],
    ],
  );
  t.true(few.results[1]?.error?.message.startsWith(`${bad}: `));
});

test('a package that kills its reader is the only error, wherever and however often it comes', async (t) => {
  const directory = scratch(t);
  const bytes = deadly();
  const places = [0, 11, 12, 69];
  const files = Array.from({ length: 70 }, (_, index) =>
    places.includes(index) ? put(directory, `${index}.rpm`, bytes) : SIGNED,
  );
  const { exitCode, results } = await json('query', '--json', ...files);
  t.is(exitCode, 1);
  t.deepEqual(
    results.map(({ file, error }) => [file, error?.code]),
    files.map((file, index) => [file, places.includes(index) ? 'E_CONFINE_DIED' : undefined]),
  );
});

test('each package of a verification gets its own verdict', async (t) => {
  const bad = put(scratch(t), 'bad.rpm', deadly());
  const { exitCode, results } = await json('verify', '--json', SIGNED, bad, SIGNED);
  t.is(exitCode, 2);
  t.deepEqual(
    results.map(({ verdict, error }) => [verdict, error?.code]),
    [
      ['untrusted', undefined],
      ['broken', 'E_CONFINE_DIED'],
      ['untrusted', undefined],
    ],
  );
});

test('when one package kills its reader, the others are unpacked', async (t) => {
  const directory = scratch(t);
  const bad = put(directory, 'bad.rpm', deadly());
  const into = join(directory, 'into');
  const others = ['RPMS-v6-rpm-i18n', 'RPMS-v6-rpm-with-patch'].map(fixture);
  const { exitCode, stderr } = await kiln('rpm', 'unpack', '-C', into, others[0]!, bad, others[1]!);
  t.is(exitCode, 1);
  t.regex(stderr, /bad\.rpm: the confined child for 'rpm-unpack' died .*\[E_CONFINE_DIED\]/);
  t.regex(stderr, /what was written of it until then is left/);
  t.false(
    others.some((file) => stderr.includes(basename(file))),
    stderr,
  );
  t.true(readdirSync(into).length > 0);
});
