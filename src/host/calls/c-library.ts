/**
 * The C library's own functions; system calls go through system-call.ts. koffi is imported in a module of its
 * own because a thread that is ended while it loads koffi crashes the whole process: threads must not import
 * koffi.
 */
import koffi from 'koffi';

export const libc = koffi.load('libc.so.6');
