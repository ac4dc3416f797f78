import type { Warning } from '../artifacts/warning.ts';
import type { PathCaller } from '../cli/caller/caller.ts';
import { idsOf, type PeerIdentity } from '../daemon/peer.ts';
import { workingDirectoryError } from '../host/calls/system-error.ts';
import { enterWorkGroup, workGroup } from '../host/cgroup/work-group.ts';
import type { Opener } from '../host/files/opener.ts';
import { actingAs } from '../host/process/user-namespace.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { RunRequest } from '../jobs/run/request.ts';
import { setDownloadWays } from '../packages/repository/transport/reach.ts';
import { CallerFiles } from '../users/caller-files.ts';
import type { CallerPaths } from '../users/caller-paths.ts';
import { currentConfiguration } from '../users/configuration.ts';
import { HeldPaths } from '../users/held-paths.ts';
import { JobFolder } from '../users/job-folder.ts';
import { userOf, workLimits } from './users.ts';

/** What a job has of who asked for it. */
export interface JobPlace {
  readonly opener: Opener;
  readonly cwd: string;
  /** Whose the folders are that are made. */
  readonly ids: RunRequest['caller'];
  readonly say: (warning: Warning) => void;
  /** A descriptor of the process that called; the API's callers have none. */
  readonly client?: number | undefined;
}

/** Where a worker's job has its caller's files, one job at a time. */
export class JobPlaces {
  readonly #state: StatePaths;
  readonly #configuration: string;
  #paths: CallerPaths | undefined;
  /** The user that this process has worked for: it works for nobody else. */
  #served: string | undefined;

  constructor(state: StatePaths, configuration: string) {
    this.#state = state;
    this.#configuration = configuration;
  }

  /** A user's files come only from the user's own client, to a folder of this job. Root's are used as they are. */
  async take(identity: PeerIdentity, { client, say, ...place }: JobPlace): Promise<PathCaller> {
    // A command line has its caller's own besides: see runCommandLine().
    setDownloadWays(async () => currentConfiguration(this.#configuration).repositories);
    const ids = identity.uid === 0 ? undefined : idsOf(identity);
    if (this.#served !== undefined && ids !== this.#served) {
      throw new Error('a worker of another user’s');
    }
    this.#served = ids;
    if (ids === undefined) {
      const cwd = () => {
        if (place.cwd === '') throw workingDirectoryError();
        return place.cwd;
      };
      const makeFolder = () => JobFolder.make(this.#state);
      const paths = new HeldPaths({ ...place, cwd, owner: place.ids, makeFolder, warn: say });
      this.#paths = paths;
      return { user: undefined, paths };
    }
    const user = userOf(identity, this.#configuration);
    enterWorkGroup(workGroup(this.#state, user.uid), workLimits(user.policy));
    const files = await CallerFiles.make(this.#state, {
      ...{ ...place, owner: user, bytes: user.policy.limits.disk },
      withRights: (act) => actingAs(user, act),
      warn: say,
    });
    this.#paths = files;
    return { user: { ...user, files, process: client }, paths: files };
  }

  async leave(): Promise<void> {
    await this.#paths?.[Symbol.asyncDispose]();
    this.#paths = undefined;
  }
}
