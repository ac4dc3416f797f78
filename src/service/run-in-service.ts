import type { ExecuteAnswer, ExecuteRequest } from './execute.ts';
import { encodeFrame, FRAME, onFrames, sendMessage } from './frames.ts';
import type { InstanceFiles } from './instance-files.ts';
import { connectSupervisor, unwired } from './supervisor-client.ts';

/** Output beyond this is not kept, bytes. */
const OUTPUT_LIMIT = 1024 * 1024;

/** What a command in a service came to. */
export interface ServiceCommandEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Standard output and error as they came, at most 1 MiB. */
  readonly output: string;
}

/**
 * Runs a command in a service that runs, without input; undefined when it does not run. Throws what
 * starting a command throws.
 */
export async function runInService(
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
