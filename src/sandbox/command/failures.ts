import { KilnError } from '../../errors.ts';
import { errnoName } from '../../host/calls/libc.ts';
import type { SandboxLabels } from '../labels/module.ts';
import { contextAt } from '../labels/relabel.ts';
import { tooManyMountsError } from '../policy/filesystem.ts';
import { layerMissingError } from '../policy/layers.ts';
import type { Bind, GuestBind } from '../policy/specification.ts';
import { type AnswerOf, FAILURES, type FailureRow } from '../wire/table.ts';

export interface SetupContent {
  readonly sources: readonly string[];
  readonly binds: readonly Bind[];
  readonly guestBinds: readonly GuestBind[];
  readonly labels: SandboxLabels | undefined;
}

type Failed = AnswerOf<'failed'>;

const TOO_FEW_PROCESSES =
  'give more --pids: beside the command’s own processes the sandbox’s init counts, too';

const LOW_LIMITS =
  'the hard limit of core dumps must not be 0 where libvirtd is started: `ulimit -H -c unlimited`';

export function failureWords({ failure, error, number, text }: Failed): string {
  const values: Readonly<Record<string, unknown>> = { text, number, errno: errnoName(error) };
  const [, words] = FAILURES[failure];
  return words.replace(/\{(\w+)\}/g, (_, name: string) => String(values[name]));
}

function openLayer(answer: Failed): KilnError | undefined {
  const [, , layer] = FAILURES[answer.failure] as FailureRow;
  return layer === undefined ? undefined : layerMissingError(layer, failureWords(answer));
}

export function setupError(answer: Failed, content: SetupContent): KilnError {
  const errno = errnoName(answer.error);
  return (
    openLayer(answer) ??
    keptBackError(answer, errno, content) ??
    mountError(answer, errno, content) ??
    guestBindError(answer, errno, content) ??
    operationError(answer)
  );
}

export function operationError(answer: Failed): KilnError {
  const errno = errnoName(answer.error);
  return new KilnError('E_SETUP', `the sandbox could not ${failureWords(answer)}: ${errno}`, {
    hint: isForkRefused(answer)
      ? TOO_FEW_PROCESSES
      : '`kiln doctor` tells whether this host lacks something',
    details: { errno },
  });
}

function mountError(
  { failure, text: target }: Failed,
  errno: string,
  { binds }: SetupContent,
): KilnError | undefined {
  if (errno !== 'EINVAL' && errno !== 'ENOTDIR') return undefined;
  if (failure !== 'bind' && failure !== 'tmpfs') return undefined;
  const bind = failure === 'bind' ? binds.find((it) => it.target === target) : undefined;
  const [message, hint] =
    bind === undefined
      ? [
          `cannot mount a tmpfs on ${target}: there is a file in its place`,
          '--tmpfs takes a folder, or a path that the image does not have',
        ]
      : [
          `cannot bind ${bind.source} to ${target}: one is a folder, the other is not`,
          'name another DST (--bind SRC:DST): a folder goes on a folder, a file on a file',
        ];
  return new KilnError('E_BIND', message, { hint, details: { errno, target } });
}

const GUEST_BIND_ERRORS: Readonly<Record<string, readonly [problem: string, hint: string]>> = {
  ENOENT: [
    'one of them is not there',
    'the source must be in the image, or a mount of the sandbox',
  ],
  EACCES: [
    'one of them leads to where the sandbox’s walls are',
    'nothing is bound from or to /, /proc, /dev, /sys and /run/secrets, also by a link',
  ],
  ELOOP: ['one of them has a link that leads nowhere', 'name the places without links'],
  ENOTDIR: ['one is a folder, the other is not', 'a folder goes on a folder, a file on a file'],
};

function guestBindError(
  { failure, text: target }: Failed,
  errno: string,
  { guestBinds }: SetupContent,
): KilnError | undefined {
  const bind = guestBinds.find((it) => it.target === target);
  const [problem, hint] = GUEST_BIND_ERRORS[errno === 'EINVAL' ? 'ENOTDIR' : errno] ?? [];
  if (failure !== 'guest-bind' || bind === undefined || problem === undefined) return undefined;
  const message = `cannot bind ${bind.source} of the sandbox to ${target}: ${problem}`;
  return new KilnError('E_BIND', message, { hint, details: { errno, target } });
}

function keptBackError(
  { failure, number: index }: Failed,
  errno: string,
  { sources, binds, labels }: SetupContent,
): KilnError | undefined {
  if (failure !== 'kept-back') return undefined;
  const source = sources[index] ?? 'a file';
  const details = { errno, source };
  if (errno === 'EMFILE') return tooManyMountsError(source);
  if (labels?.module !== 'selinux') {
    const what = `this host’s security module keeps ${source} out of the sandbox`;
    return new KilnError('E_BIND', what, { hint: '`journalctl -k` shows what it denied', details });
  }
  const context = contextAt(source) ?? 'without a label';
  const bound = binds.some((bind) => bind.source === source);
  const what = `SELinux keeps ${source} out of the sandbox: ${labels.init} may not use ${context}`;
  return new KilnError('E_BIND', what, {
    hint: bound
      ? 'let kiln label it: `--bind SRC:DST:Z` for this sandbox alone, `:z` for all of them'
      : '`ausearch -m avc -ts recent` shows what it denied, `kiln doctor` whether the policy is whole',
    details: { ...details, context, init: labels.init },
  });
}

export function execError(answer: Failed, argv: readonly string[], seccomp: string): KilnError {
  const errno = errnoName(answer.error);
  const command = argv[0] ?? '';
  const details = { errno, command };
  if (answer.failure === 'exec') {
    if (errno === 'ENOENT') {
      return new KilnError('E_COMMAND_NOT_FOUND', `${command}: not found in the image`, {
        details,
        hint: command.includes('/')
          ? 'a file of this host is there only where --bind or --copy-in puts it: with `--bind .:/src:ro` this folder is /src'
          : 'add the package that has it to the image recipe, or give its whole path; files of this host are there only where --bind or --copy-in puts them',
      });
    }
    return new KilnError('E_COMMAND_NOT_EXECUTABLE', `${command}: cannot be executed: ${errno}`, {
      details,
      hint:
        errno === 'EACCES'
          ? 'it must be a file, not a folder, with the permission (`chmod +x`); a script also runs by its interpreter: `sh FILE`'
          : 'it must be a program for this processor, or a script that begins with #!',
    });
  }
  if (answer.failure === 'user') {
    return new KilnError('E_NO_USER', `the image has no user ${answer.text}`, {
      details,
      hint: 'see /etc/passwd of the image, or give a numeric id',
    });
  }
  if (answer.failure === 'chdir') {
    return new KilnError('E_WORKDIR', `cannot enter ${answer.text}: ${errno}`, {
      details,
      hint: '--workdir, or else the image’s own workdir, names a folder of the image, or one that is bound or copied into the sandbox',
    });
  }
  // Behind its filter a start still makes calls. The profiles that come with kiln are no paths.
  const refusal = seccomp.includes('/')
    ? {
        hint: `the seccomp profile ${seccomp} may refuse what a start takes, such as read, write, openat and execve`,
      }
    : undefined;
  const open = openLayer(answer);
  if (open !== undefined) {
    return refusal === undefined
      ? open
      : new KilnError(open.code, open.message, { details: open.details, ...refusal });
  }
  if (answer.failure === 'terminal' && errnoName(answer.error) === 'ENOSPC') {
    return new KilnError('E_EXEC', `cannot start ${command}: no terminal is free`, {
      details,
      hint: 'end programs that hold terminals: a sandbox has 64, the host what the sysctl kernel.pty.max says',
    });
  }
  return new KilnError('E_EXEC', `cannot start ${command}: ${failureWords(answer)}: ${errno}`, {
    details,
    ...(isForkRefused(answer) ? { hint: TOO_FEW_PROCESSES } : {}),
    ...(answer.failure === 'setrlimit' ? { hint: LOW_LIMITS } : {}),
    ...(answer.failure === 'start' ? refusal : {}),
  });
}

/** EAGAIN means the limit of processes: of all that an init does, only fork(2) fails with it. */
function isForkRefused(answer: Failed): boolean {
  return answer.failure === 'fork' && errnoName(answer.error) === 'EAGAIN';
}
