/** What somebody does with kiln, from the call to its end, and the events that it comes to. */
import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes } from 'node:crypto';
import { defined } from '../defined.ts';
import type { EgressEntry } from '../egress/rule.ts';
import type { KilnError } from '../errors.ts';
import type { StateRoot } from '../host/state/paths.ts';
import {
  type Actor,
  type Entered,
  egressDecisions,
  type KilnEvent,
  shortList,
  shortText,
} from './event.ts';
import { writeEvent } from './event-log.ts';
import { ownProcess } from './process.ts';

/** When the start of a command is told: once its sandbox is known, or at once. What only looks has no events. */
const TOLD: Readonly<Record<string, 'entered' | 'at once'>> = {
  ...told('entered', 'run', 'shell', 'exec', 'open', 'build', 'mock', 'farm step'),
  ...told('entered', 'ci gitlab prepare', 'ci gitlab run', 'ci github-hook'),
  ...told('at once', 'image build', 'image lock', 'image pull', 'image import', 'image export'),
  ...told('at once', 'image rm', 'image commit', 'image tag', 'image prune'),
  ...told('at once', 'snapshot', 'snapshot rm', 'fork', 'rollback', 'cp', 'stop'),
  ...told('at once', 'service create', 'service clone', 'service set'),
  ...told('at once', 'service start', 'service stop', 'service restart', 'service reload'),
  ...told('at once', 'service delete', 'service upgrade', 'service backup', 'service restore'),
  ...told('at once', 'service install', 'service uninstall', 'service execute'),
  ...told('at once', 'service logrotate', 'farm cancel', 'gc'),
  ...told('at once', 'service connect', 'apply', 'discard', 'kill', 'user remove', 'user confirm'),
};

function told<When extends string>(when: When, ...commands: string[]): Record<string, When> {
  return Object.fromEntries(commands.map((command) => [command, when]));
}

/** kiln refuses what its caller may not do; all else is a failure. */
const REFUSALS: readonly string[] = ['E_FORBIDDEN', 'E_ACCOUNT'];

const KILN_FAILED = 125;

const open = new Set<Action>();

/** With what the caller named in place of kiln's own paths. */
type Renamed = (text: string) => string;

export interface ActionOptions {
  readonly paths: StateRoot;
  readonly actor: () => Actor;
  readonly by: KilnEvent['by'];
  /** Where it is known from the start: see {@link Action.renamesBy}. */
  readonly renamed?: Renamed;
}

export class Action {
  readonly id = randomBytes(5).toString('hex');
  readonly #options: ActionOptions;
  readonly #begun = performance.now();
  #actor: Actor | undefined;
  #renamed: Renamed;
  #command = '';
  #about: Entered & { readonly job?: string } = {};
  #isTold = false;
  #isOver = false;
  #status = KILN_FAILED;
  #limit: string | undefined;
  #failure:
    | { readonly why: Pick<KilnEvent, 'code' | 'message'>; readonly status: number }
    | undefined;

  constructor(options: ActionOptions) {
    this.#options = options;
    this.#renamed = options.renamed ?? ((text) => text);
  }

  renamesBy(renamed: Renamed): void {
    this.#renamed = renamed;
  }

  /** The command's words, and what it is to work on. */
  named(command: string, argv: readonly string[]): void {
    this.#command = command;
    if (TOLD[command] === undefined || argv.length === 0) return;
    this.#about = { ...this.#about, argv: this.#list(argv) };
  }

  /** The command goes by this name where it has told of none. */
  isFor(command: string): void {
    if (this.#command === '') this.#command = command;
  }

  /** The caller may do it: who is refused has started nothing. */
  admitted(): void {
    if (TOLD[this.#command] === 'at once') this.#start();
  }

  isJob(id: string): void {
    this.#about = { ...this.#about, job: id };
  }

  /** A sandbox of the command is there, and nothing runs in it yet. */
  entered({ argv, binds, egress, publish, ...sandbox }: Entered): void {
    if (this.#isTold || TOLD[this.#command] !== 'entered') return;
    // Packages are installed in one without an image; mock has no other.
    if (sandbox.image === undefined && this.#command !== 'mock' && this.#command !== 'exec') return;
    const lists = defined({
      argv: argv && this.#list(argv),
      binds: binds && this.#list(binds),
      egress: egress && this.#list(egress),
      publish: publish && this.#list(publish),
    });
    this.#about = { ...this.#about, ...sandbox, ...lists };
    this.#start();
  }

  /** What a command has found, or made, that runs nothing. */
  found({ sandboxes, ...about }: Entered): void {
    const made = defined({ sandboxes: sandboxes && shortList(sandboxes) });
    this.#about = { ...this.#about, ...about, ...made };
  }

  hitLimit(limit: string): void {
    this.#limit ??= limit;
  }

  /** @param status the command's, if this is why it ends */
  failed(error: KilnError, status: number): void {
    const message = shortText(this.#renamed(error.message));
    this.#failure ??= { why: { code: error.code, message }, status };
  }

  exit(status: number): void {
    this.#status = status;
  }

  /** What the proxy of a sandbox has let through and refused. */
  reached(entries: readonly EgressEntry[], sandbox: string): void {
    if (!this.#isTold) return;
    for (const decision of egressDecisions(entries)) {
      this.#write('egress', defined({ job: this.#about.job, sandbox, ...decision }));
    }
  }

  /** Another process does it, and tells. */
  handOver(): void {
    this.#isOver = true;
    open.delete(this);
  }

  finish(outcome?: 'interrupted'): void {
    if (this.#isOver) return;
    this.handOver();
    const status = this.#status;
    const why = this.#failure?.status === status ? this.#failure.why : {};
    const { code } = why;
    if (!this.#isTold && code !== undefined && REFUSALS.includes(code)) {
      this.#write('refused', { ...this.#about, ...why, status });
      return;
    }
    if (TOLD[this.#command] === undefined || (!this.#isTold && status === 0)) return;
    this.#write('end', {
      ...this.#about,
      outcome: outcome ?? (code === undefined ? 'ended' : 'failed'),
      ...{ status, ...why, ...defined({ limit: this.#limit }) },
      duration: Math.round(performance.now() - this.#begun),
    });
  }

  #list(list: readonly string[]): string[] {
    return shortList(list.map((text) => this.#renamed(text)));
  }

  #start(): void {
    if (this.#isTold) return;
    this.#isTold = true;
    if (open.size === 0) watchExit();
    open.add(this);
    this.#write('start', { ...this.#about, process: ownProcess() });
  }

  #write(
    event: KilnEvent['event'],
    about: Partial<KilnEvent> & { readonly process?: string },
  ): void {
    const { paths, actor, by } = this.#options;
    this.#actor ??= actor();
    const time = new Date().toISOString();
    // A sweep looks for the first two at their place.
    const first = { event, id: this.id, time };
    writeEvent(paths, {
      ...first,
      ...defined(this.#actor),
      command: this.#command,
      by,
      ...about,
    } as KilnEvent);
  }
}

let isWatched = false;

/** A process that ends by itself tells of what it had not finished. */
function watchExit(): void {
  if (isWatched) return;
  isWatched = true;
  process.on('exit', () => {
    for (const action of open) action.finish('interrupted');
  });
}

const actions = new AsyncLocalStorage<Action>();

export function currentAction(): Action | undefined {
  return actions.getStore();
}

/** What kiln does in a sandbox of its own for a command is no event of the command's. */
export async function untold<Result>(task: () => Promise<Result>): Promise<Result> {
  return await actions.exit(task);
}

/** Within another action, `task` is a part of that. */
export async function acting<Result>(
  options: ActionOptions | undefined,
  task: () => Promise<Result>,
): Promise<Result> {
  if (options === undefined || currentAction() !== undefined) return await task();
  const action = new Action(options);
  try {
    return await actions.run(action, task);
  } finally {
    action.finish();
  }
}
