/** result.json and report.html of a job, in its result directory. */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { promisify, stripVTControlCharacters } from 'node:util';
import { gzip } from 'node:zlib';
import { type Owner, unusableResultDirectory } from '../artifacts/destination.ts';
import { writeText } from '../artifacts/staging.ts';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { Folder } from '../host/files/folder.ts';
import { type Result, readResult } from '../result/schema.ts';
import { browserFiles } from './browser-files.ts';
import { type ReportLog, reportPage } from './page.ts';

const RESULT_FILE = 'result.json';
const REPORT_FILE = 'report.html';

/** Logs of a build, the one that people read first. */
const LOGS = ['build.log', 'root.log', 'state.log'];

/** Bytes of a log in a report: its end, if it is longer. */
const LOG_MAX = 128 << 20;
/** Bytes of a result.json that a report is made of. */
const RESULT_MAX = 64 << 20;
/** Lines of a log on paper. */
const END_LINES = 200;

const compress = promisify(gzip);

/**
 * Writes result.json and then report.html: whoever reads one sees the old one or the new one, whole.
 *
 * @param directory the result directory, made if missing
 * @param owner whose the files are
 * @returns the absolute path of result.json
 * @throws KilnError E_RESULTDIR
 */
export async function writeResult(
  directory: string,
  result: Result,
  owner: Owner,
): Promise<string> {
  const content = `${JSON.stringify(result, undefined, 2)}\n`;
  const path = await writeText(directory, RESULT_FILE, content, owner);
  await writeReport(directory, result, owner);
  return path;
}

/**
 * Makes report.html anew from the result.json and the logs of a result directory.
 * @returns its path
 * @throws KilnError E_RESULTDIR; E_RESULT where there is no result.json, or none that can be read
 */
export async function renewReport(directory: string, owner: Owner): Promise<string> {
  let text: string | undefined;
  try {
    using folder = Folder.open(directory);
    text = folder.read(RESULT_FILE, RESULT_MAX);
  } catch (cause) {
    throw unusableResultDirectory(directory, cause);
  }
  if (text === undefined) {
    throw new KilnError('E_RESULT', `${join(directory, RESULT_FILE)} does not exist`, {
      hint: 'name the directory that --resultdir named',
    });
  }
  await writeReport(directory, readResult(text, join(directory, RESULT_FILE)), owner);
  return join(directory, REPORT_FILE);
}

async function writeReport(directory: string, result: Result, owner: Owner): Promise<void> {
  using folder = Folder.open(directory);
  const logs: ReportLog[] = [];
  // A run has no logs; a file of such a name is an artifact then.
  if (result.build !== undefined) {
    for (const name of LOGS) {
      const log = await readLog(folder, name);
      if (log !== undefined) logs.push(log);
    }
  }
  const packages = result.build && folder.read('installed_pkgs.log', RESULT_MAX)?.trim();
  const parts = { result, logs, packages: packages ? packages.split('\n') : [] };
  await writeText(directory, REPORT_FILE, reportPage(parts, browserFiles()), owner);
}

/** Undefined where there is none, it is empty, or it is no regular file. */
async function readLog(folder: Folder, name: string): Promise<ReportLog | undefined> {
  let fd: number;
  try {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    fd = openSync(join(folder.path, name), flags);
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ELOOP', 'ENXIO')) return undefined;
    throw error;
  }
  try {
    const stats = fstatSync(fd);
    if (!stats.isFile() || stats.size === 0) return undefined;
    const leftOut = Math.max(0, stats.size - LOG_MAX);
    const bytes = Buffer.alloc(stats.size - leftOut);
    const length = readSync(fd, bytes, 0, bytes.length, leftOut);
    const log = bytes.subarray(0, length);
    return { name, gzip: await compress(log, { level: 6 }), leftOut, end: lastLines(log) };
  } finally {
    closeSync(fd);
  }
}

function lastLines(log: Buffer): string[] {
  // A line of a log is seldom longer than this on average.
  const text = log.subarray(-END_LINES * 200).toString('utf8');
  return stripVTControlCharacters(text).trimEnd().split('\n').slice(-END_LINES);
}
