import { Option } from 'commander';
import {
  LIMIT_NAMES,
  LIMITS,
  type LimitName,
  type SandboxLimits,
} from '../../sandbox/policy/limits.ts';
import type { Caller } from '../caller/caller.ts';
import {
  parseCount,
  parseCpus,
  parseEnvironment,
  parseMemory,
  parseRate,
  parseSize,
  parseTime,
} from './values.ts';

type Parse<Value> = (text: string) => Value;

export function parsed(flags: string, description: string, parse: Parse<unknown>): Option {
  return new Option(flags, description).argParser(parse);
}

/** @param parse undefined for what counts for nothing */
export function repeated<Value>(
  flags: string,
  description: string,
  parse: Parse<Value | undefined>,
): Option {
  return new Option(flags, description)
    .argParser((text: string, before: Value[] = []) => {
      const value = parse(text);
      return value === undefined ? before : [...before, value];
    })
    .default([] as Value[], 'none');
}

export function some<Value>(values: readonly Value[]): Value[] | undefined {
  return values.length === 0 ? undefined : [...values];
}

export function envOption(
  flags: string,
  description: string,
  caller: Pick<Caller, 'variable'>,
): Option {
  return repeated(flags, description, (text) =>
    parseEnvironment(text, (name) => caller.variable(name)),
  );
}

export function imageOption(use: string, { env }: Pick<Caller, 'env'>): Option {
  const how =
    'the name or path of a recipe, a lock, or an image id; by default KILN_IMAGE, or what kiln.yaml says';
  return new Option('-r, --image <image>', `${use} this image: ${how}`).default(
    env.KILN_IMAGE || undefined,
  );
}

/** It means the same for every command: see the hook in src/cli/commands.ts. */
export function quietOption(): Option {
  return new Option(
    '-q, --quiet',
    'print results, warnings and errors only: no progress, and no output of builds',
  );
}

/** `--keep`, in milliseconds; `what` says what is kept. */
export function keepOption(what: string): Option {
  return parsed('--keep [time]', what, parseTime).preset('1h');
}

export function hostWriteOption(where = ''): Option {
  return new Option(
    '--allow-host-write',
    `${where}allow writable binds of directories that the host itself needs; see docs/sandboxes.md`,
  );
}

/** @param more what else it allows, where there are recipes of other kinds */
export function allowHostOption(more = ''): Option {
  return new Option(
    '--allow-host',
    `${more}let an image recipe, or a lock, name files of the host outside of its folder; see docs/recipes.md`,
  );
}

export interface LimitValues extends SandboxLimits {
  readonly disk?: number;
  readonly timeout?: number;
  readonly stallTimeout?: number;
}

type LimitOption = readonly [value: string, description: string, parse: Parse<number>];

const LIMIT_OPTIONS: Readonly<Record<LimitName, LimitOption>> = {
  memory: ['<size>', 'limit memory, such as 512M; files in /tmp count', parseMemory],
  cpus: ['<number>', 'limit processor time to this many CPUs, such as 1.5', parseCpus],
  pids: ['<number>', 'limit the number of processes and threads', parseCount],
  ioRead: ['<rate>', 'limit the bytes read per second from each disk, such as 10M', parseRate],
  ioWrite: [
    '<rate>',
    'limit the bytes written per second to each disk; see docs/sandboxes.md',
    parseRate,
  ],
};

export function sandboxLimitOptions(): Option[] {
  return LIMIT_NAMES.map((name) => {
    const [value, description, parse] = LIMIT_OPTIONS[name];
    return parsed(`--${LIMITS[name].key} ${value}`, description, parse);
  });
}

export function limitOptions(): Option[] {
  return [
    ...sandboxLimitOptions(),
    parsed(
      '--disk <size>',
      'limit the size of each writable file system of the sandbox (default: 8G)',
      parseSize,
    ),
    parsed('--timeout <time>', 'end the command after this time, such as 10m', parseTime),
    parsed(
      '--stall-timeout <time>',
      'end the command when it has written nothing for this time',
      parseTime,
    ),
  ];
}
