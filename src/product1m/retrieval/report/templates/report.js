"use strict";
const buttons = [...document.querySelectorAll(".filter button")];
const cards = [...document.querySelectorAll("article[data-tag]")];
const status = document.getElementById("shown");

function show(tag) {
  for (const button of buttons) {
    button.setAttribute("aria-pressed", String(button.dataset.tag === tag));
  }
  for (const card of cards) {
    card.hidden = tag !== "all" && card.dataset.tag !== tag;
  }
  const shown = cards.filter((card) => !card.hidden).length;
  status.textContent = `${shown} of ${cards.length} queries shown`;
}

for (const [position, button] of buttons.entries()) {
  button.addEventListener("click", () => show(button.dataset.tag));
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      buttons[(position + step + buttons.length) % buttons.length].focus();
      event.preventDefault();
    }
  });
}
