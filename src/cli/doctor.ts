import type { CheckResult } from '../doctor/check.ts';
import { runChecks } from '../doctor/checks.ts';
import { type HostFile, hostFiles, readHost } from '../doctor/host.ts';
import { statePaths } from '../host/state/paths.ts';
import { flag } from '../options/kind.ts';
import { row, type ValuesOf } from '../options/row.ts';
import { ROOTS } from '../options/rules.ts';
import type { Caller } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { printJson } from './output/print.ts';

const DOCTOR = {
  json: row(flag, ROOTS, { help: 'print one JSON document instead of a table' }),
  files: row(flag, ROOTS, { help: 'list the paths that kiln uses on this host beside KILN_STATE' }),
};

type DoctorOptions = ValuesOf<typeof DOCTOR>;

export function command(caller: Caller): KilnCommand {
  return new KilnCommand('doctor')
    .description('Check what kiln needs of this host, and tell how to mend what is wrong.')
    .argument('[check...]', 'names of checks to run, from the second column; all by default')
    .rows(DOCTOR)
    .examples(
      'kiln doctor',
      'kiln doctor landlock',
      'kiln doctor --json | jq -r ".checks[] | select(.status == \\"fail\\") | .mend"',
      'kiln doctor --files',
    )
    .action(async (names: readonly string[], options: DoctorOptions) => {
      const paths = statePaths(caller.env);
      if (options.files === true) {
        const files = await hostFiles(paths, caller.env);
        print({ state: paths.root, files }, fileTable(files), options, caller);
        return;
      }
      const host = await readHost(caller.env);
      const checks = await runChecks({ paths, env: caller.env, host, owner: undefined }, names);
      const failed = checks.some(({ status }) => status === 'fail');
      print({ ok: !failed, checks }, checkTable(checks), options, caller);
      caller.exitStatus = failed ? 1 : 0;
    });
}

function print(value: object, text: string, { json }: DoctorOptions, { stdout }: Caller): void {
  if (json === true) printJson(stdout, value, 2);
  else stdout.say(`${text}\n`);
}

function checkTable(checks: readonly CheckResult[]): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  const lines = checks.flatMap(({ name, status, found, problem, mend }) => [
    `${status.padEnd(4)}  ${name.padEnd(width)}  ${found}`,
    ...(problem === undefined ? [] : [`${' '.repeat(width + 8)}wrong: ${problem}`]),
    ...(mend === undefined ? [] : [`${' '.repeat(width + 8)}mend:  ${mend}`]),
  ]);
  const count = (status: string) => checks.filter((check) => check.status === status).length;
  lines.push('', `${count('ok')} ok, ${count('warn')} to watch, ${count('fail')} to mend`);
  return lines.join('\n');
}

function fileTable(files: readonly HostFile[]): string {
  const width = Math.max(...files.map(({ path }) => path.length));
  const lines = files.map(
    ({ path, purpose, lives, exists }) =>
      `${exists ? '*' : ' '} ${path.padEnd(width)}  ${purpose}; ${lives}`,
  );
  return lines.join('\n');
}
