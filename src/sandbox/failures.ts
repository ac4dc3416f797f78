/** What an init's refusals mean for whoever asked. */
import { KilnError } from '../errors.ts';
import { errnoName } from '../kernel/libc.ts';
import type { BoxLabels } from './labels/labels.ts';
import { contextAt } from './labels/relabel.ts';
import { layerMissing } from './layers.ts';
import type { Answer } from './protocol/answer.ts';
import type { Bind } from './specification.ts';

/** What a box was to get. */
export interface SetupContent {
  /** What each descriptor is of. */
  readonly sources: readonly string[];
  readonly binds: readonly Bind[];
  readonly labels: BoxLabels | undefined;
}

type Failed = Extract<Answer, { type: 'failed' }>;

const TOO_FEW_PROCESSES =
  'give more --pids: beside the command’s own processes the box’s init counts, too';

const LOW_LIMITS =
  'the hard limit of core dumps must not be 0 where libvirtd is started: `ulimit -H -c unlimited`';

/** What the init says of a layer that it found missing: `prove the box closed: LAYER: what`. */
const UNPROVEN = 'prove the box closed: ';

/** The same of a command, before anything of it is executed. */
const UNCONFINED = 'prove the command confined: ';

/** What it says of a system’s own /proc and cgroups that are not closed: see src/guest/boot.c. */
const UNBOOTED = 'boot: ';

/** What it says of the first descriptor that the kernel did not give it: `receive descriptor N`. */
const KEPT_BACK = 'receive descriptor ';

/** The error for a box that could not be filled. */
export function setupFailed(answer: Failed, content: SetupContent): KilnError {
  if (answer.what.startsWith(UNPROVEN)) {
    const [layer = '', ...found] = answer.what.slice(UNPROVEN.length).split(': ');
    return layerMissing(layer, found.join(': '));
  }
  const errno = errnoName(answer.errno);
  if (answer.what.startsWith(KEPT_BACK)) {
    return keptBack(Number(answer.what.slice(KEPT_BACK.length)), errno, content);
  }
  const mount = mountRefused(answer.what, errno, content.binds);
  if (mount !== undefined) return mount;
  return new KilnError('E_SETUP', `the sandbox could not ${answer.what}: ${errno}`, {
    hint: isForkRefused(answer)
      ? TOO_FEW_PROCESSES
      : '`kiln doctor` tells whether this host lacks something',
    details: { errno },
  });
}

/** A mount that does not fit what the image has at its place. */
function mountRefused(what: string, errno: string, binds: readonly Bind[]): KilnError | undefined {
  if (errno !== 'EINVAL' && errno !== 'ENOTDIR') return undefined;
  const [, target] = /^(?:bind|mount tmpfs on) (\/.*)$/.exec(what) ?? [];
  if (target === undefined) return undefined;
  const bind = what.startsWith('bind') ? binds.find((it) => it.target === target) : undefined;
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

function keptBack(index: number, errno: string, content: SetupContent): KilnError {
  const { sources, binds, labels } = content;
  const source = sources[index] ?? 'a file';
  const details = { errno, source };
  if (errno === 'EMFILE') {
    return new KilnError(
      'E_BIND',
      `cannot bind ${source}: a sandbox takes ${index} mounts at most`,
      {
        hint: 'bind a folder that they are all in',
        details,
      },
    );
  }
  if (labels?.module !== 'selinux') {
    return new KilnError(
      'E_BIND',
      `this host’s security module keeps ${source} out of the sandbox`,
      {
        hint: '`journalctl -k` shows what it denied',
        details,
      },
    );
  }
  const context = contextAt(source) ?? 'without a label';
  const bound = binds.some((bind) => bind.source === source);
  return new KilnError(
    'E_BIND',
    `SELinux keeps ${source} out of the sandbox: ${labels.init} may not use ${context}`,
    {
      hint: bound
        ? 'let kiln label it: `--bind SRC:DST:Z` for this sandbox alone, `:z` for all of them'
        : '`ausearch -m avc -ts recent` shows what it denied, `kiln doctor` whether the policy is whole',
      details: { ...details, context, init: labels.init },
    },
  );
}

/** The error for a command that could not be started. */
export function execFailed(answer: Failed, argv: readonly string[]): KilnError {
  const errno = errnoName(answer.errno);
  const command = argv[0] ?? '';
  const details = { errno, command };
  if (answer.what.startsWith('exec')) {
    if (errno === 'ENOENT') {
      return new KilnError('E_COMMAND_NOT_FOUND', `${command}: not found in the image`, {
        details,
        hint: 'add the package that has it to the image recipe, or give its whole path',
      });
    }
    return new KilnError('E_COMMAND_NOT_EXECUTABLE', `${command}: cannot be executed: ${errno}`, {
      details,
      hint:
        errno === 'EACCES'
          ? 'it needs the permission (`chmod +x`); a script also runs by its interpreter: `sh FILE`'
          : 'it must be a program for this processor, or a script that begins with #!',
    });
  }
  if (answer.what.startsWith('find user')) {
    return new KilnError('E_NO_USER', `the image has no ${answer.what.slice(5)}`, {
      details,
      hint: 'see /etc/passwd of the image, or give a numeric id',
    });
  }
  if (answer.what.startsWith('chdir')) {
    return new KilnError('E_WORKDIR', `cannot enter ${answer.what.slice(6)}: ${errno}`, {
      details,
      hint: '--workdir names a folder of the image, or one that is bound or copied into the sandbox',
    });
  }
  if (answer.what.startsWith(UNBOOTED)) {
    return layerMissing('boot', answer.what.slice(UNBOOTED.length));
  }
  if (answer.what.startsWith(UNCONFINED)) {
    return layerMissing(answer.what.slice(UNCONFINED.length), 'not in force on the command');
  }
  if (answer.what === 'landlock') return layerMissing('landlock', `not in force (${errno})`);
  return new KilnError('E_EXEC', `cannot start ${command}: ${answer.what}: ${errno}`, {
    details,
    ...(isForkRefused(answer) ? { hint: TOO_FEW_PROCESSES } : {}),
    ...(answer.what === 'setrlimit' ? { hint: LOW_LIMITS } : {}),
  });
}

/** Of all that an init does, only fork(2) is refused with EAGAIN, and for the limit of processes. */
function isForkRefused(answer: Failed): boolean {
  return answer.what === 'fork' && errnoName(answer.errno) === 'EAGAIN';
}
