import test from 'ava';
import fc from 'fast-check';
import { parseCommandLine } from '../../src/cli/mock/command-line.ts';
import { helpText, OPTIONS } from '../../src/cli/mock/option-table.ts';
import { KilnError } from '../../src/errors.ts';

/** Every long option of mock(1) and `mock --help`; those with a value have it after a blank. */
const MOCK = `
--addrepo URL
--additional-package PACKAGE
--arch x86_64
--bootstrap-chroot
--buildroot-image IMAGE
--buildsrpm
--cache-alterations
--calculate-build-dependencies
--chain
--chroot
--clean
--cleanup-after
--config-opts KEY=VALUE
--configdir DIR
--continue
--copyin
--copyout
--cwd DIR
--debug-config
--debug-config-expanded
--define MACRO=EXPR
--disable-plugin PLUGIN
--disablerepo REPO
--dnf
--dnf-cmd
--enable-network
--enable-plugin PLUGIN
--enablerepo REPO
--forcearch ARCH
--help
--hermetic-build LOCKFILE
--init
--install
--installdeps
--isolation nspawn
--list-chroots
--list-snapshots
--localrepo DIR
--macro-file FILE
--mount
--new-chroot
--no-bootstrap-chroot
--no-bootstrap-image
--no-clean
--no-cleanup-after
--nocheck
--offline
--old-chroot
--orphanskill
--plugin-option PLUGIN:KEY=VALUE
--pm-cmd
--postinstall
--print-root-path
--quiet
--rebuild
--recurse
--remove
--remove-snapshot
--resultdir DIR
--rollback-to
--root CONFIG
--rootdir DIR
--rpmbuild-opts OPTIONS
--rpmbuild_timeout 1
--scm-enable
--scm-option KEY=VALUE
--scrub all
--scrub-all-chroots
--separate-check best_effort
--shell
--short-circuit build
--snapshot
--sources PATH
--spec FILE
--symlink-dereference
--target ARCH
--tmp_prefix TEXT
--trace
--umount
--uniqueext TEXT
--unpriv
--update
--use-bootstrap-image
--verbose
--version
--with OPTION
--without OPTION
--yum
--yum-cmd
`
  .trim()
  .split('\n')
  .map((line) => line.split(' '));

test('every option of mock is honoured, ignored with a reason, or refused with a reason', (t) => {
  t.true(MOCK.length >= 87, String(MOCK.length));
  const help = helpText();
  for (const argv of MOCK) {
    const name = argv[0]?.slice(2) ?? '';
    const entry = OPTIONS.get(name);
    if (entry === undefined) {
      t.fail(`--${name} is not known`);
      continue;
    }
    const { refused, noEffect, help: text, onlyFor } = entry;
    const reasons = [refused, noEffect, text].filter((reason) => reason !== undefined);
    t.is(reasons.length, 1, `--${name}: one of refused, noEffect, help`);
    const mode = onlyFor === undefined ? [] : [`--${onlyFor[0]}`];
    if (refused === undefined) {
      t.notThrows(() => parseCommandLine([...argv, ...mode]), `--${name}`);
      if (text !== undefined) t.true(help.includes(`--${name}`), `--${name} in --help`);
      continue;
    }
    const error = t.throws(() => parseCommandLine(argv), { instanceOf: KilnError }, name);
    t.is(error?.code, 'E_MOCK_USAGE', name);
    t.true(error?.message.includes(`--${name}`), error?.message);
    t.is(error?.hint, refused, name);
  }
  // Nor does kiln know options that mock has not, but for names of package managers and the word for a recipe.
  const known = MOCK.map(([option]) => option?.slice(2));
  const others = [...OPTIONS.keys()].filter((name) => !known.includes(name));
  t.deepEqual(others, ['allow-host', 'dnf4', 'dnf5']);
});

test('each option but --allow-host says in its row what users may give', (t) => {
  const silent = [...OPTIONS].filter(
    ([, { users, mode, noEffect, refused }]) =>
      (users ?? mode ?? noEffect ?? refused) === undefined,
  );
  t.deepEqual(
    silent.map(([name]) => name),
    ['allow-host'],
  );
});

test('an option that the mode would ignore is refused', (t) => {
  const wrong: readonly (readonly [string[], RegExp])[] = [
    [['--localrepo', 'd', '--rebuild', 'x'], /--localrepo is for --chain, not for --rebuild/],
    [['--recurse', 'x.src.rpm'], /--recurse is for --chain, not for --rebuild/],
    [['-c', 'x.src.rpm'], /--continue is for --chain/],
    [['--init', '--additional-package', 'x'], /--additional-package is for .* not for --init/],
    [['--chain', '--spec', 'x.spec', 'a'], /--spec is for --buildsrpm, --rebuild, not for --chain/],
    [['--target', 'i386,x86_64', 'x'], /accepts only one arch. Invalid: i386,x86_64/],
    [['--rebuild', '--macro-file'], /needs a value/],
    [['--rebuild', 'x', '--resultdir', ''], /--resultdir: a path cannot be empty/],
  ];
  for (const [argv, message] of wrong) {
    const error = t.throws(() => parseCommandLine(argv), { instanceOf: KilnError }, argv.join(' '));
    t.is(error?.code, 'E_MOCK_USAGE');
    t.regex(error?.message ?? '', message);
  }
  t.notThrows(() => parseCommandLine(['--chain', '-c', '--recurse', '--localrepo', 'd', 'x']));
  t.notThrows(() => parseCommandLine(['--target', 'noarch', '--rebuild', 'x']));
});

/** An option as somebody writes it, and what it is. */
interface Written {
  readonly words: readonly string[];
  readonly name: string;
  readonly value: string | undefined;
}

const names = [...OPTIONS.keys()];

/** The long name, or an abbreviation that only it has. */
function spelling(name: string): fc.Arbitrary<string> {
  const isOnly = (prefix: string) => names.filter((it) => it.startsWith(prefix)).length === 1;
  const prefixes = Array.from(name, (_, index) => name.slice(0, index + 1)).filter(isOnly);
  return fc.constantFrom(name, ...prefixes).map((text) => `--${text}`);
}

const option = fc.constantFrom(...names).chain((name): fc.Arbitrary<Written> => {
  const { value: metavar, choices, short } = OPTIONS.get(name) ?? {};
  const long = spelling(name);
  const letter = short === undefined ? [] : [fc.constant(`-${short}`)];
  if (metavar === undefined) {
    return fc.oneof(long, ...letter).map((word) => ({ words: [word], name, value: undefined }));
  }
  const text = fc.oneof(
    fc.string({ maxLength: 9 }),
    fc.constantFrom('-', '-x', '--', '--init', '--nocheck', '-n', 'a=b', 'a b', 'é'),
  );
  const values = choices === undefined ? text : fc.constantFrom(...choices);
  return values
    .filter((it) => name !== 'target' || !it.includes(','))
    .chain((value) => {
      const apart = fc
        .oneof(long, ...letter)
        .map((word) => ({ words: [word, value], name, value }));
      const joined = long.map((word) => ({ words: [`${word}=${value}`], name, value }));
      const glued = letter.map((it) =>
        it.map((word) => ({ words: [`${word}${value}`], name, value })),
      );
      return fc.oneof(apart, joined, ...(value === '' ? [] : glued));
    });
});
const argument = fc
  .string({ minLength: 1, maxLength: 9 })
  .filter((text) => !text.startsWith('-'))
  .map((text) => ({ words: [`./${text}`], name: undefined, value: `./${text}` }));

test('every command line is read as it is meant, or refused by name', (t) => {
  let [read, refused] = [0, 0];
  const property = fc.property(
    fc.array(fc.oneof({ weight: 4, arbitrary: option }, argument), { maxLength: 4 }),
    fc.array(fc.constantFrom('-x', '--init', '--', 'x'), { maxLength: 2 }),
    (items, after) => {
      const argv = [...items.flatMap(({ words }) => words), ...(after[0] ? ['--', ...after] : [])];
      const options = items.filter((item): item is Written => item.name !== undefined);
      try {
        const line = parseCommandLine(argv);
        read += 1;
        t.deepEqual(
          line.given.map(({ name, value }) => [name, value]),
          options.map(({ name, value }) => [name, value]),
        );
        const args = items.filter(({ name }) => name === undefined).map(({ value }) => value);
        t.deepEqual(line.args, [...args, ...after]);
        t.false(options.some(({ name }) => OPTIONS.get(name)?.refused !== undefined));
      } catch (error) {
        refused += 1;
        if (!(error instanceof KilnError)) throw error;
        t.is(error.code, 'E_MOCK_USAGE');
        t.true(
          options.some(
            ({ name, words }) =>
              error.message.includes(`--${name}`) || error.message.includes(words[0] ?? ''),
          ),
          error.message,
        );
      }
    },
  );
  fc.assert(property, { numRuns: 3000 });
  t.true(read > 500 && refused > 500, `${read} read, ${refused} refused`);
});
