import { KilnError } from '../../errors.ts';
import { isKilnCode } from '../failure.ts';
import type { InstanceFiles } from '../instance-files.ts';
import type { ServiceStatus } from '../status.ts';
import type { ExecuteAnswer, ExecuteRequest } from '../supervisor/execute.ts';
import { encodeFrame, FRAME, onFrames, sendMessage } from '../supervisor/frames.ts';
import { askSupervisor, connectSupervisor, unwired } from '../supervisor/supervisor-client.ts';

/** How long units may take to reopen their logs, ms. */
const RELOAD_PATIENCE = 120_000;

/** The result of logrotate in a service. */
interface LogrotateReport {
  /** The output of logrotate. Images have neither systemctl nor invoke-rc.d, which some configurations call. */
  readonly output: string;
  readonly exitCode: number | null;
  /** Units that were reloaded so that they write to the new files. */
  readonly reloaded: readonly string[];
}

/**
 * Runs the image's own logrotate in a running service, then reloads the units that can be reloaded. Throws
 * E_SERVICE_STOPPED, E_NO_LOGROTATE.
 */
export async function logrotate(
  name: string,
  files: InstanceFiles,
  options: { readonly force?: boolean } = {},
): Promise<LogrotateReport> {
  const argv = ['logrotate', ...(options.force === true ? ['--force'] : [])];
  argv.push('--state', '/var/lib/logrotate/status', '/etc/logrotate.conf');
  const end = await runInService(files, { argv }).catch((error: unknown) => {
    if (!isKilnCode(error, 'E_COMMAND_NOT_FOUND')) throw error;
    throw new KilnError('E_NO_LOGROTATE', `the image of ${name} has no logrotate`, {
      hint: 'add the package logrotate to its recipe',
    });
  });
  const status = await askSupervisor<ServiceStatus>(files, { do: 'status' });
  if (end === undefined || status === undefined) {
    throw new KilnError('E_SERVICE_STOPPED', `${name} does not run`, {
      hint: `\`kiln service start ${name}\` starts it`,
    });
  }
  const reloaded: string[] = [];
  for (const unit of status.units.filter(({ state }) => state === 'active')) {
    try {
      await askSupervisor(files, { do: 'reload', unit: unit.name }, RELOAD_PATIENCE);
      reloaded.push(unit.name);
    } catch (error) {
      if (!isKilnCode(error, 'E_NO_RELOAD')) throw error;
    }
  }
  return { output: end.output, exitCode: end.exitCode, reloaded };
}

/** More output is dropped, bytes. */
const OUTPUT_LIMIT = 1024 * 1024;

interface ServiceCommandEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Standard output and error in their order, at most 1 MiB. */
  readonly output: string;
}

/**
 * Runs a command in a running service without input; undefined if the service does not run. Throws what
 * starting a command throws.
 */
async function runInService(
  files: InstanceFiles,
  command: ExecuteRequest,
): Promise<ServiceCommandEnd | undefined> {
  const socket = await connectSupervisor(files);
  if (socket === undefined) return undefined;
  const chunks: Buffer[] = [];
  let kept = 0;
  try {
    return await new Promise((resolve, reject) => {
      const finish = (exitCode: number | null, signal: NodeJS.Signals | null) =>
        resolve({ exitCode, signal, output: Buffer.concat(chunks).toString('utf8') });
      onFrames(socket, ({ kind, body }) => {
        if (kind === FRAME.data || kind === FRAME.errorData) {
          if (kept < OUTPUT_LIMIT) chunks.push(Buffer.from(body));
          kept += body.length;
        } else if (kind === FRAME.message) {
          const answer = JSON.parse(body.toString('utf8')) as ExecuteAnswer;
          if ('error' in answer) reject(unwired(answer.error));
          else if ('exitCode' in answer) finish(answer.exitCode, answer.signal);
        }
      });
      socket.on('error', reject);
      socket.once('close', () => finish(null, 'SIGKILL'));
      sendMessage(socket, { do: 'execute', command });
      socket.write(encodeFrame(FRAME.end, Buffer.alloc(0)));
    });
  } finally {
    socket.destroy();
  }
}
