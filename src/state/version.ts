/** The version of kiln; package.json has the same (a test compares them). */
export const KILN_VERSION = '0.1.0';
