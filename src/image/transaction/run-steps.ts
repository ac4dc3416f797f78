import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { encodeName } from '../../packages/rpm/filename.ts';
import type { RpmPackage } from '../../packages/rpm/package.ts';
import { shellWord } from '../../shell-words.ts';
import type { DeferredOwner } from '../tree/compose.ts';
import type { TransactionStep } from './plan.ts';
import type {
  ControlDirectory,
  TransactionResult,
  TransactionSandbox,
} from './transaction-sandbox.ts';

const SHOWN_LINES = 20;

export interface StepContext {
  readonly sandbox: TransactionSandbox;
  readonly control: ControlDirectory;
  readonly rpm: string | undefined;
  readonly deferred: readonly DeferredOwner[];
  /** They bring /etc/passwd and /etc/group; before them no name is known. */
  readonly accountsFrom: readonly RpmPackage[];
  /** Seconds for each script. */
  readonly timeout: number;
  readonly signal?: AbortSignal | undefined;
  readonly onStep: (label: string) => void;
}

/**
 * The tree has all payloads. @returns warnings: what rpm would only have reported. @throws KilnError
 * E_SCRIPTLET where rpm would not have installed the package
 */
export async function runSteps(
  steps: readonly TransactionStep[],
  context: StepContext,
): Promise<string[]> {
  const runner = new StepRunner(context);
  for (const step of steps) await runner.step(step);
  await runner.setOwners();
  return runner.warnings;
}

class StepRunner {
  readonly warnings: string[] = [];
  readonly #context: StepContext;
  readonly #accountsMissing: Set<RpmPackage>;
  readonly #unowned = new Set<RpmPackage>();
  #sysusers: string | undefined;

  constructor(context: StepContext) {
    this.#context = context;
    this.#accountsMissing = new Set(context.accountsFrom);
  }

  async step(step: TransactionStep): Promise<void> {
    if (step.kind === 'payload') {
      // Names count once the files that define them exist. Until then everything is root's.
      this.#accountsMissing.delete(step.package);
      if (this.#accountsMissing.size === 0) this.#unowned.add(step.package);
      return;
    }
    await this.setOwners();
    this.#context.signal?.throwIfAborted();
    this.#context.onStep(step.label);
    if (step.kind === 'sysusers') await this.#addUsers(step);
    else await this.#script(step);
  }

  /** Only scripts make users, so owners need to be right only when the next script starts. */
  async setOwners(): Promise<void> {
    const { deferred, control } = this.#context;
    const entries = deferred.filter((entry) => this.#unowned.has(entry.package));
    this.#unowned.clear();
    if (entries.length === 0) return;
    const path = control.addScript(ownersScript(entries));
    const result = await this.#run(['/bin/sh', path]);
    if (!succeeded(result)) throw stepError('giving files their owners', result);
    this.warnings.push(...new Set(result.output.split('\n').filter(Boolean)));
  }

  async #script(step: Extract<TransactionStep, { kind: 'script' }>): Promise<void> {
    const { script, counts, input, label } = step;
    const argv = script.lua ? this.#luaCommand(step) : this.#command(step);
    const lines = script.lua ? [] : input;
    const result = await this.#run(argv, encodeName(lines.map((line) => `${line}\n`).join('')));
    if (succeeded(result)) return;
    const critical = script.critical || /^%(?:prein|pretrans)\(/.test(label);
    if (critical || result.timedOut) throw stepError(`${label} scriptlet`, result);
    this.warnings.push(`${label} scriptlet ${ending(result)}, arguments ${counts.join(' ')}`);
  }

  #command(step: Extract<TransactionStep, { kind: 'script' }>): string[] {
    const { script, counts } = step;
    const interpreter = script.interpreter.length > 0 ? script.interpreter : ['/bin/sh'];
    // `%post -p PROGRAM` without a body: rpm runs the program with no arguments at all.
    if (script.body === '') return [...interpreter];
    return [...interpreter, this.#context.control.addScript(script.body), ...counts.map(String)];
  }

  #luaCommand(step: Extract<TransactionStep, { kind: 'script' }>): string[] {
    const { rpm, control } = this.#context;
    if (rpm === undefined) {
      throw new KilnError('E_SCRIPTLET', `${step.label} is Lua, which only rpm can run`, {
        hint: 'add rpm to the packages of the image',
      });
    }
    const body = control.addScript(step.script.body);
    const program = control.addScript(luaProgram(body, step.counts, step.input));
    return [rpm, '--eval', `%{lua:dofile("${program}")}`];
  }

  async #addUsers(step: Extract<TransactionStep, { kind: 'sysusers' }>): Promise<void> {
    this.#sysusers ??= await this.#sysusersCommand();
    // An rpm without sysusers leaves users to %pre scriptlets.
    if (this.#sysusers === '') return;
    const input = Buffer.from(step.lines.map((line) => `${line}\n`).join(''));
    const result = await this.#run(['/bin/sh', '-c', `${this.#sysusers} -`], input);
    if (!succeeded(result)) throw stepError(step.label, result);
  }

  async #sysusersCommand(): Promise<string> {
    const { rpm } = this.#context;
    if (rpm === undefined) return '';
    const result = await this.#run([rpm, '--eval', '%{?__systemd_sysusers}']);
    return succeeded(result) ? result.output.trim() : '';
  }

  #run(argv: readonly string[], input?: Buffer): Promise<TransactionResult> {
    const { sandbox, timeout, signal } = this.#context;
    return sandbox.run({ argv, timeout, signal, ...defined({ input }) });
  }
}

function succeeded(result: TransactionResult): boolean {
  return result.status === 0 && !result.timedOut;
}

function ending(result: TransactionResult): string {
  if (result.timedOut) return 'took too long and was killed';
  return result.killedBy === null
    ? `failed, exit status ${result.status}`
    : `failed, signal ${result.killedBy}`;
}

export function stepError(what: string, result: TransactionResult): KilnError {
  const lines = result.output.trimEnd().split('\n').slice(-SHOWN_LINES).join('\n  ');
  const output = lines === '' ? '' : `:\n  ${lines}`;
  return new KilnError('E_SCRIPTLET', `${what} ${ending(result)}${output}`, {
    hint: 'the package is at fault, or needs more than a sealed sandbox gives; `scriptlets: {mode: none}` leaves all of them out',
    details: { status: result.status, signal: result.killedBy, timedOut: result.timedOut },
  });
}

/**
 * Runs a `<lua>` scriptlet as rpm does (runLuaScript in lib/rpmscript.c): `arg` holds the interpreter's name
 * and the instance counts, `rpm.next_file()` gives the files of a file trigger. Only rpm has this Lua.
 */
function luaProgram(bodyPath: string, counts: readonly number[], input: readonly string[]): string {
  const lines = [
    `local files, at = {${input.map(luaString).join(', ')}}, 0`,
    ...(input.length > 0 ? ['rpm.next_file = function() at = at + 1; return files[at] end'] : []),
    'posix.chdir("/")',
    'posix.umask("022")',
    `local script = assert(io.open(${luaString(bodyPath)})):read("a")`,
    'local run = assert(load("local opt, arg = ...;" .. script, "@<lua>"))',
    `run({}, {${['"<lua>"', ...counts].join(', ')}})`,
  ];
  return `${lines.join('\n')}\n`;
}

function luaString(text: string): string {
  const escaped = [...Buffer.from(text)].map((byte) => {
    const plain = byte >= 0x20 && byte < 0x7f && byte !== 0x22 && byte !== 0x5c;
    return plain ? String.fromCharCode(byte) : `\\${byte.toString().padStart(3, '0')}`;
  });
  return `"${escaped.join('')}"`;
}

/** As rpm: an unknown owner becomes root, and set-id bits go (rpmfilesStat in rpm's lib/rpmfi.c). */
function ownersScript(deferred: readonly DeferredOwner[]): string {
  const groups = Map.groupBy(deferred, ({ file: { owner, group, mode, type } }) => {
    const wanted = type === 'symlink' ? '' : (mode & 0o7777).toString(8);
    return [wanted, owner, group].map(shellWord).join(' ');
  });
  const calls = [...groups].map(
    ([key, entries]) => `own ${key} ${entries.map((entry) => shellWord(entry.path)).join(' ')}\n`,
  );
  return `${OWN_FUNCTION}${calls.join('')}`;
}

const OWN_FUNCTION = `own() {
  mode=$1 owner=$2 group=$3
  shift 3
  [ "$owner" = root ] || chown -h -- "$owner" "$@" 2>/dev/null || {
    echo "user $owner does not exist - using root"
    [ -z "$mode" ] || mode=$(printf %o "$((0$mode & ~04000))")
  }
  [ "$group" = root ] || chgrp -h -- "$group" "$@" 2>/dev/null || {
    echo "group $group does not exist - using root"
    [ -z "$mode" ] || mode=$(printf %o "$((0$mode & ~02000))")
  }
  [ -z "$mode" ] || chmod -- "$mode" "$@"
}
`;
