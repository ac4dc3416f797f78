/**
 * A Node.js project: dependencies installed, tests run, `npm pack`ed, without a network.
 *
 * Everything is fetched before, and its digest checked. Registries have no URL that a recipe could
 * name for everybody, so the tarballs come from a folder:
 *
 *     npm pack npm@11.6.2 ms@2.1.3 --pack-destination tarballs
 *     kiln build node-package --sources tarballs --resultdir out
 */
import { defineRecipe } from 'kiln';
import { $, cd } from 'zx';

const files = ['package.json', 'nap.js', 'nap.test.js'];
const npm = 'npm-11.6.2.tgz';
const dependency = 'ms-2.1.3.tgz';

export default defineRecipe({
  description: 'A Node.js package and its tests',
  image: 'debian-node',
  sandbox: { timeout: '10m', workdir: '/tmp', env: { HOME: '/tmp' } },
  sources: [
    { name: npm, sha256: '585f95094ee5cb2788ee11d90f2a518a7c9ef6e083fa141d0b63ca3383675a20' },
    {
      name: dependency,
      sha256: 'f6616e15e530ed552f9daa2d3ce71963947c6bc7c98c9b64fd3e673fd02622c6',
    },
    ...files.map((name) => ({ file: `node-package/${name}` })),
  ],
  steps: [
    {
      name: 'unpack',
      run: `
        mkdir npm nap
        tar -xzf /sources/${npm} -C npm --strip-components=1
        cp ${files.map((name) => `/sources/${name}`).join(' ')} nap
      `,
    },
    {
      name: 'build',
      run: async () => {
        cd('nap');
        const npmCli = ['node', '/tmp/npm/bin/npm-cli.js', '--offline', '--no-audit', '--no-fund'];
        await $`${npmCli} install --no-save /sources/${dependency}`;
        await $`${npmCli} test`;
        const packed = JSON.parse((await $`${npmCli} pack --json`.quiet()).stdout);
        console.log(`packed ${packed[0].filename}, ${packed[0].entryCount} files`);
      },
    },
  ],
  artifacts: ['nap/*.tgz'],
});
