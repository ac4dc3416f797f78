/** Imported first, so that failures while other modules load are caught as well. */
import { endOnStrayErrors } from '../../stray-errors.ts';

endOnStrayErrors();
