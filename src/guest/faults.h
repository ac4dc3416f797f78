// SPDX-License-Identifier: Apache-2.0
// For the test of the measurements only (test/sandbox/layers.test.ts): an init compiled with
// KILN_FAULTS leaves out the layers that /faults in its skeleton names, and must then be found out.
// The shipped init has none of it.
#ifndef KILN_FAULTS_H
#define KILN_FAULTS_H

#ifdef KILN_FAULTS
int fault(const char *layer);
#else
#define fault(layer) 0
#endif

#endif
