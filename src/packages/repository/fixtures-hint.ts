/** The folder that fixtures/debian-rpms makes, below KILN_FIXTURES or KILN_STATE/fixtures. */
const FIXTURES = /\/debian-rpms\/(?:(extras)(?:\/|$)|(?:build|RPM-GPG-KEY-kiln-fixtures)(?:\/|$))/;

/** The command that makes the fixture repository of `path`; undefined for any other path. */
export function fixturesHint(path: string): string | undefined {
  const found = FIXTURES.exec(path);
  if (found === null) return undefined;
  return `\`scripts/fixtures --set ${found[1] ?? 'build'}\` makes the RPMs of kiln’s fixtures`;
}
