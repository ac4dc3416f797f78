import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { treeUsage } from '../../src/host/files/tree-usage.ts';

const ALL = { bytes: Number.POSITIVE_INFINITY, entries: Number.POSITIVE_INFINITY };

test('the usage of a tree is what du(1) says: holes and further names do not count', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-usage-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const bash = (script: string) =>
    execFileSync('bash', ['-euc', script], { cwd: directory, encoding: 'utf8' });
  bash(`truncate -s 5G big; echo x >> big; ln big again; ln -s big link; mkdir -p in/ner
    head -c 100000 /dev/zero > in/ner/file; ln in/ner/file other; mkfifo in/fifo`);
  const { bytes, entries } = treeUsage(directory, ALL);
  const [whole, own] = [bash('du -sB1 . | cut -f1'), bash('stat -c "%b %B" .')].map((text) =>
    text
      .trim()
      .split(' ')
      .map(Number)
      .reduce((a, b) => a * b),
  );
  t.is(bytes, (whole ?? 0) - (own ?? 0));
  t.is(entries, Number(bash('find . -mindepth 1 | wc -l')));
});
