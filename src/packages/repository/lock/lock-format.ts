/** Of locks: raised when the meaning of a field changes; readers refuse what they do not know. */
export const LOCK_FORMAT = 1;
