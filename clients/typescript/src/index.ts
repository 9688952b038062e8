/** Run programs on a streamer service and follow their output. */
export { StreamerClient, type Running, type Submitting } from "./client.js";
export type { Options } from "./connection.js";
export type { Part } from "./files.js";
export { ServiceProblem } from "./problem.js";
export type { Following } from "./stream.js";
export * from "./types.js";
export type { components, paths } from "./schema.js";
