"use strict";
const buttons = [...document.querySelectorAll(".filter button")];
const cards = [...document.querySelectorAll("article[data-tag]")];
const slice = document.getElementById("slice");
const status = document.getElementById("shown");
let tag = "all";

function show() {
  for (const button of buttons) {
    button.setAttribute("aria-pressed", String(button.dataset.tag === tag));
  }
  const wanted = slice ? slice.value : "";
  for (const card of cards) {
    const inSlice = !wanted || card.dataset.slices.split("\n").includes(wanted);
    card.hidden = !inSlice || (tag !== "all" && card.dataset.tag !== tag);
  }
  const shown = cards.filter((card) => !card.hidden).length;
  status.textContent = `${shown} of ${cards.length} queries shown`;
}

if (slice) {
  slice.addEventListener("change", show);
}
for (const [position, button] of buttons.entries()) {
  button.addEventListener("click", () => {
    tag = button.dataset.tag;
    show();
  });
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      buttons[(position + step + buttons.length) % buttons.length].focus();
      event.preventDefault();
    }
  });
}
