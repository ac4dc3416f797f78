/**
 * `kiln mcp`: sandboxes for assistants, by the Model Context Protocol on stdio. It runs as its caller and calls `kiln`
 * as the caller would, so that the rights to files, the limits and the refusals are the same ones.
 */

import { isUtf8 } from 'node:buffer';
import { once } from 'node:events';
import { basename, dirname } from 'node:path';
import type { CallToolResult, McpServer } from '@modelcontextprotocol/server';
import type { Option } from 'commander';
import { z } from 'zod';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { awaitedLater } from '../../promise.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { addSandboxOptions } from '../options/sandbox-options.ts';
import { type Ended, FILE_MAX, Kiln, listed, type McpOptions } from './calls.ts';

/** Options of `kiln run` that whoever starts the server may give: an assistant can change none of them. */
const FIXED = [
  ...['memory', 'cpus', 'pids', 'ioRead', 'ioWrite', 'disk', 'timeout', 'network', 'egress'],
  ...['binds', 'copyIn', 'tmpfs', 'env', 'user', 'seccomp'],
];

const EXAMPLES = `
Tools: run_command, open_sandbox, exec_command, read_file, write_file, close_sandbox, build_package, fetch_artifact.
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
    .option(
      '-r, --image <image>',
      'use this image where a call names none; by default KILN_IMAGE, or what kiln.yaml says',
    )
    .option('--resultdir <dir>', 'write results and artifacts below this directory', 'kiln-results')
    .option('--sources <dir>', 'build packages of sources below this directory only', '.');
  const words: string[] = [];
  const options = addSandboxOptions(new KilnCommand('run'), caller).options;
  for (const option of options.filter((each) => FIXED.includes(each.attributeName()))) {
    it.addOption(noting(option, words));
  }
  return it.addHelpText('after', EXAMPLES).action(async (options: McpOptions) => {
    const kiln = new Kiln(caller, words, options);
    try {
      await serve(kiln, caller);
    } finally {
      kiln.close();
    }
  });
}

/** Checks a value as `kiln run` does, and notes it as it was written. */
function noting(option: Option, words: string[]): Option {
  const parse = option.parseArg;
  return option.argParser((text: string, before: unknown) => {
    const value = parse === undefined ? text : parse(text, before);
    words.push(`${option.long}=${text}`);
    return value;
  });
}

const image = z
  .string()
  .regex(/^[A-Za-z0-9][\w.+-]*$/, 'the name or id of an image')
  .optional()
  .describe('The name of an image; unless given, the one the server was started with');
const command = z.string().min(1).describe('A command line for /bin/sh in the sandbox');
const sandbox = z.string().describe('The id that open_sandbox gave');
const path = z.string().startsWith('/').describe('An absolute path in the sandbox');

async function serve(kiln: Kiln, caller: Caller): Promise<void> {
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

function addTools(server: McpServer, kiln: Kiln): void {
  const tool = <Shape extends z.core.$ZodLooseShape>(
    name: string,
    description: string,
    shape: Shape,
    act: (input: z.output<z.ZodObject<Shape>>, signal: AbortSignal) => Promise<CallToolResult>,
  ) => {
    const inputSchema = z.object(shape);
    server.registerTool(name, { description, inputSchema }, (input, { mcpReq }) =>
      act(input as z.output<typeof inputSchema>, mcpReq.signal),
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
      const results = artifacts.length === 0 ? undefined : await kiln.makeResults();
      const keeps = results === undefined ? [] : [`--resultdir=${results}`];
      for (const pattern of artifacts) keeps.push(`--artifact=${pattern}`);
      const words = ['run', ...(await kiln.sandboxWords(named)), ...keeps, '--', ...inShell(line)];
      const ended = await kiln.call(words, { input: stdin ?? '', signal });
      return outcome(ended, results);
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
      outcome(await kiln.execute(id, inShell(line), { input: stdin ?? '', signal })),
  );
  tool(
    'read_file',
    'Read a text file in an open sandbox, 1 MiB of it at most.',
    { sandbox, path },
    async ({ sandbox: id, path: file }, signal) => {
      const calling = { most: FILE_MAX, signal };
      const { status, stdout, stderr } = await kiln.execute(id, ['cat', '--', file], calling);
      return status === 0 ? text(stdout) : failed(stderr);
    },
  );
  tool(
    'write_file',
    'Write a text file in an open sandbox; its folder is made where it is missing.',
    { sandbox, path, content: z.string() },
    async ({ sandbox: id, path: file, content }, signal) => {
      const argv = [...inShell('mkdir -p -- "$2" && cat >"$1"'), 'sh', file, dirname(file)];
      const { status, stderr } = await kiln.execute(id, argv, { input: content, signal });
      return status === 0 ? text(`${Buffer.byteLength(content)} bytes`) : failed(stderr);
    },
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
      source: z.string().describe('A .src.rpm or .spec below the server’s source directory'),
      image,
    },
    async ({ source, image: named }, signal) => {
      const file = kiln.sourceFile(source);
      const results = await kiln.makeResults();
      const what = file.endsWith('.spec') ? ['--spec', file, '--sources', dirname(file)] : [file];
      const words = ['build', ...(await kiln.buildWords(named)), ...what, '--resultdir', results];
      return outcome(await kiln.call(words, { signal }), results);
    },
  );
  tool(
    'fetch_artifact',
    'Read a file that run_command or build_package has kept, 1 MiB of it at most.',
    { path: z.string().describe('As the call has listed it') },
    async ({ path: file }) => {
      const bytes = kiln.artifact(file);
      if (isUtf8(bytes)) return text(bytes.toString());
      const blob = { uri: `file:///${file}`, mimeType: 'application/octet-stream' };
      return {
        content: [{ type: 'resource', resource: { ...blob, blob: bytes.toString('base64') } }],
      };
    },
  );
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
  const artifacts = files.map((file) => `${basename(results ?? '')}/${file}`).join('\n');
  const parts = [
    `exit status ${status}`,
    ...(stdout === '' ? [] : [`stdout:\n${stdout}`]),
    ...(stderr === '' ? [] : [`stderr:\n${stderr}`]),
    ...(artifacts === '' ? [] : [`artifacts:\n${artifacts}`]),
  ];
  return { ...text(parts.join('\n')), isError: status === 125 };
}
