// Classifies pictures in a worker. In a page of your own:
//
//     import { Classifier } from "./classifier.js";
//     const classifier = new Classifier();
//     const { names } = await classifier.ready;
//     const { scores, milliseconds } = await classifier.classify(file);

export class Classifier {
  // onProgress: called with the bytes of the weights that have come.
  constructor(onProgress = () => {}) {
    this.waiting = new Map();
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data: { id, result, error, loaded } }) => {
      if (loaded !== undefined) return onProgress(loaded);
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    };
    this.worker.onerror = () => {
      for (const { reject } of this.waiting.values()) {
        reject(new Error("the network stopped. Load the page again."));
      }
      this.waiting.clear();
    };
    this.ready = this.ask("load"); // the content of model.json
  }

  // picture: a Blob (a File is one) or an ImageBitmap.
  async classify(picture) {
    await this.ready;
    return this.ask("classify", { picture });
  }

  // Which parts of the last picture the score of a class depends on.
  occlude(label) {
    return this.ask("occlude", { label });
  }

  ask(action, values = {}) {
    const id = this.waiting.size ? Math.max(...this.waiting.keys()) + 1 : 1;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, action, ...values });
    });
  }
}
