// The network, computed by kernels.wasm. keras_tinyalex/web/scores.py is the same in
// NumPy, and shows the order of the weights in model.bin.

const VERSION = 1;
const LANES = 8; // of the kernels; channels are padded to a multiple
const FLOAT = 4; // bytes

export class Network {
  // description: the content of model.json; weights: an ArrayBuffer, model.bin;
  // code: an ArrayBuffer, kernels.wasm.
  static async load(description, weights, code) {
    if (description.version !== VERSION) {
      throw new Error("model.json is of another version than the page.");
    }
    const imports = { page: { power: Math.pow } };
    const { instance } = await WebAssembly.instantiate(code, imports);
    return new Network(description, weights, instance.exports);
  }

  constructor(description, weights, kernels) {
    this.image = description.image;
    this.kernels = kernels;
    this.end = kernels.__heap_base.value;
    const { height, width, channels } = this.image;
    let shape = { height, width, channels, stride: channels };
    this.input = { ...shape, at: this.allocateMap(shape) };
    const reader = new Reader(weights);
    let from = this.input;
    this.steps = [];
    for (const layer of description.layers) {
      const [to, run] = this[layer.kind](layer, from, reader);
      this.steps.push(run);
      from = to;
    }
    reader.finish();
    this.output = from;
  }

  // Returns the probabilities for an image: Uint8Array, rows by columns by channels.
  classify(pixels) {
    const { at, height, width, channels } = this.input;
    const memory = this.floats();
    const row = width * channels;
    for (let y = 0; y < height; y++) {
      const target = at / FLOAT + ((y + 1) * (width + 2) + 1) * channels;
      for (let i = 0; i < row; i++) {
        memory[target + i] = pixels[y * row + i] * this.image.scale;
      }
    }
    for (const step of this.steps) step();
    const scores = memory.subarray(this.output.at / FLOAT).slice(0, this.output.units);
    return softmax(scores);
  }

  convolution(layer, from, reader) {
    const { filters } = layer;
    const stride = padded(filters);
    const kernel = reader.shorts(9 * from.channels * filters);
    const at = this.allocate(9 * from.stride * stride * FLOAT);
    const [scale, bias] = this.affineWeights(filters, reader);
    const to = { ...from, channels: filters, stride };
    to.at = this.allocateMap(to);
    const memory = this.floats();
    for (let tap = 0; tap < 9; tap++) {
      for (let c = 0; c < from.channels; c++) {
        for (let f = 0; f < filters; f++) {
          const block = Math.floor(f / LANES) * 9 + tap;
          const index = (block * from.stride + c) * LANES + (f % LANES);
          memory[at / FLOAT + index] = kernel[(tap * from.channels + c) * filters + f];
        }
      }
    }
    const { height, width } = from;
    return [to, () => this.kernels.convolve(
      from.at, at, scale, bias, to.at, height, width, from.stride, stride, layer.relu)];
  }

  normalization(layer, map) {
    const { height, width, stride } = map;
    const { depth_radius: radius, bias, alpha, beta } = layer;
    const scratch = this.allocate((stride + 2 * radius) * FLOAT);
    return [map, () => this.kernels.normalize(
      map.at, scratch, height, width, stride, radius, bias, alpha, beta)];
  }

  affine(layer, map, reader) {
    const { height, width, stride } = map;
    const [scale, bias] = this.affineWeights(map.channels, reader);
    return [map, () => this.kernels.affine(map.at, scale, bias, height, width, stride)];
  }

  pooling(layer, from) {
    const { height, width, stride } = from;
    const to = { ...from, height: Math.floor(height / 2), width: Math.floor(width / 2) };
    to.at = this.allocateMap(to);
    return [to, () => this.kernels.pool(from.at, to.at, height, width, stride)];
  }

  // Leaves the border and the padding of the channels out.
  flatten(layer, from) {
    const { height, width, channels, stride } = from;
    const units = height * width * channels;
    const to = { at: this.allocate(units * FLOAT), units };
    return [to, () => {
      const memory = this.floats();
      let target = to.at / FLOAT;
      for (let y = 1; y <= height; y++) {
        for (let x = 1; x <= width; x++) {
          const pixel = from.at / FLOAT + (y * (width + 2) + x) * stride;
          for (let c = 0; c < channels; c++) memory[target++] = memory[pixel + c];
        }
      }
    }];
  }

  dense(layer, from, reader) {
    const { units } = layer;
    const kernel = reader.bytes(from.units * units);
    const at = this.allocate(kernel.length);
    new Int8Array(this.kernels.memory.buffer).set(kernel, at);
    const [scale, bias] = this.affineWeights(units, reader);
    const to = { at: this.allocate(units * FLOAT), units };
    return [to, () => this.kernels.dense(
      from.at, at, scale, bias, to.at, from.units, units, layer.relu)];
  }

  affineWeights(count, reader) {
    return [0, 1].map(() => {
      const values = reader.floats(count);
      const at = this.allocate(padded(count) * FLOAT);
      this.floats().set(values, at / FLOAT);
      return at;
    });
  }

  // A map with its border, and what the kernels read beyond the last row.
  allocateMap({ height, width, stride }) {
    return this.allocate(((height + 2) * (width + 2) + 4) * stride * FLOAT);
  }

  // Returns the address of new zeros.
  allocate(bytes) {
    const at = Math.ceil(this.end / 16) * 16;
    this.end = at + bytes;
    const { memory } = this.kernels;
    const pages = Math.ceil((this.end - memory.buffer.byteLength) / 65536);
    if (pages > 0) memory.grow(pages);
    return at;
  }

  // Growing the memory replaces its buffer: not to be kept.
  floats() {
    return new Float32Array(this.kernels.memory.buffer);
  }
}

// Reads the arrays of model.bin one after another; each starts at a multiple of 4.
class Reader {
  constructor(buffer) {
    this.buffer = buffer;
    this.position = 0;
  }

  bytes(count) {
    return new Int8Array(this.buffer, this.advance(count), count);
  }

  shorts(count) {
    return new Int16Array(this.buffer, this.advance(count * 2), count);
  }

  floats(count) {
    return new Float32Array(this.buffer, this.advance(count * FLOAT), count);
  }

  advance(bytes) {
    const at = this.position;
    this.position += Math.ceil(bytes / 4) * 4;
    if (this.position > this.buffer.byteLength) throw new Error(DAMAGED);
    return at;
  }

  finish() {
    if (this.position !== this.buffer.byteLength) throw new Error(DAMAGED);
  }
}

const DAMAGED = "model.bin does not fit model.json: export the model again.";

function padded(channels) {
  return Math.ceil(channels / LANES) * LANES;
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}
