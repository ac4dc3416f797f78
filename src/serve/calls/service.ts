import type { Service } from '../../api/io-kiln.ts';
import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { pickImage } from '../../image/open.ts';
import { hostImage } from '../../options/places.ts';
import type { ServiceFile } from '../../service/definition/definition.ts';
import { createService } from '../../service/lifecycle/create.ts';
import {
  deleteService,
  runsAlready,
  startSupervisor,
  stopService,
  stopToRestart,
} from '../../service/lifecycle/start-stop.ts';
import { serviceFiles } from '../../service/lifecycle/store.ts';
import { type ListedService, listServices, serviceState } from '../../service/list-services.ts';
import type { Answer, CallContext } from './context.ts';

export const answerListServices: Answer<'ListServices'> = async ({ names }, context) => {
  await using engine = context.openEngine();
  return { services: (await listServices(engine.paths, names)).map(serviceOf) };
};

export const answerCreateService: Answer<'CreateService'> = async (parameters, context) => {
  const { name, copy = false, imageSize, definition } = parameters;
  const { onProgress, storeChanged } = context;
  const { signal } = context.call;
  await using engine = context.openEngine();
  const { image: wanted } = definition;
  if (typeof wanted !== 'string') {
    throw new KilnError('E_ARGUMENT', 'definition: it has no image', { hint: 'name one: image' });
  }
  const named = hostImage('definition.image', wanted);
  await using image = await pickImage(engine, named, { onProgress, signal, storeChanged });
  const begin = { copy, ...defined({ imageSize }) };
  // The definition is checked there, with all its mistakes.
  const file = definition as unknown as ServiceFile;
  const { units } = await createService(engine.paths, name, file, image, begin);
  for (const unit of units)
    for (const warning of unit.warnings) context.warn(`${unit.name}: ${warning}`);
  return { result: await lookAt(engine, name) };
};

export const answerStartService: Answer<'StartService'> = async ({ name }, context) => {
  await using engine = context.openEngine();
  return { service: await start(engine, name, context) };
};

export const answerRestartService: Answer<'RestartService'> = async ({ name }, context) => {
  await using engine = context.openEngine();
  await stopToRestart(engine.paths, name);
  return { service: await start(engine, name, context) };
};

async function start(engine: Engine, name: string, { caller }: CallContext): Promise<Service> {
  const { paths } = engine;
  if (!(await runsAlready(await serviceFiles(paths, name)))) {
    await startSupervisor(paths, name, caller.env);
  }
  return await lookAt(engine, name);
}

async function lookAt({ paths }: Engine, name: string): Promise<Service> {
  return serviceOf((await listServices(paths, [name]))[0] as ListedService);
}

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
    image: service?.image,
    problem: problem?.message,
    status: status && { ...status },
  };
}
