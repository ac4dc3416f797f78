import type { RpmFile, RpmFileTrigger, RpmPackage } from '../../packages/rpm/package.ts';

/**
 * Finds which files fire a file trigger, and their order on its standard input. All of it is rpm's own
 * behaviour (lib/rpmtriggers.c of 4.20), however odd.
 */

/** The package's installed files below any prefix, prefix by prefix. */
export function filesInPackage(
  of: RpmPackage,
  prefixes: readonly string[],
  skipped: ReadonlySet<RpmFile>,
): string[] {
  return prefixes.flatMap((prefix) =>
    of.files
      .filter((file) => file.path.startsWith(prefix) && !skipped.has(file))
      .map((file) => file.path),
  );
}

/** Files below any prefix in a set of packages, in the way in which the database finds them. */
export function filesInDatabase(
  installed: readonly RpmPackage[],
  prefixes: readonly string[],
): { readonly files: string[]; readonly lastPackage: string | undefined } {
  const files: string[] = [];
  let lastPackage: string | undefined;
  for (const prefix of prefixes) {
    for (const candidate of installed) {
      // The database is searched by directory names, so a prefix that ends within a file's name finds nothing
      // by itself.
      if (!candidate.files.some((file) => dirName(file).startsWith(prefix))) continue;
      const matching = candidate.files.filter((file) => file.path.startsWith(prefix));
      if (matching.length === 0) continue;
      lastPackage = candidate.name;
      files.push(...matching.map((file) => file.path));
    }
  }
  return { files, lastPackage };
}

/** Whether a file of the package, installed or not, is below one of the trigger's prefixes. */
export function packageFires(of: RpmPackage, trigger: RpmFileTrigger): boolean {
  return trigger.prefixes.some((prefix) => of.files.some((file) => file.path.startsWith(prefix)));
}

/** The directory as in the DIRNAMES tag: with a slash at its end. */
function dirName(file: RpmFile): string {
  return file.path.slice(0, file.path.lastIndexOf('/') + 1);
}
