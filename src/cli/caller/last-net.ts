/** Imported before everything else: what fails while other modules load is caught as well. */
import { endOnStrayErrors } from '../../stray-errors.ts';

endOnStrayErrors();
