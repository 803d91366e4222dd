// Loads the network and computes, so that the page stays awake; see classifier.js.

import { Network } from "./network.js";
import { readPixels } from "./resize.js";

const PREVIEW = 512; // pixels of the longer side
const GRID = 8; // rows and columns of the map
const PATCH = 1 / 4; // side of the square that covers a part, of the picture's

let network = null;
let pixels = null; // of the last picture

const actions = {
  async load() {
    const [description, weights, code] = await Promise.all([
      read("model.json").then((response) => response.json()),
      read("model.bin").then(readWithProgress),
      read("kernels.wasm").then((response) => response.arrayBuffer()),
    ]);
    network = await Network.load(description, weights, code);
    return description;
  },

  // picture: a Blob or an ImageBitmap.
  async classify({ picture }) {
    // Colors as they are in the file, like Pillow.
    const options = { colorSpaceConversion: "none" };
    const bitmap = await createImageBitmap(picture, options).catch(() => {
      throw new Error("it is not a picture that this browser can read.");
    });
    const read = readPixels(bitmap, network.image);
    const preview = previewOf(bitmap);
    bitmap.close();
    const start = performance.now();
    const scores = network.classify(read);
    const milliseconds = performance.now() - start;
    pixels = read;
    return { scores, milliseconds, preview };
  },

  // Returns the score of a class, and what it is when one part after another is covered.
  async occlude({ label }) {
    const { height, width, channels } = network.image;
    const mean = Array.from({ length: channels }, (_, c) => meanOf(pixels, c, channels));
    const before = network.classify(pixels)[label];
    const after = [];
    for (let row = 0; row < GRID; row++) {
      for (let column = 0; column < GRID; column++) {
        const [top, bottom] = span(row, height);
        const [left, right] = span(column, width);
        const covered = pixels.slice();
        for (let y = top; y < bottom; y++) {
          for (let x = left; x < right; x++) {
            covered.set(mean, (y * width + x) * channels);
          }
        }
        after.push(network.classify(covered)[label]);
      }
    }
    return { before, after, grid: GRID };
  },
};

async function read(name) {
  const response = await fetch(name).catch(() => null);
  if (!response?.ok) throw new Error(`${name} cannot be loaded.`);
  return response;
}

async function readWithProgress(response) {
  const parts = [];
  let loaded = 0;
  const reader = response.body.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    parts.push(next.value);
    loaded += next.value.length;
    postMessage({ loaded });
  }
  return new Blob(parts).arrayBuffer();
}

function previewOf(bitmap) {
  const scale = Math.min(1, PREVIEW / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height]
    .map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas.transferToImageBitmap();
}

function meanOf(values, channel, channels) {
  let sum = 0;
  for (let i = channel; i < values.length; i += channels) sum += values[i];
  return Math.round((sum * channels) / values.length);
}

// The pixels that the square at a place of the grid covers.
function span(index, size) {
  const center = (index + 0.5) / GRID;
  return [center - PATCH / 2, center + PATCH / 2]
    .map((edge) => Math.round(Math.min(Math.max(edge, 0), 1) * size));
}

onmessage = async ({ data: { id, action, ...values } }) => {
  try {
    const result = await actions[action](values);
    postMessage({ id, result }, result.preview ? [result.preview] : []);
  } catch (error) {
    postMessage({ id, error: error.message });
  }
};
