import { OPTION_GROUPS, type OptionEntry } from './option-table.ts';

const USAGE = `Usage: kiln-mock [options] [--rebuild] SRPM…
       kiln-mock [options] --buildsrpm --spec SPEC [--sources PATH]
       kiln-mock [options] --chain SRPM…
       kiln-mock [options] {--init | --clean | --scrub WHAT}
       kiln-mock [options] {--shell | --chroot} [COMMAND…]
       kiln-mock [options] {--install | --remove | --update | --installdeps} PACKAGE…
       kiln-mock [options] {--copyin | --copyout} SOURCE… DESTINATION

mock's command line on kiln's sandboxes, for scripts that call mock. CONFIG is one of mock's
configurations, which are read and never run, or a recipe of kiln's.
`;

const AFTER = `
Options of mock's about its bootstrap, isolation and package manager are taken and change nothing.

Exit status: 0; 1 failed, or rpmbuild's own; 3 configuration; 4 chain incomplete; 5 command line;
7 interrupted; 10 no packages; 11 out of time; 20 root; 30 packages and repositories; 40 no SRPM;
50 arguments; 60 root locked; 70 result directory; 80 sandbox; of --shell and --chroot the
command's own.

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
  return USAGE + groups.join('') + AFTER;
}

function optionLine(name: string, { short, value, help = '' }: OptionEntry): string {
  const flags = `${short === undefined ? '' : `-${short}, `}--${name}`;
  const left = `  ${value === undefined ? flags : `${flags} ${value}`}`;
  return left.length < 30 ? `${left.padEnd(30)}${help}` : `${left}\n${' '.repeat(30)}${help}`;
}
