/**
 * Whose account a uid is. Accounts end, and their numbers are given to others, who are not to have what the one before
 * has left: sandboxes, jobs, images, caches. Nothing but the name tells two accounts of one number from each other.
 */
import { mkdirSync, statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { KilnError } from '../errors.ts';
import { runTool } from '../host/process/child-process.ts';
import { findRecord, withFields, writeRecord } from '../host/state/checked-file.ts';
import { pathsOfUser, type StatePaths } from '../host/state/paths.ts';

/** account.json. Times are milliseconds since 1970. */
interface AccountRecord {
  readonly name: string;
  /** When kiln first saw it. */
  readonly since: number;
}

export interface Account {
  readonly name: string;
  readonly home: string;
}

/** Of one uid; only root enters it. */
export function userFolder(paths: StatePaths, uid: number): string {
  return dirname(pathsOfUser(paths, { uid }).cache);
}

function accountFile(paths: StatePaths, uid: number): string {
  return join(userFolder(paths, uid), 'account.json');
}

const takeRecord = withFields<AccountRecord>({ name: 'string', since: 'number' });

export function findAccount(paths: StatePaths, uid: number) {
  return findRecord(accountFile(paths, uid), takeRecord);
}

/** Uids that have a folder. */
export async function knownUids({ root }: StatePaths): Promise<number[]> {
  const names = await readdir(join(root, 'users')).catch(() => []);
  return names.filter((name) => /^\d+$/.test(name)).map(Number);
}

/** How long a server of accounts (LDAP, say) may take to answer, and for how long its answer counts, ms. */
const ANSWER_MAX = 5000;
const FRESH = 60_000;

const PASSWORDS = '/etc/passwd';

const known = new Map<number, { readonly account: Account | undefined; readonly until: string }>();

/** Of whatever nsswitch.conf(5) names. Undefined where there is none, or where it cannot be told now. */
export async function accountOf(uid: number): Promise<Account | undefined> {
  const stats = statSync(PASSWORDS, { bigint: true, throwIfNoEntry: false });
  const until = [stats?.ino, stats?.mtimeNs, stats?.size, Math.floor(Date.now() / FRESH)].join();
  const found = known.get(uid);
  if (found?.until === until) return found.account;
  const { stdout } = await runTool('getent', ['passwd', String(uid)], { timeout: ANSWER_MAX });
  const [name = '', , number, , , home = ''] = stdout.split('\n', 1)[0]?.split(':') ?? [];
  const account = Number(number) === uid && name !== '' ? { name, home } : undefined;
  known.set(uid, { account, until });
  return account;
}

/** The groups of an account, as they are listed now: a process keeps those of its login. Undefined without one. */
export async function listedGroups(uid: number): Promise<readonly number[] | undefined> {
  const { stdout, failure } = await runTool('id', ['-G', String(uid)], { timeout: ANSWER_MAX });
  return failure === undefined ? stdout.split(' ').map(Number) : undefined;
}

export function noteAccount(paths: StatePaths, uid: number, name: string): void {
  mkdirSync(dirname(accountFile(paths, uid)), { recursive: true, mode: 0o700 });
  writeRecord(accountFile(paths, uid), { name, since: Date.now() } satisfies AccountRecord);
}

/** @throws KilnError E_ACCOUNT where the uid was another account's when kiln last knew */
export async function requireSameAccount(paths: StatePaths, uid: number): Promise<void> {
  const now = await accountOf(uid);
  // Processes of a user may live on when the account has gone: they are still those of the one that it was.
  if (now === undefined) return;
  const { value, damage } = findAccount(paths, uid);
  if (value?.name === now.name) return;
  if (value === undefined && damage === undefined) {
    noteAccount(paths, uid, now.name);
    return;
  }
  const before = value === undefined ? 'an account that kiln cannot tell any more' : value.name;
  throw new KilnError('E_ACCOUNT', `uid ${uid} is ${now.name}, and was ${before}`, {
    hint: `root decides about what kiln keeps for it: \`kiln user remove ${uid}\`, or \`kiln user confirm ${uid}\` where both are the same person`,
  });
}
