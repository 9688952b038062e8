// Buttons that cannot be used now keep the keyboard's focus: `disabled` would lose it.

export const setEnabled = (button, enabled) =>
  button.setAttribute("aria-disabled", String(!enabled));

export const isEnabled = (button) => button.getAttribute("aria-disabled") !== "true";

/** Call `act` on a click, unless the button cannot be used now. */
export function onUse(button, act) {
  button.addEventListener("click", () => {
    if (isEnabled(button)) {
      act();
    }
  });
}

/** Say something in place of a button's words for a moment. */
export function saySoon(button, text, ms = 2500) {
  button.dataset.words ??= button.textContent;
  button.textContent = text;
  setTimeout(() => (button.textContent = button.dataset.words), ms);
}
