// Writes docs/result.schema.json anew: the schema of result.json for those who do not read zod.
// `npm run fix` then formats it.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { resultJsonSchema } from '../../src/result/schema.ts';

const path = join(import.meta.dirname, '../../docs/result.schema.json');
writeFileSync(path, `${JSON.stringify(resultJsonSchema(), undefined, 2)}\n`);
