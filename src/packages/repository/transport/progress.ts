/** One step of work on repositories, as {@link OnProgress} hears of it. */
export type RepositoryProgress =
  /** Bytes of one file arrived. `total` is undefined while the size is unknown. */
  | {
      readonly kind: 'download';
      readonly repository: string;
      /** What is downloaded: `repomd.xml`, `primary`, or a package's NEVRA. */
      readonly item: string;
      readonly received: number;
      readonly total: number | undefined;
    }
  /** A mirror failed and another (or the same one, later) is tried. */
  | {
      readonly kind: 'retry';
      readonly repository: string;
      readonly item: string;
      readonly reason: string;
    }
  /** Packages that are on this machine so far. Bytes count what came over the network. */
  | {
      readonly kind: 'packages';
      readonly done: number;
      readonly count: number;
      readonly receivedBytes: number;
    }
  /** Metadata is turned into the solver's own form, which happens once for each new repomd.xml. */
  | { readonly kind: 'load'; readonly repository: string };

export type OnProgress = (progress: RepositoryProgress) => void;
