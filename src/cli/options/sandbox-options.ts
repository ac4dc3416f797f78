import { KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { readPatiently } from '../../host/files/user-file.ts';
import type { RunRequest } from '../../jobs/run/request.ts';
import { valuesIn } from '../../options/row.ts';
import { SANDBOX, type SandboxOptions } from '../../options/sandbox.ts';
import { VARIABLE } from '../../options/texts.ts';
import { hidingTarget, sharedTarget } from '../../sandbox/policy/specification.ts';
import type { Caller, PathCaller } from '../caller/caller.ts';
import type { KilnCommand } from './command.ts';

/** Opened by the caller. @throws KilnError E_RESULTDIR */
export async function heldResults(
  { resultDirectory }: { resultDirectory?: string },
  { paths }: PathCaller,
): Promise<{ readonly resultDirectory?: HeldPath }> {
  return resultDirectory ? { resultDirectory: await paths.results(resultDirectory) } : {};
}

/** What the rows say, but for the folder for results, which is opened later; checked for what does not go together. */
export function runRequest(
  options: SandboxOptions,
  argv: readonly string[],
  command: KilnCommand,
  caller: RunRequest['caller'],
): RunRequest {
  const { resultDirectory, ...asked } = valuesIn(SANDBOX, options);
  if (asked.artifacts.length > 0 && resultDirectory === undefined) {
    command.error('kiln: --artifact needs --resultdir DIR, where the files go');
  }
  const { binds, tmpfs, guestBinds } = asked;
  const twice = sharedTarget([...binds, ...tmpfs, ...guestBinds]);
  if (twice !== undefined) {
    command.error(`kiln: two mounts are for ${twice}: the second would hide the first`);
  }
  const hiding = hidingTarget(guestBinds, [...binds, ...tmpfs]);
  if (hiding !== undefined) {
    command.error(`kiln: the guest bind on ${hiding} would hide a mount that is below it`);
  }
  if (asked.network === 'host' && asked.allowHostNetwork !== true) {
    command.error(
      'kiln: --network host takes the network’s isolation away: confirm with --allow-host-network',
    );
  }
  if (asked.readOnly === true && asked.capabilities.some((name) => name === 'SYS_ADMIN')) {
    command.error(
      'kiln: --read-only does not hold against SYS_ADMIN, which may mount: leave one of them out',
    );
  }
  if (asked.kernel !== undefined && asked.isolation !== 'vm') {
    command.error('kiln: --kernel is for a machine: give --isolation vm as well');
  }
  return { image: '', ...asked, argv, caller };
}

/** Bytes of one file: more than a command takes as its environment counts as a mistake. */
const FILE_MAX = 1 << 20;

/**
 * The variables of files as podman and docker have them: NAME=VALUE a line, with nothing quoted, NAME for the caller's
 * own value. Of two values the later one counts.
 * @throws KilnError E_ARGUMENT, the signal's reason
 */
export async function readVariables(
  files: readonly HeldPath[],
  { env, paths }: Caller,
  signal?: AbortSignal,
): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const file of files) {
    const name = paths.renamed(file);
    const text = await readPatiently(file, FILE_MAX, signal).catch((cause: unknown) => {
      signal?.throwIfAborted();
      throw new KilnError('E_ARGUMENT', `--env-file: ${name} cannot be read`, {
        cause,
        hint: 'name a file of lines NAME=VALUE, of 1 MiB at most',
      });
    });
    for (const [at, line] of text.toString('utf8').split('\n').entries()) {
      if (/^\s*(?:#|$)/.test(line)) continue;
      const [variable = ''] = line.split('=', 1);
      if (!VARIABLE.test(variable)) {
        throw new KilnError('E_ARGUMENT', `--env-file: ${name}: line ${at + 1} has no NAME=VALUE`, {
          hint: 'a name has letters, digits and _; comments begin with #',
        });
      }
      const value = variable === line ? env[variable] : line.slice(variable.length + 1);
      if (value !== undefined) found[variable] = value;
    }
  }
  return found;
}
