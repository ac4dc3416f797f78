// Written by scripts/write-wire.ts from io.kiln.varlink, which says what each is. Do not edit.
/** The version of the interface. */
export const INTERFACE_VERSION = 1;

/** A file or folder of the host that a sandbox sees. */
export interface Bind {
  /** On the host. */
  readonly source: string;
  /** In the sandbox. */
  readonly target: string;
  /** False unless given: the sandbox can write to it. */
  readonly readonly?: boolean | undefined;
  /** SELinux: `shared` has all sandboxes, `private` this one alone reach the files. They keep the label. */
  readonly relabel?: Relabel | undefined;
}

export type Relabel = 'shared' | 'private';

/** An empty file system in memory. */
export interface Tmpfs {
  readonly target: string;
  /** What it may hold; half of the memory unless given. */
  readonly size?: number | undefined;
}

/** A file or folder that is copied: see --copy-in of `kiln run` for what a slash at the end means. */
export interface Copy {
  readonly source: string;
  readonly target: string;
}

/** A file that only the command's user finds, as /run/secrets/NAME. */
export interface Secret {
  readonly name: string;
  /** On the host, 64 KiB at the most. */
  readonly file: string;
}

/** What stands around a command. The fields are the options of `kiln run`: docs/sandboxes.md explains each. */
export interface Surroundings {
  readonly binds?: readonly Bind[] | undefined;
  /** Confirms writable binds of what the host lives on. */
  readonly allowHostWrite?: boolean | undefined;
  readonly tmpfs?: readonly Tmpfs[] | undefined;
  readonly hostname?: string | undefined;
  /** private (unless given), host, or a libvirt network: NAME[,address=IP/PREFIX[,gateway=IP]][,mac=MAC]. */
  readonly network?: string | undefined;
  /** Confirms the network `host`. */
  readonly allowHostNetwork?: boolean | undefined;
  /** Hosts that are reached by a proxy: HOST[:PORT] or *.HOST[:PORT]. */
  readonly egress?: readonly string[] | undefined;
  readonly memory?: number | undefined;
  /** Processors' worth of time. */
  readonly cpus?: number | undefined;
  /** Processes and threads. */
  readonly pids?: number | undefined;
  /** Bytes a second from and to each disk. */
  readonly ioRead?: number | undefined;
  readonly ioWrite?: number | undefined;
  /** What each writable file system of its own may hold; 8 GiB unless given. */
  readonly disk?: number | undefined;
  readonly capabilities?: readonly string[] | undefined;
  /** default or nested. */
  readonly profile?: string | undefined;
  /** default, build, strict, or the path of a file in podman's format. */
  readonly seccomp?: string | undefined;
  /** SELinux or AppArmor: dynamic[:LABEL], static:LABEL, inherit or none. */
  readonly label?: string | undefined;
  readonly secrets?: readonly Secret[] | undefined;
  /** Layers that may be missing where this host cannot give them. */
  readonly allowMissing?: readonly string[] | undefined;
}

/** An image in use. */
export interface ImageName {
  readonly id: string;
  readonly name: string;
}

/** A command has started. */
export interface Started {
  /** The id of its sandbox. */
  readonly sandbox: string;
  /** What SendInput, SendSignal and ResizeTerminal call it. */
  readonly process: string;
  /** Its process id in the sandbox. */
  readonly pid: number;
}

/** What kiln is busy with. */
export interface Progress {
  /** In words. */
  readonly what: string;
  readonly done?: number | undefined;
  readonly total?: number | undefined;
}

/** kiln could not do what was asked, or not all of it. */
export interface Failure {
  /** Stable, to match on, such as E_IMAGE_MISSING. */
  readonly code: string;
  readonly message: string;
  /** What to do next. */
  readonly hint?: string | undefined;
}

/** How a command ended. */
export interface Ended {
  /** Its own exit status, unless a signal ended it. */
  readonly exitCode?: number | undefined;
  /** Such as SIGKILL. */
  readonly signal?: string | undefined;
  /** The limit that was in its way: timeout, stall, memory, pids or disk. Of Execute only the first two. */
  readonly limit?: string | undefined;
  /** What `kiln run` would have exited with. */
  readonly exitStatus: number;
}

/** What came of a run. */
export interface RunResult {
  readonly ended: Ended;
  readonly sandbox: string;
  readonly image: ImageName;
  /** Something went wrong after the command, with its artifacts. */
  readonly failure?: Failure | undefined;
  /** Files in resultDirectory. */
  readonly artifacts: readonly string[];
  readonly warnings: readonly string[];
  /** All that is known, as result.json has it: docs/result.md. */
  readonly report: Readonly<Record<string, unknown>>;
}

/** What came of a build. */
export interface BuildResult {
  /** 0: built. docs/builds.md has the others. */
  readonly exitStatus: number;
  readonly failure?: Failure | undefined;
  /** What was made, in resultDirectory. */
  readonly files: readonly string[];
  /** All that is known: docs/result.md, and docs/chains.md for a chain. */
  readonly report: Readonly<Record<string, unknown>>;
}

/** An image of the store. */
export interface Image {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly arch: string;
  readonly packages: number;
  readonly size: number;
  /** What of it no other image shares. */
  readonly ownSize: number;
  /** Milliseconds since 1970. */
  readonly created: number;
  readonly lastUse: number;
  readonly inUse: boolean;
  readonly warnings: readonly string[];
}

/** running: somebody uses it. kept: it waits for `kiln shell`. parked: it waits for a run. abandoned: it is removed soon. */
export type SandboxState = 'running' | 'kept' | 'parked' | 'abandoned';

export interface Sandbox {
  readonly id: string;
  readonly state: SandboxState;
  /** Milliseconds since 1970. */
  readonly created: number;
  readonly image?: string | undefined;
  /** Its name in libvirt. */
  readonly domain: string;
  readonly command: readonly string[];
}

/** A service, as `kiln service list` shows it. */
export interface Service {
  readonly name: string;
  /** created, running, stopped, failed and others: docs/services.md. */
  readonly state: string;
  readonly image?: string | undefined;
  /** Its definition cannot be read, or its supervisor does not answer. */
  readonly problem?: string | undefined;
  /** All that its supervisor says. */
  readonly status?: Readonly<Record<string, unknown>> | undefined;
}

/** ok: it is as it should be. warn: something will not work. fail: nothing will. */
export type CheckStatus = 'ok' | 'warn' | 'fail';

/** What `kiln doctor` found. */
export interface Check {
  readonly name: string;
  readonly status: CheckStatus;
  readonly found: string;
  readonly problem?: string | undefined;
  readonly mend?: string | undefined;
}

/** What version of kiln answers, and which version of this interface. */
export type GetVersionParameters = Readonly<Record<string, never>>;

/** What {@link GetVersionParameters} are answered with. */
export interface GetVersionReply {
  readonly kiln: string;
  readonly interface: number;
}

/** Runs one command in a sandbox of its own, and leaves nothing behind. An image that is not there yet is built. */
export interface RunParameters {
  /** A recipe's name or path, a lock, an image's id or name; the only image there is unless given. */
  readonly image?: string | undefined;
  readonly argv: readonly string[];
  /** On top of the image's. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** In the sandbox; the image's unless given. */
  readonly workdir?: string | undefined;
  /** NAME, UID or UID:GID; the image's unless given. */
  readonly user?: string | undefined;
  readonly surroundings?: Surroundings | undefined;
  /** Standard input; none unless given. */
  readonly input?: string | undefined;
  /** Standard input comes by SendInput, after `input`. Only with `more`. */
  readonly interactive?: boolean | undefined;
  /** Give it a terminal of this size, with one output for both. Only with `more`. */
  readonly terminal?:
    | {
        readonly rows: number;
        readonly columns: number;
      }
    | undefined;
  /** Ends it after this time. */
  readonly timeout?: number | undefined;
  /** Ends it after this time without output. */
  readonly stallTimeout?: number | undefined;
  /** Before it starts. */
  readonly copyIn?: readonly Copy[] | undefined;
  /** Patterns of files that are copied out afterwards, relative to its working directory. */
  readonly artifacts?: readonly string[] | undefined;
  /** Where they go, and result.json. */
  readonly resultDirectory?: string | undefined;
  /** Keeps the sandbox for so long, for `kiln shell`. */
  readonly keep?: number | undefined;
}

/** What {@link RunParameters} are answered with. */
export interface RunReply {
  readonly started?: Started | undefined;
  readonly progress?: Progress | undefined;
  readonly warning?: string | undefined;
  readonly stdout?: string | undefined;
  readonly stderr?: string | undefined;
  /** Not all output is here. */
  readonly truncated?: boolean | undefined;
  readonly result?: RunResult | undefined;
}

/**
 * Opens a sandbox for any number of commands, and files in and out. Called with `more`, it is there until the connection
 * ends or CloseSandbox is called, and the last reply, with nothing in it, comes then. Called without, it is there until
 * CloseSandbox, and for ten minutes without a call at the longest.
 */
export interface OpenSandboxParameters {
  /** As of Run. */
  readonly image: string;
  readonly user?: string | undefined;
  readonly surroundings?: Surroundings | undefined;
}

/** What {@link OpenSandboxParameters} are answered with. */
export interface OpenSandboxReply {
  readonly sandbox?: string | undefined;
  readonly image?: ImageName | undefined;
  readonly progress?: Progress | undefined;
  readonly warning?: string | undefined;
}

/** Runs a command in an open sandbox, beside others. What it has left running stays. */
export interface ExecuteParameters {
  /** Its id, as OpenSandbox gave it. */
  readonly sandbox: string;
  readonly argv: readonly string[];
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly workdir?: string | undefined;
  readonly input?: string | undefined;
  readonly interactive?: boolean | undefined;
  readonly terminal?:
    | {
        readonly rows: number;
        readonly columns: number;
      }
    | undefined;
  readonly timeout?: number | undefined;
  readonly stallTimeout?: number | undefined;
}

/** What {@link ExecuteParameters} are answered with. */
export interface ExecuteReply {
  readonly started?: Started | undefined;
  readonly stdout?: string | undefined;
  readonly stderr?: string | undefined;
  readonly truncated?: boolean | undefined;
  readonly result?: Ended | undefined;
}

/** Writes to the standard input of a command that runs; it replies when the command has room for more. */
export interface SendInputParameters {
  readonly process: string;
  readonly data?: string | undefined;
  /** There is no more. */
  readonly end?: boolean | undefined;
}

/** What {@link SendInputParameters} are answered with. */
export type SendInputReply = Readonly<Record<string, never>>;

/** Sends a signal, such as SIGTERM, to a command that runs, and what is in its process group. */
export interface SendSignalParameters {
  readonly process: string;
  readonly signal: string;
}

/** What {@link SendSignalParameters} are answered with. */
export type SendSignalReply = Readonly<Record<string, never>>;

/** Tells the terminal of a command its size. */
export interface ResizeTerminalParameters {
  readonly process: string;
  readonly rows: number;
  readonly columns: number;
}

/** What {@link ResizeTerminalParameters} are answered with. */
export type ResizeTerminalReply = Readonly<Record<string, never>>;

/** Writes a file in an open sandbox; it is its user's. Folders on the way are made. */
export interface WriteFileParameters {
  readonly sandbox: string;
  readonly path: string;
  readonly data: string;
  /** At the end of what is there. */
  readonly append?: boolean | undefined;
  /** Of a file that is made; 0644 (420) unless given. */
  readonly mode?: number | undefined;
}

/** What {@link WriteFileParameters} are answered with. */
export type WriteFileReply = Readonly<Record<string, never>>;

/** Reads a file in an open sandbox, 1 MiB at the most. */
export interface ReadFileParameters {
  readonly sandbox: string;
  readonly path: string;
  /** From this byte on; 0 unless given. */
  readonly offset?: number | undefined;
}

/** What {@link ReadFileParameters} are answered with. */
export interface ReadFileReply {
  readonly data: string;
  /** Of the whole file. */
  readonly size: number;
}

/** Ends everything in an open sandbox; nothing of it is left. */
export interface CloseSandboxParameters {
  readonly sandbox: string;
}

/** What {@link CloseSandboxParameters} are answered with. */
export type CloseSandboxReply = Readonly<Record<string, never>>;

/**
 * Builds a source package, a spec, a recipe, or a chain of source packages. The fields are the options of `kiln build`;
 * docs/builds.md, docs/recipes.md and docs/chains.md explain them. What a kind of build does not heed is refused.
 */
export interface BuildParameters {
  /** A source package (.src.rpm), a spec (.spec), or a recipe's path or name; several source packages are a chain. */
  readonly sources: readonly string[];
  readonly image?: string | undefined;
  /** A folder: the files that a spec names, or a recipe's sources by their digest. */
  readonly sourceDirectory?: string | undefined;
  readonly resultDirectory: string;
  /** Several at a time, in a chain. */
  readonly jobs?: number | undefined;
  /** Go on after a failure, in a chain. */
  readonly continue?: boolean | undefined;
  /** Try what failed again with newer results, in a chain. */
  readonly recurse?: boolean | undefined;
  /** Macros, as NAME VALUE. */
  readonly defines?: readonly string[] | undefined;
  readonly with?: readonly string[] | undefined;
  readonly without?: readonly string[] | undefined;
  readonly nocheck?: boolean | undefined;
  readonly target?: string | undefined;
  /** Phases that have a network: see --enable-network. */
  readonly networkPhases?: readonly string[] | undefined;
  readonly network?: string | undefined;
  readonly egress?: readonly string[] | undefined;
  /** Installed beside what the package requires. */
  readonly packages?: readonly string[] | undefined;
  /** Folders or URLs to take packages from, too. */
  readonly repositories?: readonly string[] | undefined;
  /** NAME[:SIZE] */
  readonly caches?: readonly string[] | undefined;
  readonly memory?: number | undefined;
  readonly cpus?: number | undefined;
  readonly pids?: number | undefined;
  readonly ioRead?: number | undefined;
  readonly ioWrite?: number | undefined;
  readonly disk?: number | undefined;
  readonly timeout?: number | undefined;
  readonly stallTimeout?: number | undefined;
  /** If it fails, keeps its sandbox for so long. */
  readonly keep?: number | undefined;
  /** The lock.json of an earlier build, whose very image is used. */
  readonly lock?: string | undefined;
  readonly postinstall?: boolean | undefined;
  /** Builds twice, in other surroundings, and compares. */
  readonly verify?: boolean | undefined;
  /** Files with an OpenPGP key and its passphrase, and with a private key for the provenance. */
  readonly signKey?: string | undefined;
  readonly signPassphraseFile?: string | undefined;
  readonly provenanceKey?: string | undefined;
  readonly builderId?: string | undefined;
  readonly offline?: boolean | undefined;
  readonly update?: boolean | undefined;
  /** What a recipe in TypeScript finds in `parameters`. */
  readonly parameters?: Readonly<Record<string, string>> | undefined;
  /** A recipe may use the host: its commands, binds and network. */
  readonly allowHost?: boolean | undefined;
}

/** What {@link BuildParameters} are answered with. */
export interface BuildReply {
  /** A part of the build begins. */
  readonly phase?: string | undefined;
  readonly progress?: Progress | undefined;
  readonly warning?: string | undefined;
  /** What the build writes. */
  readonly output?: string | undefined;
  /** Of a chain: what happened to one of its packages. */
  readonly member?:
    | {
        readonly name: string;
        readonly state: string;
      }
    | undefined;
  readonly result?: BuildResult | undefined;
}

/** Makes an image, unless it is there already. */
export interface BuildImageParameters {
  /** A recipe's name or path, or a lock. */
  readonly image: string;
  /** With fresh metadata, and without the lock that lies beside the recipe. */
  readonly update?: boolean | undefined;
}

/** What {@link BuildImageParameters} are answered with. */
export interface BuildImageReply {
  readonly progress?: Progress | undefined;
  readonly warning?: string | undefined;
  readonly result?: Image | undefined;
}

/** Solves a recipe and writes its lock, by which it is built without a solver. */
export interface LockImageParameters {
  /** A recipe's name or path. */
  readonly recipe: string;
  /** Where to; beside the recipe unless given. */
  readonly output?: string | undefined;
}

/** What {@link LockImageParameters} are answered with. */
export interface LockImageReply {
  readonly progress?: Progress | undefined;
  readonly warning?: string | undefined;
  readonly result?: string | undefined;
}

/** The images of the store, the one used last first. */
export type ListImagesParameters = Readonly<Record<string, never>>;

/** What {@link ListImagesParameters} are answered with. */
export interface ListImagesReply {
  readonly images: readonly Image[];
}

/** Removes an image that is not in use. */
export interface RemoveImageParameters {
  /** Its id, or a name that only one image has. */
  readonly image: string;
}

/** What {@link RemoveImageParameters} are answered with. */
export interface RemoveImageReply {
  readonly id: string;
  readonly freed: number;
}

/** All sandboxes, the oldest first. */
export type ListSandboxesParameters = Readonly<Record<string, never>>;

/** What {@link ListSandboxesParameters} are answered with. */
export interface ListSandboxesReply {
  readonly sandboxes: readonly Sandbox[];
}

/** Destroys a sandbox, whatever runs in it. */
export interface KillSandboxParameters {
  /** Its id, or the beginning of it. */
  readonly sandbox: string;
}

/** What {@link KillSandboxParameters} are answered with. */
export interface KillSandboxReply {
  readonly id: string;
}

/** Services, all or those named. */
export interface ListServicesParameters {
  readonly names?: readonly string[] | undefined;
}

/** What {@link ListServicesParameters} are answered with. */
export interface ListServicesReply {
  readonly services: readonly Service[];
}

/** Makes a service. The image is made first where it is not there yet. */
export interface CreateServiceParameters {
  /** Small letters, digits and dashes. */
  readonly name: string;
  /** What service.yaml has: docs/services.md, and `kiln service schema`. It names the image. */
  readonly definition: Readonly<Record<string, unknown>>;
  /** With the files that the image has in the packages' /var. */
  readonly copy?: boolean | undefined;
  /** /var in an ext4 image of this size. */
  readonly imageSize?: number | undefined;
}

/** What {@link CreateServiceParameters} are answered with. */
export interface CreateServiceReply {
  readonly progress?: Progress | undefined;
  readonly warning?: string | undefined;
  readonly result?: Service | undefined;
}

/** Starts a service and waits until it is up. */
export interface StartServiceParameters {
  readonly name: string;
}

/** What {@link StartServiceParameters} are answered with. */
export interface StartServiceReply {
  readonly service: Service;
}

/** Stops a service: its units first, then whatever is left. False: it did not run. */
export interface StopServiceParameters {
  readonly name: string;
}

/** What {@link StopServiceParameters} are answered with. */
export interface StopServiceReply {
  readonly stopped: boolean;
}

/** Stops a service, if it runs, and starts it. */
export interface RestartServiceParameters {
  readonly name: string;
}

/** What {@link RestartServiceParameters} are answered with. */
export interface RestartServiceReply {
  readonly service: Service;
}

/** Removes a service that does not run, with all it has. */
export interface DeleteServiceParameters {
  readonly name: string;
}

/** What {@link DeleteServiceParameters} are answered with. */
export type DeleteServiceReply = Readonly<Record<string, never>>;

/** Checks what kiln needs of this machine. */
export interface DoctorParameters {
  /** Only these checks. */
  readonly names?: readonly string[] | undefined;
}

/** What {@link DoctorParameters} are answered with. */
export interface DoctorReply {
  readonly checks: readonly Check[];
}

/** The command line's own: the connection is upgraded, and has another protocol from then on. Not for anybody else. */
export interface CommandLineParameters {
  readonly build: string;
}

/** What {@link CommandLineParameters} are answered with. */
export type CommandLineReply = Readonly<Record<string, never>>;

/** All methods: their parameters and replies. */
export interface Methods {
  readonly GetVersion: {
    readonly parameters: GetVersionParameters;
    readonly reply: GetVersionReply;
  };
  readonly Run: { readonly parameters: RunParameters; readonly reply: RunReply };
  readonly OpenSandbox: {
    readonly parameters: OpenSandboxParameters;
    readonly reply: OpenSandboxReply;
  };
  readonly Execute: { readonly parameters: ExecuteParameters; readonly reply: ExecuteReply };
  readonly SendInput: { readonly parameters: SendInputParameters; readonly reply: SendInputReply };
  readonly SendSignal: {
    readonly parameters: SendSignalParameters;
    readonly reply: SendSignalReply;
  };
  readonly ResizeTerminal: {
    readonly parameters: ResizeTerminalParameters;
    readonly reply: ResizeTerminalReply;
  };
  readonly WriteFile: { readonly parameters: WriteFileParameters; readonly reply: WriteFileReply };
  readonly ReadFile: { readonly parameters: ReadFileParameters; readonly reply: ReadFileReply };
  readonly CloseSandbox: {
    readonly parameters: CloseSandboxParameters;
    readonly reply: CloseSandboxReply;
  };
  readonly Build: { readonly parameters: BuildParameters; readonly reply: BuildReply };
  readonly BuildImage: {
    readonly parameters: BuildImageParameters;
    readonly reply: BuildImageReply;
  };
  readonly LockImage: { readonly parameters: LockImageParameters; readonly reply: LockImageReply };
  readonly ListImages: {
    readonly parameters: ListImagesParameters;
    readonly reply: ListImagesReply;
  };
  readonly RemoveImage: {
    readonly parameters: RemoveImageParameters;
    readonly reply: RemoveImageReply;
  };
  readonly ListSandboxes: {
    readonly parameters: ListSandboxesParameters;
    readonly reply: ListSandboxesReply;
  };
  readonly KillSandbox: {
    readonly parameters: KillSandboxParameters;
    readonly reply: KillSandboxReply;
  };
  readonly ListServices: {
    readonly parameters: ListServicesParameters;
    readonly reply: ListServicesReply;
  };
  readonly CreateService: {
    readonly parameters: CreateServiceParameters;
    readonly reply: CreateServiceReply;
  };
  readonly StartService: {
    readonly parameters: StartServiceParameters;
    readonly reply: StartServiceReply;
  };
  readonly StopService: {
    readonly parameters: StopServiceParameters;
    readonly reply: StopServiceReply;
  };
  readonly RestartService: {
    readonly parameters: RestartServiceParameters;
    readonly reply: RestartServiceReply;
  };
  readonly DeleteService: {
    readonly parameters: DeleteServiceParameters;
    readonly reply: DeleteServiceReply;
  };
  readonly Doctor: { readonly parameters: DoctorParameters; readonly reply: DoctorReply };
  readonly CommandLine: {
    readonly parameters: CommandLineParameters;
    readonly reply: CommandLineReply;
  };
}

/** All errors: their parameters. */
export interface Errors {
  readonly Failed: {
    /** Stable, to match on, such as E_IMAGE_MISSING. */
    readonly code: string;
    readonly message: string;
    /** What to do next. */
    readonly hint?: string | undefined;
    /** Why, from the nearest cause to the first. */
    readonly causes: readonly string[];
  };
  readonly OtherBuild: {
    readonly build: string;
  };
}
