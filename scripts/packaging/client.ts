/** The package kiln-client: the library for programs, without native code, dependencies or scripts. */
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { rolldown } from 'rolldown';

const README = `# kiln-client

Runs commands and builds in kiln's sandboxes from a program in TypeScript or JavaScript. kiln itself has to be installed
on the machine: the library talks to its daemon at /run/kiln/io.kiln, and calls \`kiln\`, which PATH has to find.

    import { connect } from 'kiln-client';

    await using kiln = await connect();
    const { stdout } = await kiln.run({ image: 'debian-build', argv: ['gcc', '--version'] });

docs/api.md of kiln has the rest. The library and kilnd have to speak the same version of the interface.
`;

/** Paths of declarations, below dist/types, that one needs with all that it imports. */
async function declarations(types: string, first: string): Promise<ReadonlySet<string>> {
  const found = new Set<string>();
  const add = async (path: string): Promise<void> => {
    if (found.has(path)) return;
    found.add(path);
    const text = await readFile(join(types, path), 'utf8');
    for (const [, name = ''] of text.matchAll(/(?:from|import\()\s*'(\.[^']+)\.[jt]s'/g)) {
      await add(join(dirname(path), `${name}.d.ts`));
    }
  };
  await add(first);
  return found;
}

/** @param top the checkout, whose dist/types is there @param folder where the package comes to lie */
export async function writeClientPackage(top: string, folder: string): Promise<void> {
  const types = join(top, 'dist/types');
  await using made = await rolldown({
    input: join(top, 'src/api/library.ts'),
    platform: 'node',
    external: [/^node:/],
    cwd: top,
    logLevel: 'warn',
  });
  await made.write({ file: join(folder, 'index.js'), format: 'esm', codeSplitting: false });
  for (const path of await declarations(types, 'api/library.d.ts')) {
    await mkdir(join(folder, 'types', dirname(path)), { recursive: true });
    await copyFile(join(types, path), join(folder, 'types', path));
  }
  // Where the library looks for it: calls are checked by it.
  const interfaceFile = 'src/api/io.kiln.varlink';
  await mkdir(dirname(join(folder, interfaceFile)), { recursive: true });
  await copyFile(join(top, interfaceFile), join(folder, interfaceFile));
  await copyFile(join(top, 'LICENSE'), join(folder, 'LICENSE'));
  await writeFile(join(folder, 'README.md'), README);
  const { version, license, engines } = JSON.parse(
    await readFile(join(top, 'package.json'), 'utf8'),
  ) as Record<string, unknown>;
  const manifest = {
    name: 'kiln-client',
    ...{ version, license, engines },
    description: "Runs commands and builds in kiln's sandboxes",
    type: 'module',
    exports: { '.': { types: './types/api/library.d.ts', default: './index.js' } },
    files: ['index.js', 'types', relative('.', interfaceFile)],
  };
  await writeFile(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
}
