/**
 * Starts a process that goes on by itself. Node's own spawn() takes four milliseconds of a run for it,
 * with what it has to load, posix_spawn(3) one. Constants are glibc's spawn.h, signal.h, fcntl.h.
 */
import { getSystemErrorName } from 'node:util';
import { libc } from './c-library.ts';
import { keepDescriptors } from './descriptor.ts';
import { withoutOrders } from './own-node.ts';
import { ownEnvironment } from './own-process.ts';

const POSIX_SPAWN_SETSIGDEF = 0x04;
const POSIX_SPAWN_SETSID = 0x80;
const SIGPIPE = 13;
const SIGXFSZ = 25;
const O_RDWR = 2;

/** More than posix_spawn_file_actions_t (80), posix_spawnattr_t (336) and sigset_t (128) take, bytes. */
const STRUCTURE = 512;

/**
 * Starts `argv` (its first word is a path) in a session of its own, with the same environment,
 * what a Node takes orders from left out, and nothing on its stdio. Nobody waits for it. Throws an error with the code of errno(3).
 */
export function spawnDetached(argv: readonly [string, ...string[]]): void {
  const init = libc.func('int posix_spawn_file_actions_init(void *actions)');
  const open = libc.func(
    'int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, uint mode)',
  );
  const destroy = libc.func('int posix_spawn_file_actions_destroy(void *actions)');
  const initAttributes = libc.func('int posix_spawnattr_init(void *attributes)');
  const setFlags = libc.func('int posix_spawnattr_setflags(void *attributes, short flags)');
  const setDefaults = libc.func(
    'int posix_spawnattr_setsigdefault(void *attributes, void *signals)',
  );
  const spawn = libc.func(
    'int posix_spawn(void *pid, const char *path, void *actions, void *attributes, const char **argv, const char **envp)',
  );
  const [actions, attributes, signals] = [
    Buffer.alloc(STRUCTURE),
    Buffer.alloc(STRUCTURE),
    Buffer.alloc(STRUCTURE),
  ];
  // Node ignores these, and what is ignored stays so across exec.
  signals.writeUInt32LE((1 << (SIGPIPE - 1)) | (1 << (SIGXFSZ - 1)), 0);
  keepDescriptors();
  done(init(actions));
  try {
    for (const fd of [0, 1, 2]) done(open(actions, fd, '/dev/null', O_RDWR, 0));
    done(initAttributes(attributes));
    done(setFlags(attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF));
    done(setDefaults(attributes, signals));
    const environment = Object.entries(withoutOrders(ownEnvironment)).map(
      ([name, value]) => `${name}=${value}`,
    );
    const pid = Buffer.alloc(4);
    done(spawn(pid, argv[0], actions, attributes, [...argv, null], [...environment, null]));
  } finally {
    destroy(actions);
  }
}

/** These give errno instead of setting it. */
function done(errno: number): void {
  if (errno === 0) return;
  const code = getSystemErrorName(-errno);
  throw Object.assign(new Error(`${code}: posix_spawn`), { code, errno: -errno });
}
