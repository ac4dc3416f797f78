/** A worker of kilnd's, which starts it and hands it jobs. A program by itself: it loads half as much. */
import '../plain-schemas.ts'; // First: zod looks when a schema is made.
import { runWorker } from '../serve/worker.ts';

runWorker();
