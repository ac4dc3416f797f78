/** The folder that fixtures/debian-rpms makes, below KILN_FIXTURES or KILN_STATE/fixtures. */
const FIXTURES = /\/debian-rpms\/(?:(extras)(?:\/|$)|(?:build|RPM-GPG-KEY-kiln-fixtures)(?:\/|$))/;

/** What makes the fixture repository that `path` is of; undefined if it is of none. */
export function fixturesHint(path: string): string | undefined {
  const found = FIXTURES.exec(path);
  if (found === null) return undefined;
  return `\`scripts/fixtures --set ${found[1] ?? 'build'}\` makes the RPMs of kiln’s fixtures`;
}
