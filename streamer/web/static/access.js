// The form that asks for a token, where the service needs one.

import * as api from "./api.js";

const form = document.querySelector("#access");
const token = document.querySelector("#token");

/** Ask for a token; without it nothing else on the page works. */
export function askForToken() {
  document.querySelector("main").classList.add("asking");
  document.querySelector("#refused").hidden = !api.hasToken();
  form.hidden = false;
  token.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  api.useToken(token.value, { remember: document.querySelector("#remember").checked });
  location.reload();
});

const forget = document.querySelector("#forget-token");
forget.hidden = !api.hasToken();
forget.addEventListener("click", () => {
  api.useToken("", { remember: false });
  location.reload();
});
