// A kiln of its own, for tests that need several processes or one that dies.
//   create XML         starts a domain, prints its name, waits
//   connect            connects to the engine, prints the daemon's pid, closes
import { connect } from '../../src/host/libvirt/connection.ts';
import { embeddedDaemonStatus } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';

const [task, xml] = process.argv.slice(2);
const paths = statePaths(process.env);
const connection = await connect({ paths, env: process.env });
if (task === 'create') {
  const domain = await connection.createDomain(xml ?? '');
  console.log(domain.name);
  setInterval(() => undefined, 1000);
} else {
  await connection.domainNames();
  console.log((await embeddedDaemonStatus(paths)).pid);
  await connection.close();
}
