import { openEngine } from '../../engine.ts';
import { tryCall } from '../../host/calls/system-call.ts';
import { ownOpener } from '../../host/files/opener.ts';
import { startDetached } from '../../host/process/child-process.ts';
import { callerEnvironment, callersOwn, kilnProgram } from '../../host/process/own-node.ts';
import { statePaths } from '../../host/state/paths.ts';
import { callerIds } from '../../jobs/run/request.ts';
import { configurationFile, readCallersConfiguration } from '../../users/configuration-file.ts';
import { HeldPaths } from '../../users/held-paths.ts';
import { JobFolder } from '../../users/job-folder.ts';
import { printWarning } from '../output/errors.ts';
import { type Caller, outputOf, renaming, requireHost, serviceOf } from './caller.ts';

const variable = (name: string) => callersOwn(process.env, name);

let own: HeldPaths | undefined;

export const processCaller: Caller = {
  env: process.env,
  variable,
  service: serviceOf(variable),
  get environment() {
    return callerEnvironment();
  },
  cwd: () => process.cwd(),
  get ids() {
    return callerIds(process.env);
  },
  user: undefined,
  get paths() {
    own ??= new HeldPaths({
      ...{ opener: ownOpener(this.ids), cwd: () => process.cwd(), owner: this.ids },
      makeFolder:
        process.geteuid?.() === 0 ? () => JobFolder.make(statePaths(process.env)) : undefined,
      warn: (warning) => printWarning(warning, this.stderr),
    });
    return own;
  },
  get configuration() {
    const own = readCallersConfiguration(process.env, process.geteuid?.() ?? 0);
    return { file: configurationFile(process.env), own };
  },
  get inputIsTTY() {
    return process.stdin.isTTY === true;
  },
  // Made when needed, because Node takes a millisecond for each.
  get stdout() {
    return renaming(ownOutput(process.stdout), this.paths);
  },
  get stderr() {
    return renaming(ownOutput(process.stderr), this.paths);
  },
  get windowSize() {
    return { rows: process.stdout.rows ?? 24, columns: process.stdout.columns ?? 80 };
  },
  get exitStatus() {
    return process.exitCode === undefined ? undefined : Number(process.exitCode);
  },
  set exitStatus(status) {
    process.exitCode = status;
  },
  onSignal: (signals, listener) => {
    for (const signal of signals) process.on(signal, listener);
    return {
      [Symbol.dispose]: () => {
        for (const signal of signals) process.off(signal, listener);
      },
    };
  },
  isOutputAll: false,
  isQuiet: false,
  handOver: undefined,
  detach: undefined,
  readInput: ({ raw }) => {
    const { stdin } = process;
    const makesRaw = raw && stdin.isTTY === true;
    if (makesRaw) {
      stdin.setRawMode(true);
      leaveOutputAlone(stdin.fd);
    }
    return {
      stream: stdin,
      [Symbol.dispose]: () => {
        if (makesRaw) stdin.setRawMode(false);
        // An open terminal or pipe would keep kiln running.
        stdin.destroy();
      },
    };
  },
  parking: undefined,
  isOnly: true,
  openEngine: (options) => {
    if (options?.anybody !== true) requireHost(process.env);
    return openEngine(process.env, {
      ...options,
      renamed: (value) => processCaller.paths.renamed(value),
      holdName: (path) => processCaller.paths.holdName(path),
    });
  },
  storeChanged: () => {
    const command = kilnProgram(['gc', '--sync-only']);
    if (command !== undefined) startDetached(command);
  },
};

function ownOutput(stream: NodeJS.WriteStream) {
  const terminal = { isTTY: stream.isTTY === true, columns: stream.columns || 80 };
  return outputOf(stream, terminal, processCaller);
}

/** asm-generic/ioctls.h; struct termios of asm-generic/termbits.h has c_oflag behind c_iflag, u32 each. */
const TCGETS = 0x5401;
const TCSETS = 0x5402;
const TERMIOS = 64;
const C_OFLAG = 4;
const OPOST = 1;

/** Node's raw mode has the terminal write \n as \r\n, which the terminal of the command does where it is to be done. */
function leaveOutputAlone(fd: number): void {
  const settings = Buffer.alloc(TERMIOS);
  if (tryCall('ioctl', fd, TCGETS, settings) !== 0) return;
  settings.writeUInt32LE((settings.readUInt32LE(C_OFLAG) & ~OPOST) >>> 0, C_OFLAG);
  tryCall('ioctl', fd, TCSETS, settings);
}
