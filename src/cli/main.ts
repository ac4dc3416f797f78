import { Command, CommanderError } from 'commander';
import { printError } from './errors.ts';

/** Exit status for a failure of kiln itself, as podman and docker use it. */
const KILN_FAILED = 125;

/** One command: its module is imported only when it is called, so that start-up stays short. */
interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  readonly load: () => Promise<{ command(): Command }>;
}

const commands: readonly CommandEntry[] = [
  {
    name: 'rpm',
    summary: 'query, verify and unpack RPM files',
    load: () => import('./rpm.ts'),
  },
];

function overview(): Command {
  const program = new Command('kiln')
    .description('Run one command or one build in a sealed libvirt-lxc box made of RPM payloads.')
    .version('0.1.0');
  for (const entry of commands)
    program.command(entry.name, { hidden: false }).description(entry.summary);
  return program;
}

async function main(argv: readonly string[]): Promise<void> {
  const name = argv[0];
  const entry = commands.find((candidate) => candidate.name === name);
  const program =
    entry === undefined
      ? overview()
      : new Command('kiln').addCommand((await entry.load()).command());
  program.exitOverride();
  for (const sub of program.commands) sub.exitOverride();
  await program.parseAsync([...argv], { from: 'user' });
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : KILN_FAILED;
  } else {
    printError(error);
    process.exitCode = KILN_FAILED;
  }
}
