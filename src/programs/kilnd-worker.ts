/** A worker of kilnd's, which starts it and hands it jobs. A program by itself: it loads half as much. */
import { runWorker } from '../serve/worker.ts';

runWorker();
