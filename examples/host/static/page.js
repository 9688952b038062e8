// The host's own page: it logs in by the host's form, submits to the host's handler, and reads the
// stream of the mounted service, which knows the host's session cookie.

const part = (id) => document.getElementById(id);

async function showUser() {
  const answer = await fetch("/who");
  part("login").hidden = answer.ok;
  part("run").hidden = !answer.ok;
  if (!answer.ok) return;
  const user = await answer.json();
  part("name").textContent = user.name + (user.staff ? " (staff)" : "");
  part("runs").replaceChildren(
    ...user.runs.map((run) => {
      const item = document.createElement("li");
      item.textContent = `${run.job}: ${run.verdict || "running"}`;
      return item;
    }),
  );
}

function follow(address) {
  const source = new EventSource(address);
  source.addEventListener("output", (event) => {
    part("output").append(JSON.parse(event.data).data);
  });
  const over = (event) => {
    if (!event.data) return; // the browser's own trouble: it connects again by itself
    source.close();
    const end = JSON.parse(event.data);
    part("verdict").textContent = end.reason ?? end.message;
    showUser();
  };
  source.addEventListener("complete", over);
  source.addEventListener("error", over);
}

part("go").addEventListener("click", async () => {
  part("output").textContent = "";
  part("verdict").textContent = "running";
  const answer = await fetch("/run", { method: "POST", body: part("program").value });
  if (answer.ok) follow((await answer.json()).watch);
  else part("verdict").textContent = await answer.text();
});

showUser();
