// Runs tile.onnx in Node, as a foreign client would: raw float32 files in and out.
// node onnx.mjs ORT.mjs MODEL TILE OUTPUT HEIGHT WIDTH CHANNELS
import fs from "node:fs";

const [library, model, tile, output, ...shape] = process.argv.slice(2);
const ort = await import(library);
const bytes = fs.readFileSync(tile);
const pixels = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const channels = Number(shape[2]);
const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(model)));
const { probabilities } = await session.run({
  tile: new ort.Tensor("float32", pixels, [1, ...shape.map(Number)]),
  mean: new ort.Tensor("float32", new Float32Array(channels).fill(100), [1, channels]),
  std: new ort.Tensor("float32", new Float32Array(channels).fill(50), [1, channels]),
});
fs.writeFileSync(output, Buffer.from(probabilities.data.buffer));
