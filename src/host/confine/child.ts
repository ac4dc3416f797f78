import { closeSync, constants, openSync, readFileSync, writeSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { closing } from '../calls/descriptor.ts';
import { addon, checked } from '../calls/system-call.ts';
import { attachMount, changeRoot, mountTmpfs } from '../files/mount.ts';
import { ownArguments } from '../process/own-node.ts';
import { hardLimit, limitResource, setNoNewPrivileges } from '../process/process.ts';
import { listeningTo } from '../process/work.ts';
import { encodeFrame, FrameDecoder, flattenError } from './frame.ts';
import {
  type ConfinedReply,
  type ConfinedRequest,
  DESTINATION_FD,
  FIRST_FD,
  type PerformWork,
  REPLY_FD,
  REQUEST_FD,
  type TaskContext,
  type TaskTable,
  takeWork,
  USER_NAMESPACE_FD,
} from './task.ts';

/**
 * Loads the task, reads the request from descriptor 0, encloses the process, and runs the task. Without a whole
 * request (the parent died) it does nothing.
 */
export async function serveConfined(tasks: TaskTable): Promise<void> {
  try {
    const [name = ''] = ownArguments();
    const load = Object.hasOwn(tasks, name) ? tasks[name] : undefined;
    if (load === undefined) {
      throw new KilnError('E_CONFINE_PROTOCOL', `there is no confined task '${name}'`);
    }
    const { task } = await load();
    await task.prepare?.();
    const request = readRequest();
    if (request === undefined) return;
    enclose(request);
    const emit = (value: unknown) => reply({ type: 'message', value });
    if ('begin' in task) {
      const perform = task.begin(request.input);
      reply({ type: 'begun' });
      await serveQueue(perform, emit);
    } else {
      const fds = Array.from({ length: request.fdCount }, (_, index) => FIRST_FD + index);
      await listeningTo(new Telling(), () => task.run(request.input, { fds, emit }));
    }
    reply({ type: 'done' });
  } catch (error) {
    reply({ type: 'failed', error: flattenError(error) });
  }
}

/** The pause between two messages about what was done, ms. */
const TELL_EVERY = 200;

/** Tells the parent, which knows the stage. */
class Telling {
  #last = performance.now();

  begins(): void {}

  hasDone(done: number): void {
    const now = performance.now();
    if (now - this.#last < TELL_EVERY) return;
    this.#last = now;
    reply({ type: 'progress', done });
  }
}

function readRequest(): ConfinedRequest | undefined {
  const [request] = new FrameDecoder().push(readFileSync(REQUEST_FD));
  return request as ConfinedRequest | undefined;
}

async function serveQueue(perform: PerformWork, emit: TaskContext['emit']): Promise<void> {
  for (const work of takeWork(FIRST_FD)) {
    try {
      reply({ type: 'answered', value: await perform(work, emit) });
    } catch (error) {
      reply({ type: 'answered', error: flattenError(error) });
    } finally {
      for (const fd of work.fds) closeSync(fd);
    }
  }
}

function reply(message: ConfinedReply): void {
  const frame = encodeFrame(message);
  for (let sent = 0; sent < frame.length; ) sent += writeSync(REPLY_FD, frame, sent);
}

const MOUNT_POINT = '/proc';

/** MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC of linux/mount.h. */
const SEALED_MOUNT = 1 | 2 | 4 | 8;

/** RLIMIT_NPROC counts all confined children of one user. */
const MAX_THREADS = 1024;

function enclose(request: ConfinedRequest): void {
  const { limits } = request;
  limitResource('core', 0);
  limitResource('cpu', limits.cpuSeconds);
  limitResource('fsize', limits.fileSize);
  limitResource('data', limits.memory);
  limitResource('nproc', MAX_THREADS);
  const files = FIRST_FD + request.fdCount + limits.files;
  limitResource('nofile', Math.min(files, Number(hardLimit('nofile'))));
  closeSync(USER_NAMESPACE_FD);
  if (request.destination) {
    attachMount(DESTINATION_FD, MOUNT_POINT);
    changeRoot(DESTINATION_FD);
    closeSync(DESTINATION_FD);
  } else {
    mountTmpfs(MOUNT_POINT, SEALED_MOUNT, 'size=4k,nr_inodes=2,mode=555');
    using root = closing(openSync(MOUNT_POINT, constants.O_RDONLY | constants.O_DIRECTORY));
    changeRoot(root.fd);
  }
  process.umask(0);
  setNoNewPrivileges();
  checked('seccomp', addon().applyFilter(Buffer.from(request.filter, 'base64')));
}
