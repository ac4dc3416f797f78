/**
 * Confined task `repository-modules`: reads modules.yaml, which packages belong to which stream of a module
 * (libmodulemd's documents). A task by itself, since nothing else needs a reader of YAML.
 */
import { writeFileSync } from 'node:fs';
import { parseDocument } from 'yaml';
import { z } from 'zod';
import { reasonLine } from '../../../host/calls/system-error.ts';
import type { SingleTask } from '../../../host/confine/task.ts';
import { loadNativeCodecs } from '../../rpm/payload/native-codec.ts';
import type { MetadataFile } from './read-index.ts';
import { readMetadata } from './read-metadata.ts';
import { metadataError } from './repomd.ts';

/** The limits of a file; EL 8 has 800 streams with 30,000 packages in 9 MiB. */
const MAX_TEXT = 256 * 2 ** 20;
const MAX_DOCUMENT = 16 * 2 ** 20;
const MAX_DOCUMENTS = 50_000;
const MAX_SKIPPED = 20;

/** Module and stream names also appear in dependencies such as `module(NAME:STREAM)`. */
const name = z
  .string()
  .max(256)
  .regex(/^[^\s:()[\]\u0000-\u001f\u007f]+$/, 'no blank, colon or bracket');
const names = z.array(name).max(1000);
const nevras = z.array(z.string().max(1024)).max(100_000);
/** Streams by module; no stream means any, and a `-` before one excludes it. */
const requiresSchema = z.record(name, names);
const profilesSchema = z.record(z.string().max(256), z.array(z.string().max(256)).max(10_000));

const streamSchema = z.strictObject({
  name,
  stream: name,
  /** A whole number as text, because it may have 64 bits. */
  version: z.string().regex(/^\d{1,20}$/),
  context: z.string().max(256),
  staticContext: z.boolean(),
  arch: z.string().max(64),
  requires: z.array(requiresSchema).max(1000),
  artifacts: nevras,
  profiles: profilesSchema,
});

const defaultsSchema = z.strictObject({
  module: name,
  stream: name.optional(),
  modified: z.number(),
  profiles: z.record(z.string().max(256), z.array(z.string().max(256)).max(1000)),
});

const obsoletesSchema = z.strictObject({
  module: name,
  stream: name,
  context: z.string().max(256).optional(),
  modified: z.number(),
  /** The date from which it applies, YYYYMMDDHHMM; undefined for at once. */
  from: z.number().optional(),
  by: z.strictObject({ module: name, stream: name }).optional(),
  reset: z.boolean(),
  message: z.string().max(4096),
});

export const moduleMetadataSchema = z.strictObject({
  streams: z.array(streamSchema).max(MAX_DOCUMENTS),
  defaults: z.array(defaultsSchema).max(MAX_DOCUMENTS),
  obsoletes: z.array(obsoletesSchema).max(MAX_DOCUMENTS),
  skipped: z.array(z.string()).max(MAX_SKIPPED),
});
export type ModuleMetadata = z.output<typeof moduleMetadataSchema>;
export type ModuleStream = z.output<typeof streamSchema>;
export type ModuleDefaults = z.output<typeof defaultsSchema>;
export type ModuleObsoletes = z.output<typeof obsoletesSchema>;

export interface ModulesInput {
  readonly file: MetadataFile;
}

/** Descriptors are the output and modules.yaml. */
export const task: SingleTask = {
  prepare() {
    loadNativeCodecs();
  },
  async run(value, { fds, emit }) {
    const [output, source] = fds as [number, number];
    const { file } = value as ModulesInput;
    const parser = new ModulesParser();
    for await (const chunk of readMetadata(source, file)) parser.write(chunk);
    writeFileSync(output, JSON.stringify(parser.end()));
    emit([]);
  },
};

/**
 * Reads a modules.yaml piece by piece, in a confined child. A broken document, or one of an unknown kind, is left
 * out, as in dnf; the file as a whole must be text of a bounded size.
 */
export class ModulesParser {
  readonly #decoder = new TextDecoder('utf-8', { fatal: true });
  readonly #found: ModuleMetadata = { streams: [], defaults: [], obsoletes: [], skipped: [] };
  #lines: string[] = [];
  #size = 0;
  #total = 0;
  #rest = '';
  #documents = 0;

  write(chunk: Buffer): void {
    this.#total += chunk.length;
    if (this.#total > MAX_TEXT)
      throw metadataError('modules.yaml', `it is longer than ${MAX_TEXT} bytes`);
    this.#text(this.#decoder.decode(chunk, { stream: true }));
  }

  end(): ModuleMetadata {
    this.#text(`${this.#decoder.decode()}\n---\n`);
    return this.#found;
  }

  #text(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length > MAX_DOCUMENT)
      throw metadataError('modules.yaml', 'it has a line of more than 16 MiB');
    for (const line of lines) this.#line(line);
  }

  /** YAML forbids these marks at the start of a line within a document. */
  #line(line: string): void {
    const mark = /^(?:---|\.\.\.)(?=\s|$)/.test(line);
    if (mark) this.#document();
    const content = mark ? line.slice(3) : line;
    if (content.trim() === '') return void this.#lines.push('');
    this.#size += content.length;
    if (this.#size > MAX_DOCUMENT)
      throw metadataError('modules.yaml', 'it has a document of more than 16 MiB');
    this.#lines.push(content);
  }

  #document(): void {
    const text = this.#lines.join('\n');
    const size = this.#size;
    this.#lines = [];
    this.#size = 0;
    if (size === 0) return;
    if (++this.#documents > MAX_DOCUMENTS)
      throw metadataError('modules.yaml', 'it has too many documents');
    try {
      this.#take(readDocument(text));
    } catch (error) {
      if (this.#found.skipped.length >= MAX_SKIPPED) return;
      const why = printable(reasonLine(error as Error), 300);
      this.#found.skipped.push(`document ${this.#documents}: ${why}`);
    }
  }

  #take({ document, version, data }: RawDocument): void {
    if (document === 'modulemd' && (version === '1' || version === '2')) {
      this.#found.streams.push(readStream(data, version));
    } else if (document === 'modulemd-defaults') {
      this.#found.defaults.push(readDefaults(data));
    } else if (document === 'modulemd-obsoletes') {
      this.#found.obsoletes.push(readObsoletes(data));
    }
  }
}

type Raw = Readonly<Record<string, unknown>>;
interface RawDocument {
  readonly document: unknown;
  readonly version: unknown;
  readonly data: Raw;
}

function readDocument(text: string): RawDocument {
  // Every scalar is text, as in libmodulemd: 1.10 is no number. No aliases: they could expand a small text to a huge one.
  const parsed = parseDocument(text, {
    ...{ schema: 'failsafe', logLevel: 'error', uniqueKeys: true, prettyErrors: false },
  });
  const [error] = parsed.errors;
  if (error !== undefined) throw error;
  const { document, version, data } = record(parsed.toJS({ maxAliasCount: 0 }));
  return { document, version, data: record(data) };
}

function readStream(data: Raw, version: string): ModuleStream {
  const blocks = version === '1' ? [data.dependencies ?? {}] : list(data.dependencies);
  const requires = blocks.map((block) => {
    const pairs = Object.entries(record(record(block).requires ?? {}));
    return Object.fromEntries(pairs.map(([key, streams]) => [key, list(streams)]));
  });
  const profiles = Object.entries(record(data.profiles ?? {})).map(([key, profile]) => [
    key,
    list(record(profile).rpms),
  ]);
  return streamSchema.parse({
    name: data.name,
    stream: data.stream,
    version: data.version ?? '0',
    context: data.context ?? '',
    staticContext: isTrue(data.static_context),
    arch: data.arch ?? 'noarch',
    requires,
    artifacts: list(record(data.artifacts ?? {}).rpms),
    profiles: Object.fromEntries(profiles),
  });
}

function readDefaults(data: Raw): ModuleDefaults {
  const profiles = Object.entries(record(data.profiles ?? {}));
  return defaultsSchema.parse({
    module: data.module,
    stream: data.stream === '' ? undefined : data.stream,
    modified: digits(data.modified),
    profiles: Object.fromEntries(profiles.map(([key, value]) => [key, list(value)])),
  });
}

function readObsoletes(data: Raw): ModuleObsoletes {
  const by = data.obsoleted_by === undefined ? undefined : record(data.obsoleted_by);
  return obsoletesSchema.parse({
    module: data.module,
    stream: data.stream,
    context: data.context,
    modified: digits(data.modified),
    from: data.eol_date === undefined ? undefined : digits(data.eol_date),
    by: by && { module: by.module, stream: by.stream },
    reset: isTrue(data.reset),
    message: printable(data.message ?? '', 1000),
  });
}

function printable(text: unknown, length: number): string {
  return String(text)
    .replace(/[\s\u0000-\u001f\u007f-\u009f]+/g, ' ')
    .slice(0, length);
}

/** Accepts `201807011200` and `2018-07-01T12:00Z`; 0 for anything else. */
function digits(value: unknown): number {
  const text = String(value ?? '').replace(/\D/g, '');
  return text.length > 0 && text.length <= 14 ? Number(text.slice(0, 12)) : 0;
}

function isTrue(value: unknown): boolean {
  return /^(?:true|yes|on|1)$/i.test(String(value ?? ''));
}

function record(value: unknown): Raw {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Raw;
  if (value === '') return {};
  throw new TypeError('a mapping was expected');
}

function list(value: unknown): unknown[] {
  if (value === undefined || value === '') return [];
  return Array.isArray(value) ? value : [value];
}
