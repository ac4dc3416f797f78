import assert from 'node:assert/strict';
import test from 'node:test';
import { nap } from './nap.js';

test('a nap has a length', () => assert.equal(nap('20 minutes'), 1_200_000));
