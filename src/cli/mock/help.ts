import { OPTION_GROUPS, type OptionEntry } from './option-table.ts';

export const MOCK_USAGE = `Usage: kiln-mock [options] [--rebuild] SRPM…
       kiln-mock [options] --buildsrpm --spec SPEC [--sources PATH]
       kiln-mock [options] --chain SRPM…
       kiln-mock [options] {--init | --clean | --scrub WHAT}
       kiln-mock [options] {--shell | --chroot} [COMMAND…]
       kiln-mock [options] {--install | --remove | --update | --installdeps} PACKAGE…
       kiln-mock [options] {--copyin | --copyout} SOURCE… DESTINATION
`;

export const MOCK_ABOUT = `
Builds packages in kiln's sandboxes with the command line of mock, for scripts that call mock. CONFIG
is a mock configuration, which kiln reads but never executes, or a recipe of kiln.
`;

export const MOCK_AFTER = `
kiln-mock accepts mock's options about bootstrap, isolation and package manager, but they have no effect.

Exit status: 0, or what went wrong: 1 something else, or the status of rpmbuild; 3 configuration;
4 a chain is incomplete; 5 command line; 7 interrupted; 10 no packages were made; 11 time limit;
20 root; 30 packages and repositories; 40 not a source package; 50 arguments; 60 the root is locked;
70 result directory; 80 sandbox. --shell and --chroot: the status of the command.

Examples:
  kiln-mock -r debian-build --rebuild hello-2.12-1.src.rpm --resultdir out
  kiln-mock -r fedora-44-x86_64 --buildsrpm --spec hello.spec --sources .
  kiln-mock -r ./my.cfg --init; kiln-mock -r ./my.cfg --install gdb; kiln-mock -r ./my.cfg --shell
  kiln-mock -r debian-build --chroot -- ls -l /builddir
`;

/** The text of `--help`. */
export function helpText(): string {
  const groups = OPTION_GROUPS.map(([title, entries]) => {
    const lines = Object.entries(entries).map(([name, entry]) => optionLine(name, entry));
    return `\n${title}:\n${lines.join('\n')}\n`;
  });
  return MOCK_USAGE + MOCK_ABOUT + groups.join('') + MOCK_AFTER;
}

function optionLine(name: string, { short, value, help = '' }: OptionEntry): string {
  const flags = `${short === undefined ? '' : `-${short}, `}--${name}`;
  const left = `  ${value === undefined ? flags : `${flags} ${value}`}`;
  return left.length < 30 ? `${left.padEnd(30)}${help}` : `${left}\n${' '.repeat(30)}${help}`;
}
