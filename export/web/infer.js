// Runs a network exported by hwnas with ONNX Runtime Web (WebAssembly, one thread): checks it against its manifest, classifies images, times it.
//
// To build the network into a page of your own, copy `readManifest`, `load` and `fed`. The page that has served this one learns how it ended
// (`report`); any other server may ignore that.

import * as ort from "./ort.wasm.min.mjs";

const MAX_MANIFEST_BYTES = 16 << 20, MAX_FILE_BYTES = 2 ** 31 - 1, MAX_INPUT_ELEMENTS = 1 << 28, MAX_PIXELS = 50_000_000;
const MIN_STD = 1e-12, LEAST_LOG = -60, TOP = 5, RUNS = 50, WARM_UPS = 5;
const EXTERNAL_DATA = [0x0a, 0x08, ...new TextEncoder().encode("location")]; // the key that only tensors with their values in another file carry
const FOLDER = new URL("../", import.meta.url);

class Refused extends Error {} // one sentence; code 2
class Mismatch extends Error {} // one sentence; code 1

const lines = [];
function say(text) {
  lines.push(text);
  document.getElementById("out").textContent = lines.join("\n");
}
const printable = (text, most = 80) => String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "?").slice(0, most);
const digits = (value) => Number(value.toPrecision(3));

// -- files -----------------------------------------------------------------------------------------------------------------------

async function bytesOf(name, limit = MAX_FILE_BYTES) {
  let response;
  try { response = await fetch(new URL(name, FOLDER), { cache: "no-store" }); } catch { throw new Refused(`cannot read ${printable(name)}`); }
  if (!response.ok) throw new Refused(`cannot read ${printable(name)} (HTTP ${response.status}); export the network again`);
  if (Number(response.headers.get("Content-Length") ?? 0) > limit) throw new Refused(`${printable(name)} is too large to be read`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes.length > limit) throw new Refused(`${printable(name)} is too large to be read`);
  return bytes;
}

async function sha256(bytes) {
  if (!crypto.subtle) throw new Refused("this page is no secure context, so that nothing can be checked: open it by https, or from this machine as localhost");
  return [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].map((each) => each.toString(16).padStart(2, "0")).join("");
}

const isInside = (name) => name.length > 0 && !/^\/|[\\:?#%]/.test(name) && !name.split("/").some((part) => part === ".." || part === "." || part === "");
const isSize = (value) => Number.isSafeInteger(value) && value >= 1;
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const same = (a, b) => Array.isArray(a) && a.length === b.length && a.every((each, i) => each === b[i]);

function isConsistent(manifest) {
  const { input, output, preprocessing: how, labels, example, files } = manifest;
  const [height, width] = how.resolution, { channels, mean, std, range } = how, crop = how.crop ?? null, batch = input.shape[0], rows = example.logits;
  const sizes = { tensor: [channels, height, width], pixels: [height, width, channels], image: ["height", "width", channels] }[input.kind];
  return how.resolution.length === 2 && [height, width, channels].every(isSize) && same(input.shape.slice(1), sizes) && (batch === "batch" || isSize(batch))
    && height * width * channels * (batch === "batch" ? 1 : batch) <= MAX_INPUT_ELEMENTS
    && mean.length === channels && std.length === channels && [...mean, ...std, ...range].every(isNumber) && std.every((each) => each > MIN_STD)
    && range.length === 2 && range[0] < range[1] && (crop === null || (isNumber(crop) && crop > 0 && crop <= 1))
    && input.dtype === (input.kind === "tensor" ? "float32" : "uint8") && ["logits", "probabilities"].includes(output.kind)
    && Array.isArray(labels) && labels.every((each) => typeof each === "string") && labels.length >= 1 && output.shape.at(-1) === labels.length
    && rows.length >= 1 && (batch === "batch" || rows.length === batch) && rows.every((row) => row.length === labels.length && row.every(isNumber))
    && isNumber(example.tolerance_std) && example.tolerance_std > 0 && example.tolerance_std < 1
    && [manifest.model, example.input].every((name) => typeof name === "string" && Object.hasOwn(files, name)) && typeof input.name === "string" && typeof output.name === "string";
}

// The manifest, after its fields and the hash of every file it names were checked; and the content of the files that are needed.
async function readManifest() {
  let manifest, fits = false;
  try { manifest = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(await bytesOf("manifest.json", MAX_MANIFEST_BYTES))); } catch (error) {
    throw error instanceof Refused ? error : new Refused("manifest.json is not readable JSON");
  }
  if (manifest?.format !== "hwnas.manifest/1") throw new Refused("manifest.json is no manifest of this version (format 'hwnas.manifest/1')");
  try { fits = isConsistent(manifest); } catch { /* fields are missing, or of other types */ }
  if (!fits) throw new Refused("manifest.json lacks fields, or its shapes, preprocessing, labels and example do not fit each other");
  const content = {};
  for (const [name, digest] of Object.entries(manifest.files)) {
    if (!isInside(name)) throw new Refused(`the manifest names '${printable(name)}', which is not inside the folder`);
    const bytes = await bytesOf(name);
    if (await sha256(bytes) !== digest) throw new Refused(`${printable(name)} is cut short or was changed: its SHA-256 is not the manifest's; copy or export it again`);
    if (name === manifest.model || name === manifest.example.input) content[name] = bytes;
  }
  return [manifest, content[manifest.model], content[manifest.example.input]];
}

// -- the network -----------------------------------------------------------------------------------------------------------------

function holds(bytes, pattern) {
  for (let at = bytes.indexOf(pattern[0]); at >= 0; at = bytes.indexOf(pattern[0], at + 1))
    if (pattern.every((each, i) => bytes[at + i] === each)) return true;
  return false;
}

const first = (error) => printable(String(error?.message ?? error).split("\n")[0], 300);

// The network as a function: {data, shape} -> (rows * classes) numbers.
async function load(manifest, model) {
  if (holds(model, EXTERNAL_DATA)) throw new Refused(`${printable(manifest.model)} keeps weights in another file, which is not read; export the network again`);
  ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  let session;
  try { session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] }); } catch (error) {
    throw new Refused(`ONNX Runtime Web cannot load ${printable(manifest.model)}: ${first(error)}`);
  }
  if (!same(session.inputNames, [manifest.input.name]) || !same(session.outputNames, [manifest.output.name]))
    throw new Refused(`${printable(manifest.model)} has other inputs or outputs than the manifest says`);
  return async ({ data, shape }) => {
    let output;
    try { output = (await session.run({ [manifest.input.name]: new ort.Tensor(manifest.input.dtype, data, shape) }))[manifest.output.name]; } catch (error) {
      throw new Refused(`ONNX Runtime Web cannot run ${printable(manifest.model)}: ${first(error)}`);
    }
    if (!same([...output.dims], [shape[0], manifest.labels.length])) throw new Mismatch(`the network returns ${output.dims}, the manifest says ${[shape[0], manifest.labels.length]}`);
    return output.data;
  };
}

// A .npy file of float32 or uint8 in C order.
function readNpy(bytes, manifest) {
  const wrong = () => new Refused(`${printable(manifest.example.input)} is no .npy array of what the manifest says`);
  if (bytes.length < 12 || String.fromCharCode(...bytes.subarray(0, 6)) !== "\x93NUMPY" || bytes[6] < 1 || bytes[6] > 3) throw wrong();
  const view = new DataView(bytes.buffer, bytes.byteOffset), start = bytes[6] === 1 ? 10 : 12, length = start === 10 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (length > bytes.length - start) throw wrong();
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, start + length)), tensor = manifest.input.kind === "tensor";
  const found = /'shape': \(([\d, ]+)\)/.exec(header);
  if (!found || !header.includes(tensor ? "'descr': '<f4'" : "'descr': '|u1'") || !header.includes("'fortran_order': False")) throw wrong();
  const shape = found[1].split(",").map((each) => each.trim()).filter(Boolean).map(Number), elements = shape.reduce((a, b) => a * b, 1);
  const fits = shape.length === 4 && shape[0] === manifest.example.logits.length && shape.every((size, i) => isSize(size) && (i === 0 || typeof manifest.input.shape[i] === "string" || size === manifest.input.shape[i]));
  const rest = bytes.slice(start + length);
  if (!fits || elements > MAX_INPUT_ELEMENTS || rest.length !== elements * (tensor ? 4 : 1)) throw wrong();
  return { data: tensor ? new Float32Array(rest.buffer) : rest, shape };
}

function spread(values) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return Math.max(Math.sqrt(values.reduce((sum, each) => sum + (each - mean) ** 2, 0) / values.length), MIN_STD);
}

function logSoftmax(row) {
  const most = Math.max(...row), sum = row.reduce((total, each) => total + Math.exp(each - most), 0);
  return row.map((each) => Math.max(each - most - Math.log(sum), LEAST_LOG));
}

// Logarithms of probabilities are logits but for a constant of each image.
async function checkExample(manifest, run, example) {
  const probabilities = manifest.output.kind === "probabilities";
  const expected = manifest.example.logits.flatMap((row) => (probabilities ? logSoftmax(row) : row));
  const got = [...await run(example)].map((each) => (probabilities ? Math.max(Math.log(Math.max(each, 1e-300)), LEAST_LOG) : each));
  const ratio = got.reduce((worst, each, i) => (Number.isNaN(each) ? Infinity : Math.max(worst, Math.abs(each - expected[i]))), 0) / spread(expected);
  if (!(ratio <= manifest.example.tolerance_std))
    throw new Mismatch(`the logits of the stored example are off by ${ratio.toPrecision(2)} of their standard deviation; do not use this build of the network`);
  say(`example  logits agree to ${ratio.toExponential(1)} of their standard deviation`);
}

// -- images ----------------------------------------------------------------------------------------------------------------------

// Pixels 0 to 255 of a Blob, with that many channels; grey is the luma of ITU-R 601.
async function pixelsOf(blob, name, channels) {
  if (channels !== 1 && channels !== 3) throw new Refused(`the network takes ${channels} channels, which an image file does not have`);
  let bitmap;
  try { bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" }); } catch { throw new Refused(`${printable(name)} is no readable image`); }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Refused(`${printable(name)} has ${width} x ${height} pixels, more than ${MAX_PIXELS}`);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data, pixels = new Float64Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) pixels[i] = Math.floor((r * 19595 + g * 38470 + b * 7471 + 32768) / 65536);
    else pixels.set([r, g, b], 3 * i);
  }
  return { height, width, channels, pixels };
}

// Halves go to the even number, as in training.
function rounded(value) {
  const below = Math.floor(value), rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below;
}

// The central square whose side is that share of the shorter side; null: the whole image.
function centre(image, share) {
  if (share === null) return image;
  const { height, width, channels, pixels } = image, side = Math.max(1, rounded(share * Math.min(height, width)));
  const top = Math.floor((height - side) / 2), left = Math.floor((width - side) / 2), cut = new Float64Array(side * side * channels);
  for (let y = 0; y < side; y++) {
    const from = ((top + y) * width + left) * channels;
    cut.set(pixels.subarray(from, from + side * channels), y * side * channels);
  }
  return { height: side, width: side, channels, pixels: cut };
}

// Along one axis: which samples each new one is made of, and their weights. A triangle, wider where the image shrinks (antialiasing).
function windows(size, target) {
  const scale = size / target, support = Math.max(scale, 1);
  return Array.from({ length: target }, (_, i) => {
    const middle = (i + 0.5) * scale, start = Math.max(0, Math.floor(middle - support)), end = Math.min(size, Math.ceil(middle + support) + 1), weights = [];
    for (let j = start; j < end; j++) weights.push(Math.max(0, 1 - Math.abs(j + 0.5 - middle) / support));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { start, weights: weights.map((each) => each / sum) };
  });
}

function resized({ height, width, channels, pixels }, newHeight, newWidth) {
  const narrow = new Float64Array(height * newWidth * channels), made = new Float64Array(newHeight * newWidth * channels);
  windows(width, newWidth).forEach(({ start, weights }, x) => {
    for (let y = 0; y < height; y++)
      for (let c = 0; c < channels; c++)
        narrow[(y * newWidth + x) * channels + c] = weights.reduce((sum, weight, j) => sum + weight * pixels[(y * width + start + j) * channels + c], 0);
  });
  windows(height, newHeight).forEach(({ start, weights }, y) => {
    for (let x = 0; x < newWidth; x++)
      for (let c = 0; c < channels; c++)
        made[(y * newWidth + x) * channels + c] = weights.reduce((sum, weight, j) => sum + weight * narrow[((start + j) * newWidth + x) * channels + c], 0);
  });
  return { height: newHeight, width: newWidth, channels, pixels: made };
}

// What the network is fed of an image, as often as its batch wants.
function fed(image, manifest) {
  const how = manifest.preprocessing, { kind } = manifest.input, batch = manifest.input.shape[0] === "batch" ? 1 : manifest.input.shape[0];
  const small = kind === "image" ? image : resized(centre(image, how.crop ?? null), ...how.resolution), { height, width, channels, pixels } = small, size = height * width;
  const one = kind === "tensor" ? new Float32Array(size * channels) : Uint8Array.from(pixels, (each) => Math.min(255, Math.max(0, rounded(each))));
  if (kind === "tensor")
    for (let c = 0; c < channels; c++)
      for (let i = 0; i < size; i++) one[c * size + i] = (pixels[i * channels + c] / 255 * (how.range[1] - how.range[0]) + how.range[0] - how.mean[c]) / how.std[c];
  const data = new one.constructor(one.length * batch);
  for (let i = 0; i < batch; i++) data.set(one, i * one.length);
  return { data, shape: [batch, ...(kind === "tensor" ? [channels, height, width] : [height, width, channels])] };
}

async function classify(blob, name, manifest, run) {
  const output = [...(await run(fed(await pixelsOf(blob, name, manifest.preprocessing.channels), manifest))).slice(0, manifest.labels.length)];
  const share = manifest.output.kind === "probabilities" ? output : logSoftmax(output).map(Math.exp);
  const best = share.map((_, i) => i).sort((a, b) => share[b] - share[a]).slice(0, TOP);
  say(`${printable(name)}  ${best.map((i) => `${printable(manifest.labels[i])} ${(100 * share[i]).toFixed(1)} %`).join("  ")}`);
}

async function reportLatency(manifest, run, example) {
  const times = [];
  for (let i = 0; i < WARM_UPS + RUNS; i++) {
    const start = performance.now();
    await run(example);
    if (i >= WARM_UPS) times.push(performance.now() - start);
  }
  const here = times.sort((a, b) => a - b)[RUNS >> 1], certified = manifest.latency;
  say(`latency  ${digits(here)} ms here (p50 of ${RUNS} runs, one at a time)`);
  if (isNumber(certified?.measured_ms) && isNumber(certified.upper_bound_ms)) {
    const of = typeof certified.covers === "string" ? ` for ${printable(certified.covers, 120)},` : "", claim = certified.claim === "measured" ? "measured" : "certified";
    say(`         ${digits(certified.measured_ms)} ms ${claim}${of} (${printable(certified.statistic, 8)}, at most ${digits(certified.upper_bound_ms)} ms) on ${printable(certified.conditions, 200)}`);
  }
}

// -- the page --------------------------------------------------------------------------------------------------------------------

async function finished(work) {
  let code = 0;
  try { await work(); say("ok"); } catch (error) {
    code = error instanceof Mismatch ? 1 : 2;
    say(`error: ${printable(error instanceof Refused || error instanceof Mismatch ? error.message : first(error), 1000)}`);
  }
  document.title = code ? "failed" : "ok";
  return code;
}

async function report(code) {
  try { await fetch("report", { method: "POST", body: JSON.stringify({ code, lines }) }); } catch { /* another server */ }
}

const code = await finished(async () => {
  const [manifest, model, stored] = await readManifest();
  const run = await load(manifest, model), example = readNpy(stored, manifest);
  await checkExample(manifest, run, example);
  const asked = new URL(location.href).searchParams.get("image");
  if (asked) {
    const response = await fetch("image", { cache: "no-store" });
    if (!response.ok) throw new Refused(`cannot read ${printable(asked)}`);
    await classify(await response.blob(), asked, manifest, run);
  }
  await reportLatency(manifest, run, example);
  const file = document.getElementById("file");
  file.disabled = false;
  file.addEventListener("change", () => { if (file.files[0]) finished(() => classify(file.files[0], file.files[0].name, manifest, run)); });
});
await report(code);
