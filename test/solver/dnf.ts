/** dnf 4 as a second opinion: what it would install into an empty root. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

/** A repository, with what dnf.conf(5) calls so. */
export interface DnfRepository {
  readonly directory: string;
  readonly priority?: number;
  readonly cost?: number;
  readonly excludepkgs?: readonly string[];
  readonly includepkgs?: readonly string[];
  readonly module_hotfixes?: boolean;
}

/** One question to dnf. */
export interface DnfQuestion {
  /** The repositories; a folder stands for one with no options. */
  readonly directories: readonly (string | DnfRepository)[];
  readonly install: readonly string[];
  /** Members of groups that are asked for. */
  readonly members?: readonly { readonly name: string; readonly requires?: string }[];
  readonly weak?: boolean;
  readonly exclude?: readonly string[];
  /** Modules: `dnf module enable` and `disable`, and `module_platform_id`. */
  readonly enable?: readonly string[];
  readonly disable?: readonly string[];
  /** `dnf module install`. */
  readonly profiles?: readonly string[];
  readonly platform?: string;
}

/** NEVRAs (without epoch 0), sorted, or why there is no solution. */
export type DnfAnswer =
  | { readonly packages: string[]; readonly error?: never }
  | { readonly error: string; readonly packages?: never };

/** dnf's own library, asked everything by one process: its command takes a second each time. */
const PROGRAM = `
import dnf, dnf.module.module_base, json, libdnf, logging, sys
from urllib.parse import quote
MODULES = libdnf.module.ModulePackageContainer
logging.getLogger('dnf').addHandler(logging.NullHandler())
work, questions = sys.argv[1], json.load(sys.stdin)
answers, known = [], {}
for question in questions:
    conf = dnf.conf.Conf()
    conf.installroot = work + '/root'
    conf.cachedir = work + '/cache'
    conf.persistdir = work + '/persist'
    conf.logdir = work
    conf.reposdir = []
    conf.best = True
    conf.gpgcheck = False
    conf.optional_metadata_types = ['filelists']
    conf.install_weak_deps = question.get('weak', False)
    conf.substitutions['arch'] = conf.substitutions['basearch'] = 'x86_64'
    conf.substitutions['releasever'] = '1'
    conf.excludepkgs = question.get('exclude', [])
    if 'platform' in question:
        conf.module_platform_id = 'platform:' + question['platform']
    with dnf.Base(conf) as base:
        for repository in question['directories']:
            options = repository if isinstance(repository, dict) else {'directory': repository}
            directory = options.pop('directory')
            known.setdefault(directory, 'r%d' % len(known))
            base.repos.add_new_repo(
                known[directory], conf, baseurl=['file://' + quote(directory)], **options)
        base.fill_sack(load_system_repo=False)
        try:
            modules = dnf.module.module_base.ModuleBase(base)
            for act, specs in ((modules.disable, 'disable'), (modules.enable, 'enable'),
                               (modules.install, 'profiles')):
                if not question.get(specs):
                    continue
                # As dnf's command: what is wrong with defaults only is a warning.
                try:
                    act(question[specs])
                except dnf.exceptions.MarkingErrors as error:
                    problems = error.module_depsolv_errors
                    if not problems or problems[1] != MODULES.ModuleErrorType_ERROR_IN_DEFAULTS:
                        raise
                    if error.no_match_group_specs or error.error_group_specs:
                        raise
            for spec in question['install']:
                base.install(spec)
            # Debian's libcomps crashes: this is what dnf does with the members (_finalize_comps_trans).
            for member in question.get('members', []):
                query = base.sack.query().filterm(name=member['name']).apply()
                if not query:
                    continue
                selector = dnf.selector.Selector(base.sack)
                if member.get('requires'):
                    selector.set(provides='(%s if %s)' % (member['name'], member['requires']))
                else:
                    latest = query.filter(latest_per_arch_by_priority=True)
                    query = query.union(base.sack.query().filterm(obsoletes=latest))
                    selector.set(pkg=query)
                base._goal.install(select=selector, optional=False)
            base.resolve()
            packages = sorted(str(package) for package in base.transaction.install_set)
            answers.append({'packages': packages})
        except dnf.exceptions.Error as error:
            answers.append({'error': str(error)})
json.dump(answers, sys.stdout)
`;

/** What dnf says to each question. Paths of files count with what filelists know. */
export async function askDnfWhy(questions: readonly DnfQuestion[]): Promise<DnfAnswer[]> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-dnf-'));
  try {
    const input = JSON.stringify(questions);
    const { stdout } = await execa('/usr/bin/python3', ['-c', PROGRAM, work], { input });
    return JSON.parse(stdout) as DnfAnswer[];
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** For each question the packages, or null if dnf finds no solution. */
export async function askDnf(questions: readonly DnfQuestion[]): Promise<(string[] | null)[]> {
  return (await askDnfWhy(questions)).map(({ packages }) => packages ?? null);
}
