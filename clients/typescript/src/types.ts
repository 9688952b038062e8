/** The types of the interface, by short names; `schema.ts` is made from its OpenAPI document. */
import type { components } from "./schema.js";

type Schemas = components["schemas"];

export type Job = Schemas["Job"];
export type JobRequest = Schemas["JobRequest"];
export type JobFile = Schemas["JobFile"];
export type Grant = Schemas["Grant"];
export type Project = Schemas["Project"];
export type Queue = Schemas["Queue"];
export type Runtime = Schemas["Runtime"];
export type Sandbox = Schemas["Sandbox"];
export type ProblemDocument = Schemas["Problem"];
export type Accepted = Schemas["Accepted"];

/** What the data of each kind of event is. */
export interface EventData {
  status: Schemas["StatusEvent"];
  output: Schemas["OutputEvent"];
  truncated: Schemas["TruncatedEvent"];
  gap: Schemas["GapEvent"];
  artifact: Schemas["ArtifactEvent"];
  stats: Schemas["StatsEvent"];
  case: Schemas["CaseEndEvent"];
  complete: Schemas["CompleteEvent"];
  error: Schemas["ErrorEvent"];
}

export type Kind = keyof EventData;

/** An event of a job: `kind` tells the type of `data`, and `id` is the number to resume after. */
export type JobEvent = {
  [K in Kind]: { readonly id: number; readonly kind: K; readonly data: EventData[K] };
}[Kind];

const TERMINAL: ReadonlySet<string> = new Set<Kind>(["complete", "error"]);
const KINDS: ReadonlySet<string> = new Set<Kind>([
  ...(["status", "output", "truncated", "gap", "artifact", "stats", "case"] as const),
  ...(["complete", "error"] as const),
]);

export function isKind(kind: string): kind is Kind {
  return KINDS.has(kind);
}

/** Whether an event is the last one of its job. */
export function isLast(event: JobEvent): boolean {
  return TERMINAL.has(event.kind);
}
