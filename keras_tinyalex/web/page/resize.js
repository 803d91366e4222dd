// Reads pictures as the Python package does: upright, transparency over white,
// squeezed to the size of the network by Pillow's BILINEAR filter. Bytes are equal;
// where Pillow resizes columns before rows, a rounding of 1 apart.

const PRECISION = 22; // bits of Pillow's fixed-point weights
const STRIP_PIXELS = 1 << 20; // that are read from a canvas at once
const MAX_PIXELS = 1 << 28;

// Returns the pixels of a picture, Uint8Array of rows by columns by channels.
export function readPixels(bitmap, { height, width, channels }) {
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    throw new Error("The picture has more than 268 million pixels; save it smaller.");
  }
  const columns = weightsOf(bitmap.width, width);
  const squeezed = new Uint8Array(bitmap.height * width * channels);
  const rows = Math.max(1, Math.floor(STRIP_PIXELS / bitmap.width));
  const canvas = new OffscreenCanvas(bitmap.width, Math.min(rows, bitmap.height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  for (let top = 0; top < bitmap.height; top += rows) {
    const count = Math.min(rows, bitmap.height - top);
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, bitmap.width, count);
    const strip = channels === 1 ? toGray(data) : data;
    const target = squeezed.subarray(top * width * channels);
    // The pixels of a canvas have a fourth channel, alpha.
    const step = channels === 1 ? 1 : 4;
    resample(strip, target, columns, channels, {
      lines: count, lineIn: bitmap.width * step, lineOut: width * channels,
      stepIn: step, stepOut: channels,
    });
  }
  const pixels = new Uint8Array(height * width * channels);
  resample(squeezed, pixels, weightsOf(bitmap.height, height), channels, {
    lines: width, lineIn: channels, lineOut: channels,
    stepIn: width * channels, stepOut: width * channels,
  });
  return pixels;
}

// Returns, for each output pixel, the first input pixel and the weights from there on.
function weightsOf(sizeIn, sizeOut) {
  const scale = sizeIn / sizeOut;
  const support = Math.max(scale, 1); // antialiasing: wider where it shrinks
  return Array.from({ length: sizeOut }, (_, index) => {
    const center = (index + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), sizeIn);
    const triangle = Array.from({ length: last - first }, (_, i) =>
      Math.max(0, 1 - Math.abs((i + first - center + 0.5) / support)));
    const sum = triangle.reduce((total, weight) => total + weight, 0);
    const weights = triangle.map((w) => Math.trunc(0.5 + (w / sum) * (1 << PRECISION)));
    return { first, weights: Int32Array.from(weights) };
  });
}

// Applies weights along lines of pixels: the rows of a picture, or its columns.
function resample(from, to, weights, channels, layout) {
  const { lines, lineIn, lineOut, stepIn, stepOut } = layout;
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < weights.length; i++) {
      const { first, weights: list } = weights[i];
      for (let c = 0; c < channels; c++) {
        let at = line * lineIn + first * stepIn + c;
        let sum = 1 << (PRECISION - 1);
        for (let k = 0; k < list.length; k++, at += stepIn) sum += from[at] * list[k];
        to[line * lineOut + i * stepOut + c] = Math.min(sum >> PRECISION, 255);
      }
    }
  }
}

// Luma as in ITU-R 601, in Pillow's integers.
function toGray(data) {
  const gray = new Uint8Array(data.length / 4);
  for (let i = 0; i < gray.length; i++) {
    const [red, green, blue] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    gray[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
  }
  return gray;
}
