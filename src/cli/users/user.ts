/** `kiln user`: root looks at what kiln keeps of users, and removes it when an account ends. */
import { statSync } from 'node:fs';
import { counted } from '../../counted.ts';
import { Follower } from '../../detached/follow.ts';
import { listJobs, removeOldJobs } from '../../detached/record.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import { sizeText } from '../../host/calls/system-error.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { requireState, type StatePaths, statePaths } from '../../host/state/paths.ts';
import { imagesOwnedBy, removeUnusedPackages } from '../../image/store/gc.ts';
import { listImages, removeIdleImage } from '../../image/store/images.ts';
import { ownersOf, ROOT } from '../../image/store/manifest.ts';
import { snapshotOwners, sweepSnapshots } from '../../image/store/snapshots.ts';
import { rootFolder, rootNames, userStorage } from '../../image/store/user-storage.ts';
import { MockRoot } from '../../jobs/mock/root/root.ts';
import { needed } from '../../options/kind.ts';
import { allEnds } from '../../promise.ts';
import { destroySandbox } from '../../sandbox/domain/destroy.ts';
import { listSandboxes } from '../../sandbox/domain/sandbox-record.ts';
import { accountOf, findAccount, knownUids, noteAccount, userFolder } from '../../users/account.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { type Columns, isTable, type ListOptions, listing, printRows } from '../output/table.ts';

const UID = 'the number of the user, as `kiln user ls` shows it';

function parseUid(text: string): number {
  const uid = /^[1-9]\d{0,9}$/.test(text) ? Number(text) : undefined;
  return needed(uid, 'not the number of a user; root is none.');
}

export function command(caller: Caller): KilnCommand {
  const it = new KilnCommand('user')
    .description('List users that kiln keeps something of, and remove what it keeps.')
    .enablePositionalOptions();
  return it
    .addCommand(
      new KilnCommand('ls')
        .description(
          'List users that kiln keeps something of, with the account that each had when kiln first knew it.',
        )
        .rows(listing('{{.UID}} {{.State}}'))
        .examples('kiln user ls', 'kiln user ls --format "{{.UID}} {{.State}}"')
        .action((options: ListOptions) => printUsers(options, caller)),
    )
    .addCommand(
      new KilnCommand('show')
        .description('Show what kiln keeps of a user.')
        .rows(listing('{{.Type}} {{.Size}}'))
        .argument('<uid>', UID, parseUid)
        .examples('kiln user show 1001')
        .action((uid: number, options: ListOptions) => showUser(uid, options, caller)),
    )
    .addCommand(
      new KilnCommand('remove')
        .description(
          'End all that runs for a user, and remove sandboxes, jobs, images, roots of kiln-mock and caches.',
        )
        .argument('<uid>', UID, parseUid)
        .examples('kiln user remove 1001')
        .action((uid: number) => removeUser(uid, caller)),
    )
    .addCommand(
      new KilnCommand('confirm')
        .description(
          'Leave what kiln keeps of a user to the account that has the number now: it was renamed.',
        )
        .argument('<uid>', UID, parseUid)
        .examples('kiln user confirm 1001')
        .action((uid: number) => confirmUser(uid, caller)),
    );
}

/**
 * `renamed`: the number has an account of another name, which is refused. `gone`: it has none. `new home`: the home
 * folder was made after kiln first knew the account, which may be another one of the same name.
 */
type State = '' | 'renamed' | 'gone' | 'new home';

interface ListedUser {
  readonly uid: number;
  /** The account's when kiln first knew it, and now. */
  readonly name: string | undefined;
  readonly now: string | undefined;
  readonly since: number | undefined;
  readonly state: State;
}

const USERS: Columns<ListedUser> = [
  ['UID', ({ uid }) => String(uid)],
  ['NAME', ({ name }) => name ?? ''],
  ['NOW', ({ now }) => now ?? ''],
  ['SINCE', ({ since }) => (since === undefined ? '' : new Date(since).toISOString().slice(0, 10))],
  ['STATE', ({ state }) => state],
];

async function printUsers(options: ListOptions, caller: Caller): Promise<void> {
  const paths = pathsOf(caller);
  const users: ListedUser[] = [];
  for (const uid of await uidsIn(paths)) users.push(await listed(paths, uid));
  printRows(caller.stdout, USERS, users, options);
}

function pathsOf({ env }: Caller): StatePaths {
  const paths = statePaths(env);
  requireState(paths.root);
  return paths;
}

/** Also of a kiln that did not note accounts yet. */
async function uidsIn(paths: StatePaths): Promise<number[]> {
  const sandboxes = await listSandboxes(paths, { owner: undefined });
  const jobs = await listJobs(paths, undefined);
  const images = await listImages(paths);
  const roots = (await rootNames(paths, undefined)).map((name) => /^@(\d+)-/.exec(name)?.[1]);
  const all = [
    ...(await knownUids(paths)),
    ...[...sandboxes, ...jobs].map(({ record }) => record.owner),
    ...images.flatMap(({ manifest }) => [...ownersOf(paths, manifest).keys()]),
    ...roots.map((uid) => uid && Number(uid)),
    ...(await snapshotOwners(paths)),
  ];
  const uids = all.filter((uid) => typeof uid === 'number' && uid !== ROOT) as number[];
  return [...new Set(uids)].sort((a, b) => a - b);
}

async function listed(paths: StatePaths, uid: number): Promise<ListedUser> {
  const { name, since } = findAccount(paths, uid).value ?? {};
  const account = await accountOf(uid);
  const isRenamed = name !== undefined && account !== undefined && account.name !== name;
  const born = account && attempt(() => statSync(account.home).birthtimeMs);
  const isNewHome = since !== undefined && born !== undefined && born > since;
  const state = isRenamed
    ? 'renamed'
    : account === undefined
      ? 'gone'
      : isNewHome
        ? 'new home'
        : '';
  return { uid, name, now: account?.name, since, state };
}

interface Kept {
  readonly type: string;
  readonly count: number;
  readonly bytes?: number;
}

const KEPT: Columns<Kept> = [
  ['TYPE', ({ type }) => type],
  ['COUNT', ({ count }) => String(count)],
  ['SIZE', ({ bytes }) => (bytes === undefined ? '' : sizeText(bytes))],
];

const KEPT_KINDS = [
  ...(['images', 'packages', 'downloads', 'caches', 'roots', 'snapshots'] as const),
];

async function showUser(uid: number, options: ListOptions, caller: Caller): Promise<void> {
  const paths = pathsOf(caller);
  const { name, now, since, state } = await listed(paths, uid);
  const kept = await userStorage(paths, { uid });
  const rows: Kept[] = [
    { type: 'sandboxes', count: (await listSandboxes(paths, { owner: { uid } })).length },
    { type: 'jobs', count: (await listJobs(paths, { uid })).length },
    ...KEPT_KINDS.map((type) => ({ type, count: kept[type].count, bytes: kept[type].bytes })),
  ];
  if (isTable(options)) {
    const from = since === undefined ? '' : ` since ${new Date(since).toISOString()}`;
    const before = name === undefined ? '' : `, known as ${name}${from}`;
    const how = state === '' ? '' : ` (${state})`;
    caller.stdout.say(`user ${uid}: ${now ?? 'no account'}${before}${how}\n`);
  }
  printRows(caller.stdout, KEPT, rows, options);
}

async function removeUser(uid: number, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const { paths } = engine;
  const user = { uid };
  await endAll(engine, user);
  const snapshots = await sweepSnapshots(paths, user, () => true);
  const jobs = await removeOldJobs(paths, user, 0);
  let images = 0;
  const left: string[] = [];
  for (const { manifest } of imagesOwnedBy(paths, user)) {
    const { gone, tree } = await removeIdleImage(paths, manifest.id, uid);
    if (tree !== undefined) await removeTree(tree);
    if (gone) images++;
    else left.push(manifest.id);
  }
  const roots = await rootNames(paths, user);
  for (const name of roots) {
    // As root sees it.
    const theirs = rootFolder(paths, user, name).slice(paths.roots.length + 1);
    await using root = await MockRoot.lock(engine, theirs);
    const tree = await root.remove();
    if (tree !== undefined) await removeTree(tree);
  }
  const packages = await removeUnusedPackages(paths, user);
  if (left.length > 0) {
    throw new KilnError('E_IMAGE_IN_USE', `images of user ${uid} are in use: ${left.join(', ')}`, {
      hint: 'a service of root’s may run on one: `kiln service list`; all else is removed',
    });
  }
  await removeTree(userFolder(paths, uid));
  const parts = [
    ...[counted(jobs.length, 'job'), counted(snapshots.length, 'snapshot')],
    ...[
      counted(images, 'image'),
      counted(packages.count, 'package'),
      counted(roots.length, 'root'),
    ],
  ];
  caller.stdout.say(`removed ${parts.join(', ')}, and caches of user ${uid}\n`);
}

/** What a command leaves at its end, such as a detached job, is there only afterwards. */
const ENDS = 3;

async function endAll(engine: Engine, user: { readonly uid: number }): Promise<void> {
  const { paths, connect } = engine;
  for (let turn = 0; turn < ENDS; turn++) {
    const running = (await listJobs(paths, user)).filter(({ state }) => state === 'running');
    await allEnds(
      running.map(async ({ record }) => {
        using follower = await Follower.open(paths, record.id);
        follower?.control({ do: 'end' });
        await follower?.over;
      }),
    );
    const sandboxes = await listSandboxes(paths, { owner: user });
    await allEnds(
      sandboxes.map(({ folder, record }) => destroySandbox(paths, folder, record, connect)),
    );
    if (running.length === 0 && sandboxes.length === 0) return;
  }
}

async function confirmUser(uid: number, caller: Caller): Promise<void> {
  const paths = pathsOf(caller);
  const account = await accountOf(uid);
  if (account === undefined) {
    throw new KilnError('E_ARGUMENT', `uid ${uid} has no account`, {
      hint: '`getent passwd` lists those that this machine knows',
    });
  }
  noteAccount(paths, uid, account.name);
  caller.stdout.say(`what kiln keeps of user ${uid} is ${account.name}’s\n`);
}
