// The area in which one types: CodeMirror, if the bundle was built and nobody prefers a plain one.

import { recall } from "./kept.js";
import { PlainArea } from "./plain.js";

const bundle = document.querySelector('meta[name="streamer-bundle"]').content.split(" ");

/** Whether there is a choice between the two. */
export const canHighlight = bundle.includes("editor");

export const isPlainWanted = () => recall("plain") === true;

/**
 * Return the plain area at once. `better` is called with the area that takes its place when that has
 * been loaded, if ever. `onChange` is called after each change of the text.
 */
export function openArea(textarea, host, { onChange, better }) {
  const plain = new PlainArea(textarea, { onChange });
  if (canHighlight && !isPlainWanted()) {
    load(textarea, host, onChange).then(better, () => {
      // The plain one stays: somebody removed the bundle, or the connection is gone.
    });
  }
  return plain;
}

async function load(textarea, host, onChange) {
  const { createEditor } = await import("../bundle/editor.js");
  const editor = createEditor(host, { label: textarea.getAttribute("aria-label"), onChange });
  return {
    editor,
    /** Take the place of the text area, with its focus and cursor. */
    replace(document) {
      const focused = textarea.ownerDocument.activeElement === textarea;
      const line = textarea.value.slice(0, textarea.selectionStart).split("\n").length;
      editor.show(document);
      host.hidden = false;
      textarea.hidden = true;
      if (focused) {
        editor.goToLine(line);
      }
    },
  };
}
