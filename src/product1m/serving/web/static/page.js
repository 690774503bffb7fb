"use strict";
// Searches a photo and shows boxes and answers; asks this page's own server alone.

const form = document.getElementById("search");
const status_ = document.getElementById("status");
const drop = document.getElementById("drop");
const SVG = "http://www.w3.org/2000/svg";
let photo = null;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function say(text, isBad = false) {
  status_.textContent = text;
  status_.className = isBad ? "bad" : "";
}

function choose(file) {
  const limit = Number(form.dataset.maxPhotoBytes);
  if (!file.type.startsWith("image/")) return say(`${file.name}: not a photo`, true);
  if (file.size > limit) return say(`${file.name}: larger than ${Math.floor(limit / 1048576)} MiB`, true);
  photo = file;
  say(`${file.name || "photo"} is chosen`);
}

async function ask(role) {
  const body = new FormData();
  body.append("photo", photo, "photo");
  body.append("title", document.getElementById("title").value);
  body.append("top_k", document.getElementById("top-k").value);
  body.append("model", role);
  let response, answer;
  try {
    response = await fetch("/search", { method: "POST", body });
    answer = await response.json();
  } catch {
    throw new Error("the server does not answer; try again");
  }
  if (!response.ok) throw new Error(answer.error || `status ${response.status}`);
  return answer;
}

// `size` is the height of a number in pixels of the photo, the same for all boxes.
function boxLink(role, box, size) {
  const [x1, y1, x2, y2] = box.box_xyxy;
  const color = `c${(box.number - 1) % 8}`;
  return shape(
    "a",
    { href: `#${role}-box-${box.number}`, "aria-label": `Box ${box.number}`, "data-box": box.number },
    shape("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: color }),
    shape("text", { x: x1 + size / 4, y: y1 + size, "font-size": size, "stroke-width": size / 8 }, String(box.number)),
  );
}

function picture(answer, address, role) {
  const overlay = shape("svg", { viewBox: `0 0 ${answer.width} ${answer.height}`, preserveAspectRatio: "none" });
  const size = Math.max(answer.width, answer.height) / 20;
  overlay.append(...answer.boxes.map((box) => boxLink(role, box, size)));
  const image = element("img", { src: address, alt: `The photo with ${answer.boxes.length} boxes` });
  return element("figure", {}, image, overlay);
}

function score(card) {
  if (card.match_score === null) return [];
  const shown = card.match_score.toFixed(2);
  const bar = element("meter", { value: card.match_score, "aria-hidden": "true" });
  return [element("span", {}, `match score ${shown}`), bar];
}

// The box beside the gallery photo, with a line for each pair of points that they share.
function sharedPoints(box, card, photo) {
  const [x1, y1, x2, y2] = box.box_xyxy;
  const scale = 100 / (y2 - y1);
  const left = scale * (x2 - x1);
  const right = (100 * card.picture_size_px[0]) / card.picture_size_px[1];
  const lines = card.shared_points_xy.map(([x, y, across, down], place) => shape("path", {
    d: `M${scale * (x - x1)} ${scale * (y - y1)}L${left + 4 + right * across} ${100 * down}`,
    stroke: `hsl(${(47 * place) % 360} 95% 50%)`, "stroke-width": 0.7,
  }));
  const whole = shape("image", { href: photo.address, width: photo.width, height: photo.height, preserveAspectRatio: "none" });
  return shape(
    "svg",
    {
      class: "shared", viewBox: `0 0 ${left + 4 + right} 100`, role: "img",
      "aria-label": `The box beside ${card.label || card.id}: ${card.shared_points} shared points`,
    },
    shape("svg", { width: left, height: 100, viewBox: `${x1} ${y1} ${x2 - x1} ${y2 - y1}` }, whole),
    shape("image", { href: card.picture, x: left + 4, width: right, height: 100, preserveAspectRatio: "none" }),
    ...lines,
  );
}

function why(box, photo) {
  const explained = box.answers.filter((card) => card.shared_points && card.picture);
  if (!explained.length) return [];
  const [first, ...others] = explained.map((card) => sharedPoints(box, card, photo));
  const shown = element("div", {}, element("p", { class: "faint" }, "Points that box and gallery photo share:"), first);
  if (others.length) shown.append(element("details", {}, element("summary", {}, "With the other answers"), ...others));
  return [shown];
}

function reasons(card) {
  if (!card.shared_points) return [];
  return [element("span", { class: "faint" }, element("br"), `${card.shared_points} shared points`)];
}

function cardOf(card) {
  const shown = card.picture
    ? element("img", { src: card.picture, alt: "", loading: "lazy" })
    : element("span", { class: "none" }, "no photo");
  const title = element("span", { class: "faint" }, card.title);
  return element(
    "li", {}, shown, ...score(card), element("strong", {}, card.label || card.id),
    element("br"), element("span", {}, card.id), element("br"), title, ...reasons(card),
  );
}

function boxSection(box, role, photo) {
  const heading = element(
    "h3", {}, element("span", { class: `number c${(box.number - 1) % 8}` }, `Box ${box.number}`),
    ` detector score ${box.detector_score.toFixed(2)}`,
  );
  const section = element("article", { id: `${role}-box-${box.number}`, "data-box": box.number, tabindex: "-1" }, heading);
  const cards = element("ol", { class: "cards" }, ...box.answers.map(cardOf));
  if (box.in_catalogue === false) {
    section.append(element("p", { class: "bad" }, "Probably not in the catalogue"));
    section.append(element("details", {}, element("summary", {}, "Most similar items"), cards));
  } else section.append(cards);
  section.append(...why(box, photo));
  return section;
}

function mark(result, number, isOn) {
  for (const part of result.querySelectorAll(`[data-box="${number}"]`)) part.classList.toggle("on", isOn);
}

function link(result) {
  for (const part of result.querySelectorAll("[data-box]")) {
    for (const [event, isOn] of [["mouseenter", true], ["mouseleave", false], ["focusin", true], ["focusout", false]]) {
      part.addEventListener(event, () => mark(result, part.dataset.box, isOn));
    }
  }
}

function show(section, answer, address) {
  const role = section.dataset.role;
  const result = section.querySelector(".result");
  const searched = { address, width: answer.width, height: answer.height };
  const lists = element("div", {}, ...answer.boxes.map((box) => boxSection(box, role, searched)));
  if (!answer.boxes.length) lists.append(element("p", {}, "No product was found in this photo."));
  result.replaceChildren(picture(answer, address, role), lists);
  result.classList.toggle("wide", document.querySelectorAll(".model").length === 1);
  section.hidden = false;
  link(result);
}

let shown = null;

async function search() {
  if (!photo) return say("Choose a photo first", true);
  const button = form.querySelector("button");
  button.disabled = true;
  say("Searching …");
  try {
    const sections = [...document.querySelectorAll(".model")];
    const answers = await Promise.all(sections.map((section) => ask(section.dataset.role)));
    if (shown) URL.revokeObjectURL(shown);
    shown = URL.createObjectURL(photo);
    sections.forEach((section, place) => show(section, answers[place], shown));
    const counts = answers.map(({ boxes }) => `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"} answered`);
    say(sections.length === 1 ? counts[0] : sections.map((section, place) => `${section.dataset.role}: ${counts[place]}`).join(", "));
    document.getElementById("answers").focus();
  } catch (error) {
    say(error.message, true);
  } finally {
    button.disabled = false;
  }
}

form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
for (const id of ["photo", "camera"]) {
  const input = document.getElementById(id);
  input.addEventListener("change", () => { if (input.files.length) choose(input.files[0]); });
}
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) { choose(event.dataTransfer.files[0]); search(); }
});
// A photo that is dropped beside its field must not replace the page.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
