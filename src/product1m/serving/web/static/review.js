"use strict";
// The reviewer's page: asks for a reason, sends the act, and shows how it ended.

const dialog = document.getElementById("act");
const status_ = document.getElementById("status");
const overrides = document.getElementById("overrides");
const reason = document.getElementById("reason");
let opened = null;

function say(text, isBad = false) {
  status_.textContent = text;
  status_.className = isBad ? "bad" : "";
}

function ask(button) {
  opened = button.dataset;
  const title = opened.act === "promote" ? "Promote" : "Reject";
  document.getElementById("act-title").textContent = `${title} version ${opened.version}`;
  dialog.querySelector("[value=go]").textContent = title;
  const standing = (opened.objections || "").split(" ");
  for (const box of overrides.querySelectorAll("input")) {
    box.checked = false;
    box.closest("p").hidden = !standing.includes(box.value);
  }
  overrides.hidden = !opened.objections;
  reason.value = "";
  dialog.showModal();
  reason.focus();
}

async function send() {
  const chosen = [...overrides.querySelectorAll("input:checked")].map((box) => box.value);
  const act = { act: opened.act, version: opened.version, reason: reason.value, overrides: chosen };
  const response = await fetch("/review/acts", {
    method: "POST",
    headers: { "content-type": "application/json", "x-form-token": document.body.dataset.formToken },
    body: JSON.stringify(act),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || `status ${response.status}`);
  return answer;
}

async function follow() {
  for (;;) {
    const answer = await (await fetch("/review/acts")).json();
    say(answer.message, answer.state === "failed");
    if (answer.state !== "running") return answer.state;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function act() {
  const isShown = opened.act === "show";
  const buttons = document.querySelectorAll("[data-act]");
  for (const button of buttons) button.disabled = true;
  try {
    await send();
    status_.scrollIntoView();
    if ((await follow()) === "done") location.assign(isShown ? "/" : location.pathname);
  } catch (error) {
    say(error.message, true);
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

for (const button of document.querySelectorAll("[data-act]")) {
  button.addEventListener("click", () => {
    if (button.dataset.act !== "show") return ask(button);
    opened = button.dataset;
    reason.value = "";
    act();
  });
}
dialog.addEventListener("close", () => { if (dialog.returnValue === "go") act(); dialog.returnValue = ""; });
follow(); // how the last act ended, also after this page was loaded again
