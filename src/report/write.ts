import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { z } from 'zod';
import type { Owner } from '../artifacts/destination.ts';
import { type TextFile, writeTexts } from '../artifacts/staging.ts';
import { KilnError } from '../errors.ts';
import { attempt } from '../host/calls/libc.ts';
import { Folder } from '../host/files/folder.ts';
import type { HeldPath } from '../host/files/held.ts';
import { packageRoot } from '../host/state/package-root.ts';
import { type Result, readResult } from '../result/schema.ts';
import { failuresOf, lastLines, readLog } from './ci/findings.ts';
import type { BrowserFiles } from './html.ts';
import { type ReportLog, type ReportParts, reportPage } from './page.ts';

const RESULT_FILE = 'result.json';
const CHAIN_FILE = 'chain.json';
const REPORT_FILE = 'report.html';

const LOGS = ['build.log', 'root.log', 'state.log'];

const RESULT_MAX = 64 << 20;

const compress = promisify(gzip);

/**
 * Whoever reads one of the files sees the old one or the new one, whole. @param directory is made if missing
 * @returns the absolute path of result.json @throws KilnError E_RESULTDIR
 */
export async function writeResult(
  directory: HeldPath,
  result: Result,
  owner: Owner,
): Promise<string> {
  const content = `${JSON.stringify(result, undefined, 2)}\n`;
  const report = await makeReport(directory, result);
  const written = await writeTexts(directory, [{ name: RESULT_FILE, content }, report], owner);
  return join(written, RESULT_FILE);
}

/** @returns undefined where there is no result.json @throws KilnError E_RESULT where it cannot be read */
export function resultIn(directory: HeldPath): Result | undefined {
  using folder = openExisting(directory);
  const text = folder?.read(RESULT_FILE, RESULT_MAX);
  return text === undefined ? undefined : readResult(text, join(directory, RESULT_FILE));
}

/**
 * Makes report.html of a job, or of a chain, anew.
 * @returns its path @throws KilnError E_RESULTDIR; E_RESULT where there is neither result.json nor chain.json, or
 * none that can be read
 */
export async function renewReport(directory: HeldPath, owner: Owner): Promise<string> {
  using folder = Folder.open(directory);
  const [job, chain] = [RESULT_FILE, CHAIN_FILE].map((name) => folder.read(name, RESULT_MAX));
  if (job !== undefined) {
    const result = readResult(job, join(directory, RESULT_FILE));
    await writeTexts(directory, [await makeReport(directory, result)], owner);
  } else if (chain !== undefined) {
    await writeTexts(directory, [await makeChainReport(directory, chain)], owner);
  } else {
    throw noResultError(join(directory, RESULT_FILE));
  }
  return join(directory, REPORT_FILE);
}

export function noResultError(path: string): KilnError {
  return new KilnError('E_RESULT', `${path} does not exist`, {
    hint: 'name the folder that --resultdir named',
  });
}

/** @param content of chain.json @throws KilnError E_RESULTDIR, E_RESULT */
export async function writeChainResult(
  directory: HeldPath,
  content: string,
  owner: Owner,
): Promise<void> {
  const report = await makeChainReport(directory, content);
  await writeTexts(directory, [{ name: CHAIN_FILE, content }, report], owner);
}

async function makeChainReport(directory: string, text: string): Promise<TextFile> {
  // It draws, which nobody else needs.
  const { chainReport } = await import('./chain.ts');
  using folder = Folder.open(directory);
  const content = chainReport(folder, text, join(directory, CHAIN_FILE), browserFiles());
  return { name: REPORT_FILE, content };
}

async function makeReport(directory: string, result: Result): Promise<TextFile> {
  const content = reportPage(await materials(directory, result), browserFiles());
  return { name: REPORT_FILE, content };
}

async function materials(directory: string, result: Result): Promise<ReportParts> {
  const { build, request, exitStatus } = result;
  // Of other jobs, files of these names are artifacts.
  const names = build !== undefined ? LOGS : request.recipe !== undefined ? ['build.log'] : [];
  using folder = names.length === 0 ? undefined : openExisting(directory);
  if (folder === undefined) return { result, logs: [], packages: [] };
  const logs: ReportLog[] = [];
  let failures: ReportParts['failures'];
  for (const name of names) {
    const log = readLog(folder, name);
    if (log === undefined) continue;
    if (exitStatus !== 0 && name === 'build.log')
      failures = failuresOf(log, build?.name ?? 'the recipe');
    logs.push({ name, end: lastLines(log), gzip: await compress(log, { level: 6 }) });
  }
  if (build === undefined) return { result, logs, failures, packages: [] };
  const packages = folder.read('installed_pkgs.log', RESULT_MAX)?.trim();
  return {
    ...{ result, logs, failures, added: addedPackages(folder) },
    packages: packages ? packages.split('\n') : [],
  };
}

const lockSchema = z.object({
  layer: z.object({ packages: z.array(z.object({ nevra: z.string() })) }).nullable(),
});

/** What lock.json has on top of the image; undefined where that is not known. */
function addedPackages(folder: Folder): string[] | undefined {
  const text = folder.read('lock.json', RESULT_MAX);
  if (text === undefined) return undefined;
  return attempt(() =>
    lockSchema.parse(JSON.parse(text)).layer?.packages.map(({ nevra }) => nevra),
  );
}

function openExisting(directory: string): Folder | undefined {
  return attempt(() => Folder.open(directory));
}

let read: BrowserFiles | undefined;

function browserFiles(): BrowserFiles {
  const file = (name: string) => readFileSync(join(packageRoot(), 'dist/report', name), 'utf8');
  read ??= {
    script: file('report.js'),
    style: file('report.css'),
    plotScript: file('uplot.js'),
    plotStyle: file('uplot.css'),
  };
  return read;
}
