// What is seen: pictures in, names and bars out.

import { Classifier } from "./classifier.js";

const TOP = 5;
const element = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}%`;
let classifier, model, best;

function start() {
  classifier = new Classifier(showProgress);
  classifier.ready.then(showModel).catch((error) => {
    element("progress").hidden = true;
    say(error.message, true);
  });
  takePictures();
}

function showProgress(loaded) {
  element("status").textContent = `Loading the network… ${(loaded / 1e6).toFixed(1)} MB`;
}

function showModel(description) {
  model = description;
  element("progress").hidden = true;
  element("choose").disabled = element("camera").disabled = false;
  element("count").textContent = model.names.length;
  const card = { Name: model.name, ...model.card, [`${model.names.length} classes`]: model.names.join(", ") };
  for (const [title, text] of Object.entries(card)) {
    element("card").append(make("dt", title), make("dd", text));
  }
  for (const file of model.pictures) element("samples").lastElementChild.append(makeSample(file));
  element("samples").hidden = model.pictures.length === 0;
  say("Ready. Choose a picture.");
}

function makeSample({ file, name }) {
  const [item, button, image] = ["li", "button", "img"].map((tag) => make(tag));
  image.src = `pictures/${file}`;
  image.alt = `Try: ${name}, drawn`;
  button.type = "button";
  button.append(image);
  button.addEventListener("click", async () => {
    await image.decode();
    classify(await createImageBitmap(image), `${name}, drawn`);
  });
  item.append(button);
  return item;
}

function takePictures() {
  const [file, drop] = [element("file"), element("drop")];
  element("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files[0]) classifyFile(file.files[0]);
    file.value = ""; // the same file may be chosen again
  });
  addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData.files[0]) classifyFile(clipboardData.files[0]);
    else say("That was no picture. Copy the picture itself, or its file.", true);
  });
  // Anywhere on the page: a browser would open what is dropped beside the field.
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) classifyFile(event.dataTransfer.files[0]);
    else say("That was no file. Save the picture, and drop the file.", true);
  });
  element("camera").addEventListener("click", openCamera);
  element("snap").addEventListener("click", async () => {
    const bitmap = await createImageBitmap(element("video"));
    element("dialog").close();
    classify(bitmap, "the camera");
  });
  element("close").addEventListener("click", () => element("dialog").close());
  element("dialog").addEventListener("close", () => {
    for (const track of element("video").srcObject.getTracks()) track.stop();
  });
  element("occlude").addEventListener("click", toggleMap);
}

async function openCamera() {
  try {
    const wanted = { video: { facingMode: "environment" } };
    element("video").srcObject = await navigator.mediaDevices.getUserMedia(wanted);
  } catch { // none, not allowed, or not on a secure address: a phone has another way
    element("file").capture = "environment";
    element("file").click();
    element("file").removeAttribute("capture");
    return;
  }
  await element("video").play(); // a picture can be taken once it does
  element("dialog").showModal();
}

function classifyFile(file) {
  classify(file, file.name);
}

async function classify(picture, name) {
  if (!model) return;
  try {
    show(await classifier.classify(picture), name);
  } catch (error) {
    say(`${name}: ${error.message}`, true);
  }
}

function show({ scores, milliseconds, preview }, name) {
  const order = scores.map((_, label) => label).sort((a, b) => scores[b] - scores[a]);
  best = order[0];
  element("invitation").hidden = true;
  element("view").hidden = false;
  element("drop").classList.add("filled");
  draw(element("picture"), preview);
  element("picture").setAttribute("aria-label", `The picture: ${name}`);
  hideMap();
  element("answers").replaceChildren(...order.slice(0, TOP).map((label) => makeAnswer(label, scores[label])));
  element("explain").hidden = element("note").hidden = false;
  say(`${model.names[best]}, ${percent(scores[best])}, in ${milliseconds.toFixed(0)} ms`);
}

function makeAnswer(label, score) {
  const [item, bar, row] = ["li", "span", "span"].map((tag) => make(tag));
  bar.className = "bar";
  row.className = "row";
  row.append(make("span", model.names[label]), make("span", percent(score)));
  row.lastElementChild.className = "score";
  item.append(bar, row);
  bar.style.width = "0";
  requestAnimationFrame(() => { bar.style.width = percent(score); });
  return item;
}

async function toggleMap() {
  if (!element("map").hidden) return hideMap();
  const button = element("occlude");
  button.disabled = true;
  element("explanation").textContent = "Covering one part after another…";
  const { before, after, grid } = await classifier.occlude(best);
  button.disabled = false;
  button.setAttribute("aria-pressed", "true");
  element("map").hidden = false;
  element("picture").classList.add("explained");
  // In log-odds, where a certain answer shows differences, too.
  drawMap(after.map((score) => logOdds(before) - logOdds(score)), grid);
  element("explanation").textContent = describe(before, after, grid);
}

function logOdds(score) {
  const share = Math.min(Math.max(score, 1e-12), 1 - 1e-12);
  return Math.log(share / (1 - share));
}

function hideMap() {
  element("map").hidden = true;
  element("picture").classList.remove("explained");
  element("occlude").setAttribute("aria-pressed", "false");
  element("explanation").textContent = "";
}

// From transparent over red to yellow, where covering costs most.
function drawMap(falls, grid) {
  const largest = Math.max(...falls, 1e-3);
  const small = new OffscreenCanvas(grid, grid);
  const image = new ImageData(grid, grid);
  falls.forEach((fall, i) => {
    const share = Math.max(0, fall / largest);
    image.data.set([255, 60 + 180 * share ** 2, 30, 235 * share], 4 * i);
  });
  small.getContext("2d").putImageData(image, 0, 0);
  const [map, picture] = [element("map"), element("picture")];
  [map.width, map.height] = [picture.width, picture.height];
  const context = map.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, map.width, map.height);
}

function describe(before, after, grid) {
  const place = after.indexOf(Math.min(...after));
  const third = (index) => Math.floor((3 * index) / grid);
  const row = ["upper", "middle", "lower"][third(Math.floor(place / grid))];
  const column = ["left", "middle", "right"][third(place % grid)];
  const where = row === column ? "middle" : `${row} ${column}`;
  return `Bright parts matter most. With the ${where} covered, “${model.names[best]}” ` +
    `has ${percent(after[place])} instead of ${percent(before)}.`;
}

function draw(canvas, bitmap) {
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

// As text, never as HTML: a class may have any name.
function make(tag, text = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  return node;
}

function say(text, error = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", error);
}

start();
