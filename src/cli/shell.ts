import { setTimeout as sleep } from 'node:timers/promises';
import type { CopyInItem } from '../artifacts/copy-in.ts';
import { defined } from '../defined.ts';
import { isMeant, listJobs, sandboxMeant } from '../detached/record.ts';
import type { Engine, OwnEngine } from '../engine.ts';
import { isKilnCode, KilnError } from '../errors.ts';
import { currentAction } from '../events/action.ts';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { readManifest } from '../image/store/manifest.ts';
import { LEAVE_KEYS } from '../options/leave-keys.ts';
import { MOUNT } from '../options/mount.ts';
import { EXEC, type ExecOptions, SHELL, type ShellOptions } from '../options/sandbox.ts';
import { recipeNames } from '../recipe/named.ts';
import {
  findSandbox,
  type ListedSandbox,
  listSandboxes,
  sandboxWithId,
} from '../sandbox/domain/sandbox-record.ts';
import { closedError, connectHolder } from '../sandbox/door/holder.ts';
import { commandUser, type ExecuteRequest, type KeptCommand } from '../sandbox/door/plan.ts';
import { PlannedSandbox } from '../sandbox/door/planned-sandbox.ts';
import { visit, visitPorts } from '../sandbox/door/visit.ts';
import { Visitors } from '../sandbox/door/visitors.ts';
import type { PublishedPort } from '../sandbox/policy/network.ts';
import { OPEN_SHELL, runAttached } from './attach.ts';
import { type Caller, hasTerminal } from './caller/caller.ts';
import { detach } from './job/detach.ts';
import { KilnCommand, refuseOptions } from './options/command.ts';
import { printEgressRefusals, printWarning } from './output/errors.ts';
import { refuseLooseTime } from './output/mistaken-words.ts';
import { ownContext, runAndReport } from './run.ts';

const EXAMPLES = `
When the shell ends, a new sandbox is destroyed. A kept one stays until its time is over.

Examples:
  kiln shell -r debian-build
  kiln shell -r debian-build --bind .:/work --workdir /work
  kiln run -r debian-build --keep -- make; kiln shell 3fa9c1d2e4`;

const ID =
  'the id or name of a sandbox or a job, as `kiln ps` shows it; the first digits are enough';

const AS_MADE = 'it has the options that it was made with; without an id, a new sandbox takes them';

export function command(caller: Caller): KilnCommand {
  const it = new KilnCommand('shell')
    .description('Open a shell in a new sandbox, or in one that runs or was kept.')
    .usage('[options] | ID')
    .argument('[id]', ID);
  return it
    .rows({ ...SHELL, mount: MOUNT }, caller)
    .addHelpText('after', EXAMPLES)
    .action(async (id: string | undefined, options: ShellOptions) => {
      const tty = hasTerminal(caller);
      if (id === undefined) {
        const asked = { ...options, tty, samples: true, entrypoint: '' };
        const { begin: started } = await detach(asked, it, caller);
        await runAndReport(OPEN_SHELL, asked, it, { ...ownContext(caller), started });
        return;
      }
      refuseLooseTime(options.keep, id, 'the sandbox');
      const made = it.given().filter((option) => option.attributeName() !== 'detachKeys');
      refuseOptions(made, `the sandbox ${id}`, AS_MADE);
      const { detachKeys } = options;
      await enter(
        id,
        OPEN_SHELL,
        { tty, env: {}, copyIn: [], publish: [], ...defined({ detachKeys }) },
        it,
        caller,
      );
    });
}

export function execCommand(caller: Caller): KilnCommand {
  return execCommandFor(caller, (id, argv, options, it) => enter(id, argv, options, it, caller));
}

/** The command that is `act`'s to do. */
export function execCommandFor(
  caller: Caller,
  act: (
    id: string,
    argv: readonly string[],
    options: ExecOptions,
    it: KilnCommand,
  ) => Promise<void>,
): KilnCommand {
  const it = new KilnCommand('exec')
    .description(
      'Run a further command in a sandbox that runs or was kept; exit with the status of that command.',
    )
    .usage('[options] ID [--] COMMAND [ARGUMENT…]')
    .argument('<id>', ID)
    .argument('<command...>', 'the command and its arguments')
    .passThroughOptions();
  return it
    .rows(EXEC, caller)
    .addHelpText(
      'after',
      `
It has the image, files, network and limits of the sandbox, and ends with the command that the sandbox was made for.

Examples:
  kiln run -r debian-build --detach --name nightly -- make check; kiln exec nightly -- ps aux
  kiln exec -t 3fa9c1d2e4 bash
  kiln exec --copy-in hello.c:/tmp/hello.c 3fa9 -- gcc -o /tmp/hello /tmp/hello.c
  kiln exec --user root 3fa9 -- cat /proc/1/status`,
    )
    .action(async (id: string, argv: string[], options: ExecOptions) => {
      // Options end at the id, so a `--` behind it is passed through.
      const words = argv[0] === '--' ? argv.slice(1) : argv;
      if (words.length === 0) it.error('kiln: a command is missing');
      await act(id, words, options, it);
    });
}

/** How long a running sandbox may take no further command, ms: its own may be about to begin, or to end. */
const CLOSED_MAX = 2000;
/** The same of a kept one, which another command has just entered or left: on a busy host that takes longer. */
const KEPT_CLOSED_MAX = 30_000;
const PAUSE = 50;

export async function enter(
  word: string,
  argv: readonly string[],
  options: ExecOptions,
  command: KilnCommand,
  caller: Caller,
): Promise<void> {
  const { detachKeys = LEAVE_KEYS } = options;
  const { begin } = await detach({ ...options, detachKeys }, command, caller);
  await using engine = caller.openEngine();
  const { id, record } = await sandboxOf(engine, word);
  const { TERM } = caller.env;
  const { tty = false, user, workdir, copyIn, publish } = options;
  const request: ExecuteRequest = {
    argv,
    env: { ...(TERM && tty ? { TERM } : {}), ...options.env },
    ...defined({ workdir }),
    ...(user === undefined ? {} : { user: userIn(engine, record.image, user) }),
    ...(tty ? { terminal: caller.windowSize } : {}),
  };
  const isolation = record.machine === undefined ? 'container' : 'vm';
  currentAction()?.entered({ sandbox: id, image: record.image, isolation, argv });
  const begun = performance.now();
  for (;;) {
    const now = await findSandbox(engine, id);
    try {
      if (now.state === 'kept')
        return await enterKept(engine, id, { ...request, copyIn, publish }, begin, caller);
    } catch (error) {
      if (!isKilnCode(error, 'E_SANDBOX_BUSY')) throw error;
    }
    const holder = now.state === 'running' ? connectHolder(now.folder) : undefined;
    if (holder !== undefined && copyIn.length > 0) {
      closeDescriptor(holder);
      throw new KilnError('E_ARGUMENT', `--copy-in: another command holds sandbox ${id}`, {
        hint: 'it is for kept sandboxes; standard input reaches the command in others as well',
      });
    }
    if (holder !== undefined) {
      using _ports = await portsBy(now, publish);
      const visited = await visit(holder, request, caller.handOver).catch((error) => {
        // The holder's own command has ended just now: a kept sandbox is entered anew.
        if (!isKilnCode(error, 'E_SANDBOX_GONE')) throw error;
      });
      if (visited !== undefined) {
        begin(id);
        return await runAttached(visited.command, visited.leave, caller, tty);
      }
    }
    const most = now.record.session === undefined ? CLOSED_MAX : KEPT_CLOSED_MAX;
    if (now.state !== 'running' || performance.now() - begun > most) throw closedError(now);
    await sleep(PAUSE);
  }
}

export async function sandboxOf(engine: Engine, word: string): Promise<ListedSandbox> {
  const meant = await sandboxWithId(engine, word);
  if (meant !== undefined) return meant;
  const jobs = await listJobs(engine.paths, engine.owner);
  const running = jobs.filter(({ state }) => state === 'running');
  const job = running.findLast((each) => isMeant(each, word, engine.owner, 4));
  if (job === undefined) {
    const sandboxes = await listSandboxes(engine.paths, engine);
    try {
      return sandboxMeant(jobs, word, engine.owner, sandboxes);
    } catch (error) {
      if (!(await recipeNames(engine.paths)).includes(word)) throw error;
      throw new KilnError('E_NO_SANDBOX', `there is no sandbox ${word}: that is an image`, {
        hint: `\`kiln shell -r ${word}\` opens a shell in a new sandbox`,
      });
    }
  }
  const { sandbox } = job.record;
  if (sandbox !== undefined) return await findSandbox(engine, sandbox);
  throw new KilnError('E_NO_SANDBOX', `job ${word} has no sandbox that can be entered`, {
    hint: 'builds cannot be entered; `kiln build --keep` keeps the sandbox of one that fails',
  });
}

function userIn({ paths }: OwnEngine, image: string | undefined, user: string): string {
  const manifest = image === undefined ? undefined : readManifest(paths, image);
  if (manifest !== undefined) return commandUser(manifest, user).spec;
  throw new KilnError('E_NO_USER', `user ${user}: the image of the sandbox is gone`, {
    hint: 'leave --user out: the command is the user that the sandbox was made for',
  });
}

/** By whoever holds the sandbox; undefined where none are wanted, or nobody does any more. */
async function portsBy({ folder }: ListedSandbox, ports: readonly PublishedPort[]) {
  const holder = ports.length === 0 ? undefined : connectHolder(folder);
  return holder === undefined ? undefined : await visitPorts(holder, ports);
}

async function enterKept(
  engine: OwnEngine,
  id: string,
  request: ExecuteRequest & {
    readonly copyIn: readonly CopyInItem[];
    readonly publish: readonly PublishedPort[];
  },
  begin: (sandbox: string) => void,
  caller: Caller,
): Promise<void> {
  await whileKept(engine, id, async ({ sandbox, kept }) => {
    if (request.copyIn.length > 0) {
      await sandbox.tree.copyIn(request.copyIn, (warning) => printWarning(warning, caller.stderr));
    }
    await sandbox.ports.publish([...sandbox.plannedPorts, ...request.publish]);
    const visitors = new Visitors(sandbox, kept);
    const { terminal } = request;
    const { process: command } = await sandbox.start(sandbox.furtherCommand(request, kept), {
      terminal,
      handOver: caller.handOver,
    });
    begin(id);
    const kill = () => void command.kill('SIGKILL');
    await runAttached(command, kill, caller, terminal !== undefined);
    visitors.close();
    if (visitors.count > 0) {
      caller.stderr.say('kiln: waiting for another command of `kiln exec` in this sandbox\n');
    }
    await visitors.left();
    printEgressRefusals((await sandbox.closeEgress()) ?? [], caller.stderr);
  });
}

export interface EnteredSandbox {
  readonly sandbox: PlannedSandbox;
  readonly kept: KeptCommand;
}

/** Acts in a kept sandbox, which nobody else enters meanwhile. @throws what `act` and entering it throw */
export async function whileKept<Result>(
  engine: OwnEngine,
  id: string,
  act: (opened: EnteredSandbox) => Promise<Result>,
  how: { readonly rollsBack?: boolean } = {},
): Promise<Result> {
  const { sandbox, kept, keepUntil } = await PlannedSandbox.reopen(engine, id, how);
  const left = () => keepUntil - Date.now();
  try {
    return await act({ sandbox, kept });
  } finally {
    await (left() > 0 ? sandbox.keep(left(), kept) : sandbox.close()).catch((error: unknown) => {
      // Somebody has killed it, and the command's end says so.
      if (!isKilnCode(error, 'E_SANDBOX_GONE')) throw error;
    });
  }
}

interface Doing<Result> {
  readonly kept: (opened: EnteredSandbox) => Promise<Result>;
  /** @param holder a connection, which is closed afterwards */
  readonly held: (holder: number, sandbox: ListedSandbox) => Promise<Result>;
}

/** How long a sandbox may be between two commands, and take no visitor. Milliseconds. */
const BETWEEN = 5000;

/** Acts in a sandbox that a word means, whether it is kept or somebody holds it. @throws KilnError E_NO_SANDBOX */
export async function atSandbox<Result>(
  engine: OwnEngine,
  word: string,
  act: Doing<Result>,
): Promise<Result> {
  const { id } = await sandboxOf(engine, word);
  for (const end = performance.now() + BETWEEN; ; await sleep(PAUSE)) {
    const now = await findSandbox(engine, id);
    try {
      if (now.state === 'kept') return await whileKept(engine, id, act.kept);
      const holder = now.state === 'running' ? connectHolder(now.folder) : undefined;
      if (holder !== undefined) return await act.held(holder, now);
    } catch (error) {
      if (!isKilnCode(error, 'E_SANDBOX_BUSY') || performance.now() > end) throw error;
    }
    if (now.state !== 'kept' && (now.state !== 'running' || performance.now() > end))
      throw closedError(now);
  }
}
