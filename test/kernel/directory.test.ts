import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Budget } from '../../src/artifacts/budget.ts';
import { listEntries } from '../../src/artifacts/source.ts';
import { O_PATH } from '../../src/host/files/at.ts';

test('a directory is read as find(1) reads it', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-directory-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const bash = (script: string) =>
    execFileSync('bash', ['-euc', script], {
      cwd: directory,
      encoding: 'latin1',
      env: { ...process.env, LC_ALL: 'C' },
    });
  // More than one piece, with names from one byte to as long as they can be.
  bash(String.raw`touch a $'\xff' $'new\nline' ..dots; mkdir sub; ln -s a link; mkfifo pipe
    perl -e 'for (1..2000) { open F, ">", "x" x ($_ % 250) . $_ }'`);
  const found: string[] = [];
  for (const flags of ['r', O_PATH] as const) {
    const fd = openSync(directory, flags);
    found.length = 0;
    // Twice: it does not go on where another has stopped.
    for (const round of [0, 1]) {
      for (const { name, isFile } of listEntries(fd, new Budget())) {
        if (round === 1) found.push(`${isFile ? 'f ' : '%-'}${name}\0`);
      }
    }
    closeSync(fd);
    const all = bash(
      String.raw`find . -mindepth 1 \( -type f -printf 'f %P\0' -o -printf '%%-%P\0' \)`,
    );
    t.deepEqual(
      found.sort(),
      all
        .split('\0')
        .slice(0, -1)
        .map((line) => `${line}\0`)
        .sort(),
    );
  }
});

test('a directory that was removed is empty', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-directory-'));
  const fd = openSync(directory, O_PATH);
  rmSync(directory, { recursive: true });
  t.deepEqual(listEntries(fd, new Budget()), []);
  closeSync(fd);
});
