/** The format of locks: raised when the meaning of a field changes; readers refuse unknown formats. */
export const LOCK_FORMAT = 1;
