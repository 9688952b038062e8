// Light, dark, or as the system is. A classic script in the head: the page is never drawn first in the
// wrong one.
{
  const key = "streamer.theme";
  const root = document.documentElement;

  const recall = () => {
    try {
      return localStorage.getItem(key) ?? "";
    } catch {
      return "";
    }
  };

  const keep = (theme) => {
    try {
      localStorage.setItem(key, theme);
    } catch {
      // Then only this visit knows.
    }
  };

  const use = (theme) => {
    root.dataset.theme = ["light", "dark"].includes(theme) ? theme : "";
  };

  use(recall());
  document.addEventListener("DOMContentLoaded", () => {
    const choice = document.querySelector("#theme");
    choice.value = root.dataset.theme;
    choice.addEventListener("change", () => {
      use(choice.value);
      keep(choice.value);
    });
  });
}
