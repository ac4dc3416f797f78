import { Option } from 'commander';
import { parseCount, parseCpus, parseMemory, parseRate, parseSize, parseTime } from './values.ts';

/** What `run`, `shell` and `build` take to limit a box, as commander gives it. */
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

/** Their options. */
export function limitOptions(): Option[] {
  return [
    new Option('--memory <size>', 'limit, as 512M; what it writes to /tmp counts').argParser(
      parseMemory,
    ),
    new Option('--cpus <number>', 'processors’ worth of time, as 1.5').argParser(parseCpus),
    new Option('--pids <number>', 'processes and threads').argParser(parseCount),
    new Option('--io-read <rate>', 'read from each disk a second at most, as 10M').argParser(
      parseRate,
    ),
    new Option(
      '--io-write <rate>',
      'written to each disk a second at most; docs/sandboxes.md: what it cannot slow down',
    ).argParser(parseRate),
    new Option('--disk <size>', 'what each of its writable file systems may hold (8G)').argParser(
      parseSize,
    ),
    new Option('--timeout <time>', 'end it after this time, as 10m').argParser(parseTime),
    new Option('--stall-timeout <time>', 'end it after this time without output').argParser(
      parseTime,
    ),
  ];
}
