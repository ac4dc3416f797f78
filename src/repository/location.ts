import { KilnError } from '../errors.ts';

/**
 * Whether `location` is a path below the repository: relative, without `..`, without bytes that
 * would make another URL of it.
 */
export function isSafeLocation(location: string): boolean {
  return (
    location !== '' &&
    !location.startsWith('/') &&
    !/[\u0000-\u0020\u007f\\?#]/.test(location) &&
    !/^[A-Za-z][A-Za-z0-9+.-]*:/.test(location) &&
    !location.split('/').some((part) => part === '..' || /^(%2e|\.)(%2e|\.)$/i.test(part))
  );
}

/** The URL of a file at `location` below the folder `base`. */
export function locationUrl(base: string, location: string): string {
  const url = new URL(base);
  // Not resolved as a relative URL: the folder's URL may lack the last slash.
  url.pathname = `${url.pathname.replace(/\/$/, '')}/${location}`;
  return url.href;
}

/** @throws KilnError E_REPOSITORY_METADATA if `location` could leave the repository. */
export function checkLocation(location: string, repository: string): void {
  if (isSafeLocation(location)) return;
  throw new KilnError(
    'E_REPOSITORY_METADATA',
    `repository ${repository} puts a file at '${location}', which is outside it`,
    { hint: 'do not use this repository: it is hostile or broken' },
  );
}
