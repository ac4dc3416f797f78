/**
 * The C library, for functions of its own; system calls go through system-call.ts. A module by itself, since a
 * thread that is ended while it loads koffi takes the whole process with it: threads import nothing of koffi.
 */
import koffi from 'koffi';

export const libc = koffi.load('libc.so.6');
