"use strict";
// A click on an example photo searches it with its title, as if it had been chosen and typed.

for (const button of document.querySelectorAll("#examples button")) {
  button.addEventListener("click", async () => {
    const response = await fetch(button.querySelector("img").src);
    if (!response.ok) return say("this example cannot be loaded", true);
    choose(new File([await response.blob()], "example", { type: "image/jpeg" }));
    document.getElementById("title").value = button.dataset.title;
    await search();
  });
}
