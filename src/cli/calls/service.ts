import type { Service } from '../../api/io-kiln.ts';
import { type ListedService, listServices } from '../../service/list.ts';
import { deleteService, isSupervised, stopService } from '../../service/stop.ts';
import { serviceFiles } from '../../service/store.ts';
import { startSupervisor } from '../service/life.ts';
import { serviceState } from '../service/list.ts';
import type { Answer } from './context.ts';

export const answerListServices: Answer<'ListServices'> = async ({ names }, context) => {
  await using engine = context.openEngine();
  return { services: (await listServices(engine.paths, names)).map(serviceOf) };
};

export const answerStartService: Answer<'StartService'> = async ({ name }, context) => {
  await using engine = context.openEngine();
  const { paths } = engine;
  if (!(await isSupervised(await serviceFiles(paths, name)))) {
    await startSupervisor(paths, name, context.caller);
  }
  const [service] = await listServices(paths, [name]);
  return { service: serviceOf(service as ListedService) };
};

export const answerStopService: Answer<'StopService'> = async ({ name }, context) => {
  await using engine = context.openEngine();
  return { stopped: await stopService(await serviceFiles(engine.paths, name)) };
};

export const answerDeleteService: Answer<'DeleteService'> = async ({ name }, context) => {
  await using engine = context.openEngine();
  await deleteService(engine.paths, name);
  return {};
};

function serviceOf(listed: ListedService): Service {
  const { name, service, problem, status } = listed;
  return {
    name,
    state: serviceState(listed),
    ...(service?.image === undefined ? {} : { image: service.image }),
    ...(problem === undefined ? {} : { problem: problem.message }),
    ...(status === undefined ? {} : { status: { ...status } }),
  };
}
