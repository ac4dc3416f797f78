/**
 * GNU hello again, as a program: zx's `$` runs in the sandbox, without a network.
 *
 *     kiln build recipes/builds/hello.ts --sources FOLDER --param check=no
 */
import { defineRecipe, parameters } from 'kiln';
import { $, cd, retry, spinner, within } from 'zx';

const version = '2.10';

export default defineRecipe({
  description: `GNU hello ${version}`,
  image: 'debian-build',
  sandbox: { timeout: '15m', memory: '2G' },
  sources: [
    {
      url: `https://ftp.gnu.org/gnu/hello/hello-${version}.tar.gz`,
      sha256: '31e066137a962676e89f69d1b65382de95a7ef7d914b8cb956f41ea72e0f516b',
    },
  ],
  steps: [
    { name: 'unpack', run: `tar -xzf /sources/hello-${version}.tar.gz` },
    {
      name: 'build',
      run: async () => {
        cd(`hello-${version}`);
        const processors = Number(await $`nproc`.quiet());
        await spinner('configure', () => $`./configure --prefix=/usr --quiet`);
        await $`make -j${processors}`;
        if (parameters.check !== 'no') await retry(2, () => $`make check`);
      },
    },
    async function install() {
      await within(async () => {
        cd(`hello-${version}`);
        await $`make install-strip DESTDIR=$PWD/../root`;
      });
      const said = await $`root/usr/bin/hello --greeting=${'made by a recipe'}`;
      console.log(`the program says: ${said}`);
    },
  ],
  artifacts: ['root/usr/bin/hello', 'root/usr/share/man'],
});
