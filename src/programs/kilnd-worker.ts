/** A worker of kilnd's, which starts it and hands it jobs: a program by itself, since it loads half as much. */
import { writeSync } from 'node:fs';
import { loadCommands } from '../cli/commands.ts';
import { describeError, KILN_FAILED } from '../cli/output/errors.ts';
import { DaemonConnection } from '../daemon/daemon-connection.ts';
import { ResultsServer } from '../daemon/results.ts';
import { nameProcess } from '../host/process/process.ts';
import { statePaths } from '../host/state/paths.ts';
import { JobPlaces } from '../serve/job-places.ts';
import { WorkerEngines } from '../serve/worker-engines.ts';
import { WorkerJobs } from '../serve/worker-jobs.ts';
import { configurationFile } from '../users/configuration-file.ts';

/** A larger worker serves nobody else, bytes: it gives its memory back by ending. */
const MEMORY_MAX = 256 << 20;

/** After this time, milliseconds, a spare worker loads all code. Where jobs come fast, each loads what it needs. */
const LOADING = 2000;

/** How long a worker's job may take to end once its daemon is gone, milliseconds. */
const LAST_MOMENTS = 20_000;

function main(): void {
  nameProcess('kilnd-worker');
  const { env } = process;
  const state = statePaths(env);
  const configuration = configurationFile(env);
  const tell = (error: unknown) => void writeSync(2, describeError(error));
  const isSmall = () => process.memoryUsage.rss() < MEMORY_MAX;
  const daemon = new DaemonConnection();
  const results = new ResultsServer();
  const jobs = new WorkerJobs({
    ...{ daemon, state, configuration, env, isSmall, tell },
    engines: new WorkerEngines(daemon, env.KILN_CONFIG),
    places: new JobPlaces(state, configuration),
    enter: (folder) => process.chdir(folder),
    exit: (status) => process.exit(status),
  });
  const fail = (error: unknown) => jobs.fail(error);
  process.on('uncaughtException', fail);
  // Not at once: whoever waits for a worker to start needs the code of one command.
  const loading = setTimeout(() => {
    loadCommands().catch(fail);
  }, LOADING);
  daemon.on('work', () => clearTimeout(loading));
  daemon.on('job', (line) => jobs.line(line));
  daemon.on('call', (call) => jobs.call(call));
  daemon.on('results', (payload, fds) => {
    results.answer(payload, fds).then((answer) => daemon.answer(answer), fail);
  });
  daemon.on('stop', () => results.stop());
  daemon.on('over', () => {
    results.forget();
    daemon.done(isSmall());
  });
  daemon.on('gone', () => {
    results.stop();
    if (jobs.isBusy) {
      jobs.abort();
      setTimeout(() => process.exit(KILN_FAILED), LAST_MOMENTS).unref();
    } else Promise.all([results.answered, jobs.synced]).then(() => process.exit(), fail);
  });
}

main();
