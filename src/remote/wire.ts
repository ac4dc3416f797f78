/**
 * What the two ends of `kiln --host` say to each other through ssh, in the frames of src/service/supervisor/frames.ts. The near end
 * is the caller's kiln, the far end `kiln remote-stdio` on the other machine.
 */

/** Changes with everything that the two ends could misunderstand. */
export const PROTOCOL = 1;

/** Beside those of src/service/supervisor/frames.ts. */
export const REMOTE_FRAME = {
  /** A piece of a tar archive: files on their way; an empty one: the archive is whole. */
  archive: 5,
} as const;

/** So many bytes of standard input may be on their way before the far end has passed them on. */
export const INPUT_WINDOW = 1 << 20;

/** How often the near end says that it lives, and how long it may be silent, milliseconds. */
export const ALIVE_EVERY = 10_000;
export const SILENCE_MAX = 45_000;

/** Bytes of one frame. */
export const PIECE = 64 * 1024;

/** What is to be run; JSON of the near end's first and only FRAME.message. */
export interface RemoteStart {
  /** The words behind `kiln`; names of files are those of the archive. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Which of descriptors 0, 1 and 2 are terminals. */
  readonly terminals: readonly [boolean, boolean, boolean];
  readonly rows: number;
  readonly columns: number;
  /** Folders whose content comes back: names below the far end's folder. */
  readonly outputs: readonly string[];
  /** Files may be needed until the job ends that this command leaves behind. */
  readonly detaches: boolean;
}

/** The near end's FRAME.control. */
export type NearControl =
  | { readonly do: 'alive' }
  | { readonly do: 'signal'; readonly signal: NodeJS.Signals }
  | { readonly do: 'resize'; readonly rows: number; readonly columns: number };

/** The far end's FRAME.message. */
export type FarMessage =
  /** The first one. */
  | {
      readonly kiln: string;
      readonly protocol: number;
      /** Its folder, as paths of the far end's own messages begin. */
      readonly folder: string;
    }
  /** Standard input was passed on. */
  | { readonly taken: number }
  | { readonly failed: { readonly code: string; readonly message: string; readonly hint?: string } }
  /** The command has ended; what it left has come before. */
  | { readonly status: number };
