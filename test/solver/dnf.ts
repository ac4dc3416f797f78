/** dnf 4 as a second opinion: what it would install into an empty root. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

/** One question to dnf. */
export interface DnfQuestion {
  /** The repositories' folders. */
  readonly directories: readonly string[];
  readonly install: readonly string[];
  readonly weak?: boolean;
  readonly exclude?: readonly string[];
}

/** dnf's own library, asked everything by one process: its command takes a second each time. */
const PROGRAM = `
import dnf, json, sys
from urllib.parse import quote
work, questions = sys.argv[1], json.load(sys.stdin)
answers, known = [], {}
for question in questions:
    conf = dnf.conf.Conf()
    conf.installroot = work + '/root'
    conf.cachedir = work + '/cache'
    conf.logdir = work
    conf.reposdir = []
    conf.best = True
    conf.gpgcheck = False
    conf.optional_metadata_types = ['filelists']
    conf.install_weak_deps = question.get('weak', False)
    conf.substitutions['arch'] = conf.substitutions['basearch'] = 'x86_64'
    conf.substitutions['releasever'] = '1'
    conf.excludepkgs = question.get('exclude', [])
    with dnf.Base(conf) as base:
        for directory in question['directories']:
            known.setdefault(directory, 'r%d' % len(known))
            base.repos.add_new_repo(known[directory], conf, baseurl=['file://' + quote(directory)])
        base.fill_sack(load_system_repo=False)
        try:
            for spec in question['install']:
                base.install(spec)
            base.resolve()
            answers.append(sorted(str(package) for package in base.transaction.install_set))
        except (dnf.exceptions.DepsolveError, dnf.exceptions.MarkingError):
            answers.append(None)
json.dump(answers, sys.stdout)
`;

/**
 * For each question the NEVRAs (without epoch 0), sorted, or null if dnf finds no solution. Paths of
 * files count with what filelists know.
 */
export async function askDnf(questions: readonly DnfQuestion[]): Promise<(string[] | null)[]> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-dnf-'));
  try {
    const input = JSON.stringify(questions);
    const { stdout } = await execa('/usr/bin/python3', ['-c', PROGRAM, work], { input });
    return JSON.parse(stdout) as (string[] | null)[];
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
