/**
 * `kiln mcp`: sandboxes for assistants, by the Model Context Protocol on stdio. It is a client of the API as its caller,
 * so that the rights to files, the limits and the refusals are those of the caller's own calls.
 */

import { isUtf8 } from 'node:buffer';
import { once } from 'node:events';
import { basename } from 'node:path';
import type { CallToolResult, McpServer, ServerContext } from '@modelcontextprotocol/server';
import { z } from 'zod';
import { counted } from '../../counted.ts';
import { KilnError } from '../../errors.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import * as kind from '../../options/kind.ts';
import { row, type ValuesOf, valuesIn } from '../../options/row.ts';
import { ROOTS } from '../../options/rules.ts';
import {
  GROUND,
  image as imageRow,
  LIMITS,
  SANDBOX,
  SANDBOX_LIMITS,
} from '../../options/sandbox.ts';
import { awaitedLater } from '../../promise.ts';
import { formatNetwork } from '../../sandbox/policy/network.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { describeError } from '../output/errors.ts';
import { type Ended, listed, Tools } from './calls.ts';

const { network, egress, binds, tmpfs, seccomp, copyIn, env, user } = SANDBOX;
const SURROUNDINGS = {
  ...{ ...SANDBOX_LIMITS, disk: LIMITS.disk },
  ...{ network, egress, binds, tmpfs, seccomp },
};
/** What whoever starts the server may give: an assistant can change none of it. */
const MCP = {
  image: imageRow('where a call names none, use'),
  resultdir: row(kind.text('dir'), ROOTS, {
    help: 'write results and artifacts below this folder',
    usual: 'kiln-results',
  }),
  sources: row(kind.text('dir'), ROOTS, {
    help: 'build packages of sources below this folder only',
    usual: '.',
  }),
  ...{ ...SURROUNDINGS, ...LIMITS, ...GROUND, copyIn, env, user },
};

const EXAMPLES = `
Tools: run_command, open_sandbox, exec_command, read_file, write_file, checkpoint, rollback, diff, close_sandbox,
build_package, fetch_artifact.
Limits and network are those of the options here, and no tool changes them. Results and artifacts go to a folder of
each call below --resultdir, and nowhere else. Sandboxes end with the server.

Examples:
  kiln mcp -r debian-build --memory 2G --timeout 10m
  claude mcp add kiln -- kiln mcp -r debian-build --memory 2G --egress example.org`;

export function mcpCommand(caller: Caller): KilnCommand {
  const it = new KilnCommand('mcp')
    .description(
      'Serve sandboxes to an assistant by the Model Context Protocol, on stdin and stdout.',
    )
    .rows(MCP, caller);
  return it
    .addHelpText('after', EXAMPLES)
    .action(async ({ image: named, resultdir, sources, ...options }: ValuesOf<typeof MCP>) => {
      const { copyIn, env, user } = options;
      const network = formatNetwork(options.network);
      const surroundings = { ...valuesIn(SURROUNDINGS, options), network };
      // Users may not say even what is usual.
      const { isolation, allowMissing } = options;
      const stands = isolation === 'container' ? {} : { isolation, allowMissing };
      const kiln = new Tools(caller, {
        ...{ image: named, resultdir, sources, env, limits: valuesIn(LIMITS, options) },
        sandbox: { surroundings: { ...surroundings, ...stands }, copyIn, user },
      });
      await kiln.checkImage();
      try {
        await serve(kiln, caller);
      } finally {
        await kiln.close();
      }
    });
}

const image = z
  .string()
  .regex(/^[A-Za-z0-9][\w.+-]*$/, 'the name or id of an image')
  .optional()
  .describe(
    'The name of an image, or host: the programs of this host. Unless given, the one the server was started with, or host',
  );
const command = z.string().min(1).describe('A command line for /bin/sh in the sandbox');
const sandbox = z.string().describe('The id that open_sandbox gave');
const checkpoint = z.string().describe('The id that checkpoint gave');
const path = z.string().startsWith('/').describe('An absolute path in the sandbox');

async function serve(kiln: Tools, caller: Caller): Promise<void> {
  const { McpServer: Server } = await import('@modelcontextprotocol/server');
  const { serveStdio } = await import('@modelcontextprotocol/server/stdio');
  const make = () => {
    const server = new Server({ name: 'kiln', version: KILN_VERSION });
    addTools(server, kiln);
    return server;
  };
  using input = caller.readInput({ raw: false });
  // A file, as /dev/null, ends but is not closed.
  const over = awaitedLater(
    Promise.race(['end', 'close'].map((event) => once(input.stream, event))),
  );
  const served = serveStdio(make);
  await over;
  await served.close();
}

/** How often a client that asks for it hears that a call goes on, ms: clients end calls that are silent. */
const PROGRESS_EVERY = 5000;

async function withProgress<Result>(
  { _meta, notify }: Pick<ServerContext['mcpReq'], '_meta' | 'notify'>,
  act: () => Promise<Result>,
): Promise<Result> {
  const progressToken = _meta?.progressToken;
  if (progressToken === undefined) return await act();
  const from = Date.now();
  const tell = () => {
    const progress = Math.round((Date.now() - from) / 1000);
    const params = { progressToken, progress, message: `it goes on for ${progress} seconds` };
    notify({ method: 'notifications/progress', params }).catch(() => undefined);
  };
  using _timer = setInterval(tell, PROGRESS_EVERY);
  return await act();
}

function addTools(server: McpServer, kiln: Tools): void {
  const tool = <Shape extends z.core.$ZodLooseShape>(
    name: string,
    description: string,
    shape: Shape,
    act: (input: z.output<z.ZodObject<Shape>>, signal: AbortSignal) => Promise<CallToolResult>,
  ) => {
    const inputSchema = z.object(shape);
    server.registerTool(name, { description, inputSchema }, (input, { mcpReq }) =>
      withProgress(mcpReq, () => act(input as z.output<typeof inputSchema>, mcpReq.signal)).catch(
        (error: unknown) => {
          if (error instanceof KilnError) return failed(describeError(error));
          throw error;
        },
      ),
    );
  };
  tool(
    'run_command',
    'Run one command in a new, locked-down sandbox, which is destroyed afterwards. Files are kept only if `artifacts` names them: fetch_artifact reads them.',
    {
      command,
      image,
      stdin: z.string().optional(),
      artifacts: z.array(z.string()).optional().describe('Patterns of files to keep, as out/*.rpm'),
    },
    async ({ command: line, image: named, stdin, artifacts = [] }, signal) => {
      const resultDirectory = artifacts.length === 0 ? undefined : await kiln.makeResults();
      const wanted = { argv: inShell(line), image: named, input: stdin ?? '', artifacts };
      return outcome(await kiln.run({ ...wanted, resultDirectory }, signal), resultDirectory);
    },
  );
  tool(
    'open_sandbox',
    'Open a sandbox for several commands and files. It ends with close_sandbox.',
    { image },
    async ({ image: named }) => text(await kiln.openSandbox(named)),
  );
  tool(
    'exec_command',
    'Run a command in an open sandbox. Each begins anew, in the sandbox’s working directory: files last, `cd` and `export` do not.',
    { sandbox, command, stdin: z.string().optional() },
    async ({ sandbox: id, command: line, stdin }, signal) =>
      outcome(await kiln.execute(id, inShell(line), stdin ?? '', signal)),
  );
  tool(
    'read_file',
    'Read a file in an open sandbox, 1 MiB of it at most. What is no text comes as a blob.',
    { sandbox, path },
    async ({ sandbox: id, path: file }) => {
      const { bytes, left } = await kiln.readFile(id, file);
      return contentOf(bytes, file, left);
    },
  );
  tool(
    'write_file',
    'Write a text file in an open sandbox; its folder is made where it is missing.',
    { sandbox, path, content: z.string() },
    async ({ sandbox: id, path: file, content }) => {
      await kiln.writeFile(id, file, content);
      return text(counted(Buffer.byteLength(content), 'byte'));
    },
  );
  tool(
    'checkpoint',
    'Keep the files of an open sandbox as they are now, for rollback and diff, while no command runs there. Not part of it: /tmp, /run and binds.',
    { sandbox },
    async ({ sandbox: id }) => text(await kiln.checkpoint(id)),
  );
  tool(
    'rollback',
    'Make the files of an open sandbox what they were at a checkpoint of it. Commands that run there are ended.',
    { sandbox, checkpoint },
    async ({ sandbox: id, checkpoint: to }) => {
      await kiln.rollback(id, to);
      return text('done');
    },
  );
  tool(
    'diff',
    'Show what has changed in the files of an open sandbox since a checkpoint or, without one, since it was opened: a line for each change, and a patch of text files.',
    { sandbox, checkpoint: checkpoint.optional() },
    async ({ sandbox: id, checkpoint: since }) => text(await kiln.diff(id, since)),
  );
  tool(
    'close_sandbox',
    'End an open sandbox with all that is in it.',
    { sandbox },
    async ({ sandbox: id }) => {
      await kiln.closeSandbox(id);
      return text('closed');
    },
  );
  tool(
    'build_package',
    'Build RPM packages of a source package or a spec file on the host, without a network. fetch_artifact reads what comes of it.',
    {
      source: z.string().describe('A .src.rpm or .spec below the server’s source folder'),
      image,
    },
    async ({ source, image: named }, signal) => {
      const file = kiln.sourceFile(source);
      const results = await kiln.makeResults();
      return outcome(await kiln.build(file, named, results, signal), results);
    },
  );
  tool(
    'fetch_artifact',
    'Read a file that run_command or build_package has kept, 1 MiB of it at most.',
    { path: z.string().describe('As the call has listed it') },
    async ({ path: file }) => {
      return contentOf(kiln.artifact(file), file, 0);
    },
  );
}

/** Bytes of a character of UTF-8 that may be cut off at the end. */
const CUT = 3;

/** @param left bytes that were left out */
function contentOf(bytes: Buffer, name: string, left: number): CallToolResult {
  const cuts = left > 0 ? Array.from({ length: CUT + 1 }, (_, cut) => cut) : [0];
  const whole = cuts
    .map((cut) => bytes.subarray(0, bytes.length - cut))
    .find((some) => isUtf8(some));
  const missing = left > 0 ? `\n[${counted(left, 'byte')} left out]` : '';
  if (whole !== undefined) return text(`${whole}${missing}`);
  const uri = `file:///${name.split('/').filter(Boolean).map(encodeURIComponent).join('/')}`;
  const blob = { uri, mimeType: 'application/octet-stream', blob: bytes.toString('base64') };
  const content: CallToolResult['content'] = [{ type: 'resource', resource: blob }];
  return { content: left > 0 ? [...content, ...text(missing.trim()).content] : content };
}

function inShell(line: string): string[] {
  return ['/bin/sh', '-c', line];
}

function text(content: string): CallToolResult {
  return { content: [{ type: 'text', text: content }] };
}

function failed(content: string): CallToolResult {
  return { ...text(content), isError: true };
}

/** A command that failed is no failure of the tool: 125 is kiln's own (docs/exit-status.md). */
function outcome({ status, stdout, stderr }: Ended, results?: string): CallToolResult {
  const files = results === undefined ? [] : listed(results);
  const artifactNames = files.map((file) => `${basename(results ?? '')}/${file}`);
  const artifacts = artifactNames.join('\n');
  const parts = [
    `exit status ${status}`,
    ...(stdout === '' ? [] : [`stdout:\n${stdout}`]),
    ...(stderr === '' ? [] : [`stderr:\n${stderr}`]),
    ...(artifacts === '' ? [] : [`artifacts:\n${artifacts}`]),
  ];
  const structuredContent = { status, stdout, stderr, artifacts: artifactNames };
  return { ...text(parts.join('\n')), structuredContent, isError: status === 125 };
}
