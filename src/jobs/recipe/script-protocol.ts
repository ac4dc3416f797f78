/** What kiln and the confined child of a TypeScript recipe say to each other; the child's words are in script-session.ts. */

export const MESSAGES_FD_INDEX = 0;
export const ANSWERS_FD_INDEX = 1;

/** Bytes of one chunk of data, as base64. */
export const CHUNK_BYTES = 64 * 1024;

export interface ScriptInput {
  readonly entry: string;
  readonly parameters: Readonly<Record<string, string>>;
  readonly hostCwd: string | undefined;
}

/** From kiln to the child. It trusts them. */
export type ParentMessage = Readonly<
  | {
      type: 'step';
      index: number;
      workdir: string;
      env: Readonly<Record<string, string>>;
      shell: SandboxShell;
    }
  | { type: 'started'; id: number }
  | { type: 'failed'; id: number; message: string }
  /** `data` is base64; null is the end. */
  | { type: 'output'; id: number; stream: 'stdout' | 'stderr'; data: string | null }
  | { type: 'drained'; id: number }
  | { type: 'exit'; id: number; code: number | null; signal: NodeJS.Signals | null }
>;

export type FileAnswer = { readonly content: string } | { readonly problem: string };

export interface SandboxShell {
  readonly path: string;
  readonly prefix: string;
}
