/** The examples of docs/ci.md and docs/ci-runners.md are what they seem to be, by the programs that read such files. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { parse } from 'yaml';
import { blocks } from '../docs/blocks.ts';

const all = ['docs/ci.md', 'docs/ci-runners.md'].flatMap(blocks);
const written = (language: string) =>
  all.filter((block) => block.language === language).map(({ text }) => text);

const python = (program: string, input: string) =>
  execa('python3', ['-c', program], { input, reject: false });

test('config.toml is valid TOML, and starts kiln in all four stages', async (t) => {
  const found = written('toml');
  t.is(found.length, 1);
  const program = 'import json, sys, tomllib; print(json.dumps(tomllib.loads(sys.stdin.read())))';
  const { stdout, stderr } = await python(program, found[0] ?? '');
  t.is(stderr, '');
  const [{ executor, custom }] = JSON.parse(stdout).runners;
  t.is(executor, 'custom');
  for (const stage of ['config', 'prepare', 'run', 'cleanup']) {
    t.is(custom[`${stage}_exec`], '/usr/bin/kiln');
    t.deepEqual(custom[`${stage}_args`].slice(0, 3), ['ci', 'gitlab', stage]);
  }
});

test('workflows and pipelines are valid YAML', (t) => {
  const found = written('yaml');
  t.is(found.length, 3);
  for (const text of found) {
    const [job] = Object.values(parse(text).jobs ?? parse(text)) as { tags?: string[] }[];
    t.truthy(job?.tags ?? (job as { 'runs-on'?: unknown })['runs-on']);
  }
});

test('systemd accepts the timer without a warning', async (t) => {
  const units = written('ini').find((text) => text.includes('.timer')) ?? '';
  const folder = await mkdtemp(join(tmpdir(), 'kiln-units-'));
  try {
    const parts = [
      ...units.matchAll(/^# \/etc\/systemd\/system\/(\S+)\n([\s\S]*?)(?=^# |$(?![\s\S]))/gm),
    ];
    t.deepEqual(
      parts.map(([, name]) => name),
      ['nightly.service', 'nightly.timer'],
    );
    for (const [, name = '', text = ''] of parts) {
      // Where the tests run, kiln is not installed.
      await writeFile(join(folder, name), text.replace('=kiln ', '=/bin/true '));
    }
    const files = parts.map(([, name = '']) => join(folder, name));
    const { exitCode, stderr } = await execa('systemd-analyze', ['verify', '--man=no', ...files], {
      reject: false,
    });
    t.is(exitCode, 0, stderr);
    t.notRegex(stderr, /nightly/);
    t.regex(await readFile(files[0] ?? '', 'utf8'), /true build -r debian-build --update/);
  } finally {
    await rm(folder, { recursive: true });
  }
});
