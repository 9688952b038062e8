// Makes the link to a run that is given to others, and says until when it works.

import * as api from "../api.js";
import { toClipboard } from "./saving.js";

const timeIn = (text) => {
  const time = new Date(text);
  const today = time.toDateString() === new Date().toDateString();
  const clock = { hour: "2-digit", minute: "2-digit" };
  return time.toLocaleString([], today ? clock : { month: "short", day: "numeric", ...clock });
};

/** The earlier of two times in ISO 8601, of which each may be missing. */
export const earlier = (a, b) => ((a ?? b) < (b ?? a) ? (a ?? b) : (b ?? a)) ?? null;

/**
 * Where callers are told apart by tokens, a link alone opens nothing: it carries a grant, with which
 * anybody may read this one run. Return the fragment of the link, and when it ends, or null.
 */
async function linkTo(jobId) {
  const kept = await api.readJob(jobId);
  const over = kept.expiresAt ?? null; // null while it runs
  const inLink = new URLSearchParams(location.hash.slice(1)).get("grant");
  if (api.hasToken() && inLink === null) {
    try {
      const { grant, expiresAt } = await api.grantJob(jobId);
      return { fragment: `job=${jobId}&grant=${encodeURIComponent(grant)}`, ends: earlier(over, expiresAt) };
    } catch (problem) {
      if (problem.status !== 403) {
        throw problem; // 403: whoever made the token, or the configuration, allows no grants
      }
    }
  }
  const grant = inLink === null ? "" : `&grant=${encodeURIComponent(inLink)}`;
  return { fragment: `job=${jobId}${grant}`, ends: over };
}

/** Copy the link to a run, or show it for copying by hand; `ui` has fallback, link and shared. */
export async function share(jobId, ui) {
  const { fragment, ends } = await linkTo(jobId);
  const link = `${location.origin}${location.pathname}${location.search}#${fragment}`;
  const until = ends === null ? "" : ` It works until ${timeIn(ends)}.`;
  if (await toClipboard(link)) {
    ui.shared.textContent = `Link copied.${until}`;
  } else {
    ui.shared.textContent = until.trim();
    ui.fallback.hidden = false;
    ui.link.value = link;
    ui.link.select();
  }
}
