import { Option } from 'commander';
import { parseCount, parseCpus, parseMemory, parseRate, parseSize, parseTime } from './values.ts';

/** Options of `run`, `shell` and `build` that limit a sandbox, as commander parses them. */
export interface LimitValues {
  readonly memory?: number;
  readonly cpus?: number;
  readonly pids?: number;
  readonly ioRead?: number;
  readonly ioWrite?: number;
  readonly disk?: number;
  readonly timeout?: number;
  readonly stallTimeout?: number;
}

/** The options for limits. */
export function limitOptions(): Option[] {
  return [
    new Option('--memory <size>', 'limit memory, such as 512M; files in /tmp count').argParser(
      parseMemory,
    ),
    new Option('--cpus <number>', 'limit processor time to this many CPUs, such as 1.5').argParser(
      parseCpus,
    ),
    new Option('--pids <number>', 'limit the number of processes and threads').argParser(
      parseCount,
    ),
    new Option(
      '--io-read <rate>',
      'limit the bytes read per second from each disk, such as 10M',
    ).argParser(parseRate),
    new Option(
      '--io-write <rate>',
      'limit the bytes written per second to each disk; see docs/sandboxes.md',
    ).argParser(parseRate),
    new Option(
      '--disk <size>',
      'limit the size of each writable file system of the sandbox (default: 8G)',
    ).argParser(parseSize),
    new Option('--timeout <time>', 'end the command after this time, such as 10m').argParser(
      parseTime,
    ),
    new Option(
      '--stall-timeout <time>',
      'end the command when it has written nothing for this time',
    ).argParser(parseTime),
  ];
}
