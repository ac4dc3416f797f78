/**
 * Has zod read values without making code for each schema first: that takes an eighth of a millisecond a schema, and
 * a process reads most of them once. Programs import it before all that makes schemas.
 */
import { config } from 'zod';

config({ jitless: true });
