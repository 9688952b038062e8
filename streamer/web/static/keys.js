// The keys that work anywhere on the page, and the list of all of them.

const dialog = document.querySelector("#keys");

document.querySelector("#show-keys").addEventListener("click", () => dialog.showModal());
document.querySelector("#close-keys").addEventListener("click", () => dialog.close());

/** Whether something is selected that Ctrl+C would copy. */
function isSelected() {
  const { activeElement } = document;
  const { selectionStart, selectionEnd } = activeElement ?? {};
  const inField = typeof selectionStart === "number" && selectionStart !== selectionEnd;
  return inField || !document.getSelection().isCollapsed;
}

/**
 * Call run() for Ctrl+Enter and interrupt() for Ctrl+C, this one only if canInterrupt() and nothing is
 * selected, on the page or by hasSelection() in the editor.
 */
export function listen({ run, interrupt, canInterrupt, hasSelection }) {
  // Before anybody else: CodeMirror would copy the line that the cursor is in.
  document.addEventListener(
    "keydown",
    (event) => {
      const { key, ctrlKey, metaKey, altKey, shiftKey, repeat } = event;
      if (dialog.open || altKey || repeat) {
        return;
      }
      if (key === "Enter" && (ctrlKey || metaKey)) {
        event.preventDefault();
        run();
      } else if (key === "c" && ctrlKey && !metaKey && !shiftKey && canInterrupt()) {
        // A terminal gets the key itself and makes the signal of it.
        const inTerminal = event.target.closest?.(".xterm") !== null;
        if (!inTerminal && !isSelected() && !hasSelection()) {
          event.preventDefault();
          event.stopPropagation();
          interrupt();
        }
      }
    },
    { capture: true },
  );
}
