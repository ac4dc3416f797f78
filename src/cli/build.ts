import { Command, Option } from 'commander';
import { buildPackage } from '../build/build.ts';
import type { BuildRequest } from '../build/request.ts';
import { addBuildOptions, type BuildOptions, buildRequest } from './build-options.ts';
import { BuildOutput } from './build-output.ts';
import { openEngine } from './engine.ts';
import { listenForInterruption } from './interruption.ts';

const EXAMPLES = `
Exit status: 0 built; 1 it does not build; 3 no source package, or a spec that rpmbuild does not
take; 4 what it requires cannot be had; 5 what was built does not pass (--postinstall, --verify);
124 out of time; 125 kiln itself failed; 130 interrupted.

Examples:
  kiln build -r debian-build hello-2.12-1.src.rpm
  kiln build -r debian-build --spec hello.spec --sources . --resultdir out
  kiln build -r debian-build --with tests -D 'vendor Me' --cache ccache:2G hello-2.12-1.src.rpm
  kiln build -r debian-build --keep hello-2.12-1.src.rpm; kiln shell 3fa9c1d2e4
  kiln build --lock out/lock.json --offline hello-2.12-1.src.rpm`;

/** `kiln build`. */
export function command(): Command {
  const it = new Command('build')
    .description('Build an RPM package from its source in a sandbox that is gone afterwards.')
    .usage('[options] (SRPM | --spec SPEC [--sources DIR])')
    .argument('[srpm]', 'a source package');
  return addBuildOptions(it)
    .addOption(new Option('--json', 'print the result as JSON on stderr’s last line'))
    .addHelpText('after', EXAMPLES)
    .action((srpm: string | undefined, options: BuildOptions) =>
      run(buildRequest(srpm, options, it), options),
    );
}

async function run(request: BuildRequest, options: BuildOptions): Promise<void> {
  await using engine = openEngine();
  using interruption = listenForInterruption();
  const output = new BuildOutput(options.quiet === true);
  const report = await buildPackage(engine, request, {
    ...output.hooks,
    signal: interruption.signal,
  });
  output.finish(report);
  process.exitCode = report.exitStatus;
}
