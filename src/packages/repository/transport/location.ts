import { KilnError } from '../../../errors.ts';

export function isAbsoluteUrl(location: string): boolean {
  return /^(?:https?|file):\/\//.test(location);
}

/**
 * Why `location` is invalid; undefined for an absolute URL, and for a path below the repository: relative, without
 * `..` and characters that change the URL. {@link resolveLocation} decides whether a file: URL is allowed.
 */
export function locationFault(location: string): string | undefined {
  if (location === '') return 'it is empty';
  if (/[\u0000-\u001f\u007f\\]/.test(location)) return 'it has a byte that no URL has';
  if (isAbsoluteUrl(location)) return URL.canParse(location) ? undefined : 'it is not a URL';
  if (/^[A-Za-z][A-Za-z0-9+.-]*:/.test(location)) return 'kiln knows http:, https: and file: only';
  if (/[?#]/.test(location)) return 'it has a ? or a #, which would make another URL of it';
  const leaves = location
    .split('/')
    .some((part) => part === '..' || /^(%2e|\.)(%2e|\.)$/i.test(part));
  return location.startsWith('/') || leaves ? 'that is outside the repository' : undefined;
}

export function locationUrl(base: string, location: string): string {
  const url = new URL(base);
  // Not resolved as a relative URL, because the folder's URL may lack the last slash.
  url.pathname = `${url.pathname.replace(/\/$/, '')}/${location}`;
  return url.href;
}

/**
 * The place of a repository's file: relative to the repository's folder, or an absolute URL.
 * @param local whether the repository may name files of this host, as a folder of it may that is trusted
 * @param what begins messages: the file and its repository
 * @throws KilnError E_REPOSITORY_METADATA if `location` leaves the repository, or is none.
 */
export function resolveLocation(
  { location, base }: { readonly location: string; readonly base: string },
  local: boolean,
  what: string,
): string {
  const fail = (place: string, why: string): never => {
    throw new KilnError('E_REPOSITORY_METADATA', `${what} is at '${place}': ${why}`, {
      hint: 'the metadata of the repository is broken or hostile: tell whoever publishes it',
    });
  };
  const fault = locationFault(location);
  if (fault !== undefined) fail(location, fault);
  let place = location;
  if (base !== '' && !isAbsoluteUrl(location)) {
    const baseFault = locationFault(base);
    if (baseFault !== undefined) fail(base, baseFault);
    place = isAbsoluteUrl(base)
      ? locationUrl(base, location)
      : `${base.replace(/\/+$/, '')}/${location}`;
  }
  if (place.startsWith('file:') && !local) {
    fail(place, 'its repository cannot name files of this host');
  }
  return place;
}

/** A URL for messages and files, which are read by many. */
export function withoutCredentials(url: string): string {
  const parsed = new URL(url);
  parsed.username = '';
  parsed.password = '';
  return parsed.href;
}
