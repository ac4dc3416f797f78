import { closeSync, existsSync, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { z } from 'zod';
import { KilnError } from '../../../errors.ts';
import { createPipe } from '../../../host/calls/descriptor.ts';
import { encodeFrame } from '../../../host/confine/frame.ts';
import { runConfined } from '../../../host/confine/run.ts';
import { FIRST_FD } from '../../../host/confine/task.ts';
import { callNumber, compileFilter } from '../../../host/process/seccomp.ts';
import { patience } from '../../../host/process/wait-for.ts';
import { packageRoot } from '../../../host/state/package-root.ts';
import {
  ConfigOptions,
  type ConfigValue,
  type ConfigWarning,
  configError,
  type Place,
} from './values.ts';

const PYTHON = '/usr/bin/python3';

const PARTS = ['wall', 'defaults', 'names', 'options', 'reader', 'evaluate'].map(
  (name) => `${name}.py`,
);

/** Python reads them as descriptors: its ids may not be able to open them. */
const LOAD = `for part in range(${FIRST_FD + 1}, ${FIRST_FD + 1 + PARTS.length}):
    exec(compile(open(part).read(), "kiln", "exec"))`;

const LIMITS = { memory: 512 * 2 ** 20, cpuSeconds: 60, fileSize: 0 };

const WALL_MS = 60_000;

/** Bytes. A configuration of mock's takes 60 KB. */
const LONGEST_MESSAGE = 16 * 2 ** 20;

/** All that Python needs once it has what it works on: no call that takes a path, a process or an address. */
const CALLS = [
  ...['read', 'write', 'close', 'lseek', 'fstat', 'brk', 'mmap', 'munmap', 'mprotect', 'mremap'],
  ...['madvise', 'futex', 'rt_sigaction', 'rt_sigprocmask', 'rt_sigreturn', 'sigaltstack'],
  ...['getrandom', 'clock_gettime', 'gettimeofday', 'time', 'getpid', 'gettid', 'sched_yield'],
  ...['uname', 'exit', 'exit_group', 'restart_syscall'],
];

/** What the command line says comes after all files. Values are as in JSON. */
export type ConfigChange =
  | readonly [
      kind: 'set' | 'override',
      name: string,
      value: ConfigValue | Readonly<Record<string, string>>,
    ]
  | readonly [kind: 'append', name: string, text: string]
  | readonly [kind: 'plugin', plugin: string, enabled: boolean]
  | readonly [kind: 'plugin-option', plugin: string, key: string, literal: string];

/** One configuration to evaluate. */
export interface ConfigJob {
  /** What mock finds out about the machine and the call. */
  readonly given: Readonly<Record<string, string | number>>;
  /** Where files that are included are looked for. */
  readonly directory: string;
  readonly files: readonly (readonly [path: string, required: boolean])[];
  readonly changes: readonly ConfigChange[];
  /** The options that are asked for; all unless given. */
  readonly only?: readonly string[] | undefined;
  /** @returns undefined if there is no such file. @throws whatever the configuration is to be told */
  read(path: string): string | undefined;
}

export interface EvaluatedConfig {
  readonly options: ConfigOptions;
  readonly files: readonly string[];
  readonly warnings: ConfigWarning[];
}

// What the child may say. It is hostile.
const MAX_TEXT = 4 * 2 ** 20;
const MAX_DEPTH = 40;
const path = z.string().min(1).max(4096);
const text = z.string().max(MAX_TEXT);
const place = z
  .tuple([path, z.int().min(1)])
  .transform(([file, line]): Place => ({ file, line }))
  .nullish()
  .transform((it) => it ?? undefined);
const value = z.unknown().transform((it) => configValue(it));
const option = z.object({
  raw: value.optional(),
  value: value.optional(),
  rawText: text.optional(),
  valueText: text.optional(),
  error: text.optional(),
  isDefault: z.boolean(),
  place,
});
const messageSchema = z.union([
  z.object({ read: path.regex(/^[^\0]*$/) }),
  z.object({
    answer: z.object({
      options: z.array(z.tuple([text, option])).optional(),
      error: text.optional(),
      place,
      files: z.array(path),
      warnings: z.array(z.object({ message: text, place })).max(1000),
    }),
  }),
]);
type Message = z.output<typeof messageSchema>;
type Answer = Extract<Message, { answer: unknown }>['answer'];

function configValue(value: unknown, depth = 0): ConfigValue {
  if (depth > MAX_DEPTH) throw new TypeError('a value is nested too deeply');
  if (value === null || ['string', 'number', 'boolean'].includes(typeof value)) {
    return value as ConfigValue;
  }
  const inner = (item: unknown) => configValue(item, depth + 1);
  if (Array.isArray(value)) return value.map(inner);
  const { dict } = z.object({ dict: z.array(z.tuple([text, z.unknown()])) }).parse(value);
  return new Map(dict.map(([key, item]) => [key, inner(item)]));
}

/**
 * Evaluates configurations as mock does, in a confined Python: one after the other, and yields what each comes to, or
 * the error.
 * @throws KilnError E_MOCK_PYTHON where the host lacks Python or Jinja, and those of runConfined()
 */
export async function* evaluateConfigs(
  jobs: readonly ConfigJob[],
): AsyncGenerator<EvaluatedConfig | KilnError, void, undefined> {
  if (!existsSync(PYTHON)) throw evaluationError(`there is no ${PYTHON}`);
  const pipe = createPipe(0);
  const parts = PARTS.map((name) => openSync(programPart(name), 'r'));
  const answers = new Socket({ fd: pipe.write, readable: false, writable: true });
  // A child that has ended is noticed on its other pipe.
  answers.on('error', () => answers.destroy());
  const tell = (message: unknown) => answers.write(encodeFrame(message));
  try {
    const child = runConfined<Message>({
      task: 'mock-config',
      command: [PYTHON, '-I', '-X', 'utf8', '-c', LOAD],
      input: { pivotRoot: callNumber('pivot_root'), filter: filter().toString('hex') },
      fds: [pipe.read, ...parts],
      limits: { ...LIMITS, wallMs: Math.max(WALL_MS, patience()) + 1000 * jobs.length },
      longestMessage: LONGEST_MESSAGE,
      validate: (message) => messageSchema.parse(message),
    });
    const waiting = [...jobs];
    const begin = () => {
      if (waiting[0] === undefined) answers.end();
      else tell({ ...waiting[0], read: undefined });
    };
    begin();
    for await (const message of child) {
      const [job] = waiting;
      if (job === undefined) throw new TypeError('nothing was asked');
      if ('read' in message) {
        tell(answerTo(job, message.read));
        continue;
      }
      waiting.shift();
      yield taken(message.answer);
      begin();
    }
  } catch (error) {
    if (error instanceof KilnError && error.code === 'E_MOCK_PYTHON')
      throw evaluationError(error.message);
    throw error;
  } finally {
    answers.destroy();
    for (const fd of [pipe.read, ...parts]) closeSync(fd);
  }
}

function evaluationError(why: string): KilnError {
  return new KilnError('E_MOCK_PYTHON', `mock's configurations cannot be evaluated: ${why}`, {
    hint: 'install python3-jinja2 (Debian, Ubuntu, Fedora) or python3-Jinja2 (openSUSE); recipes of kiln’s, such as -r debian-build, do without',
  });
}

function programPart(name: string): string {
  const folder = import.meta.url.endsWith('.ts') ? 'src/jobs/mock/config/python' : 'dist/mock';
  return join(packageRoot(), folder, name);
}

function filter(): Buffer {
  const allowed = { names: CALLS, action: 'SCMP_ACT_ALLOW', errno: 0, args: [] } as const;
  return compileFilter({ action: 'SCMP_ACT_ERRNO', errno: 1 }, [allowed], []);
}

function answerTo(job: ConfigJob, path: string) {
  try {
    return { text: job.read(path) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

function taken({ options = [], error, place, files, warnings }: Answer) {
  if (error !== undefined) return configError(error, place);
  return { options: new ConfigOptions(new Map(options)), files, warnings };
}
