/** What a box may be called. */
export const HOSTNAME = /^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/;
