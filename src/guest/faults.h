// SPDX-License-Identifier: Apache-2.0
// Only for test/sandbox/layers.test.ts: an init with KILN_FAULTS leaves out layers. The shipped one cannot.
#ifndef KILN_FAULTS_H
#define KILN_FAULTS_H

#ifdef KILN_FAULTS
int fault(const char *layer);
#else
#define fault(layer) 0
#endif

#endif
