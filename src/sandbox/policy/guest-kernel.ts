/** What a machine boots. The paths are of the host, or in the tree of the image whose packages bring it. */
export interface GuestKernel {
  readonly release: string;
  readonly image: string;
  /** Each after those that it needs. */
  readonly modules: readonly PackedModule[];
  /** Those that are loaded when somebody names a file with a file system. */
  readonly imageModules: readonly PackedModule[];
}

export interface PackedModule {
  /** With the ending that says how it is packed. */
  readonly name: string;
  readonly path: string;
}
