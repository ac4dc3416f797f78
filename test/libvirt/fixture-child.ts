// A kiln of its own, for tests that need several processes or one that dies.
//   connect            connects to the engine, prints the daemon's pid, closes
//   autodestroy XML    starts a domain that ends with this process, prints its name, waits
import { connect } from '../../src/host/libvirt/connection.ts';
import { embeddedDaemonStatus } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';

const [task, xml] = process.argv.slice(2);
const paths = statePaths(process.env);
const connection = await connect({ paths, env: process.env });
if (task === 'autodestroy') {
  const domain = await connection.createDomain(xml ?? '', { autodestroy: true });
  console.log(domain.name);
  setInterval(() => undefined, 1000);
} else {
  await connection.domainNames();
  console.log((await embeddedDaemonStatus(paths)).pid);
  await connection.close();
}
