/** Version of result.json: goes up when a field changes its meaning or disappears. */
export const RESULT_VERSION = 1;
