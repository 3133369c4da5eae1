// Times ONNX models with ONNX Runtime Web (WebAssembly, SIMD) in the browser that opens its page.
//
// Contract, version 2, as agent_contract.py describes it. The response to `GET requests`, which does not end, is what stdin
// is there: lines of JSON, some followed by a model. `POST answer` is stdout. The stream is also the lease: who holds it is the target, and
// when it ends, on either side, so does the measurement. This file is both the page's script and the worker that measures, so that its one hash
// names all that runs.
//
// What differs from a native agent, because browsers are made so:
// * Clocks are coarse (5 us where the page is isolated, 100 us and more where not). Runs are timed in groups that last 100 steps of the clock
//   or longer; each run of a group is reported with the group's mean. Where one run lasts as long by itself, it is a group.
// * There is no CPU time, no count of context switches, no pressure: cpu_ns, involuntary, psi_us and steal_ms are null. The anchor alone tells
//   a disturbed visit. While the page is hidden nothing is measured.
// * WebAssembly cannot flush denormals, and inputs and outputs are copied into its memory in each run. Output arrays are allocated once: fresh
//   ones cost a page fault per 4 KiB, so that a run took 14 % longer or shorter with what the garbage collector had just done.

const CONTRACT = 2;
const STEPS = 100; // of the clock; what a group lasts at least
const MAX_LINE_BYTES = 8 << 20;
const MAX_MODEL_BYTES = 1 << 30;
const MAX_TENSOR_ELEMENTS = 1 << 28;
const MAX_ITEMS = 100000;
const MAX_VISITS = 100000;
const MAX_RUNS = 100000;
const MAX_GROUP = 1 << 20;
const RETRY_MS = 2000;
const MAX_RETRIES = 30;

class Refused extends Error {} // a request that is answered with one sentence
class Broken extends Error {} // the runtime is not usable any more: only a new worker helps

const now = () => performance.now();
const ns = (ms) => Math.max(1, Math.round(ms * 1e6));
const quoted = (value) => String(JSON.stringify(value)).slice(0, 60);
const sentence = (error) => `${error?.name ?? "Error"}: ${String(error?.message ?? error).replace(/\s+/g, " ").slice(0, 500)}`;

// -- the page ------------------------------------------------------------------------------------------------------------------

function page() {
  let worker, lease, failures = 0;
  const say = (text) => { document.getElementById("status").textContent = text; };

  function begin() {
    lease = undefined;
    worker = new Worker(import.meta.url, { type: "module" });
    worker.postMessage({ hidden: document.hidden });
    worker.onmessage = ({ data }) => {
      if (data.lease) { lease = data.lease; failures = 0; }
      if (data.say) say(data.say);
      if (data.end) end(data.end);
    };
    worker.onerror = (event) => { event.preventDefault(); end("failed"); };
  }

  function end(how) {
    worker.terminate();
    if (how === "refused") return; // what was said stays
    if (how === "failed" && ++failures > MAX_RETRIES) { say("The host has ended. This page can be closed."); return; }
    if (how === "failed") say("The host does not answer. If its command has ended, this page can be closed.");
    setTimeout(begin, how === "failed" ? RETRY_MS : 0);
  }

  let lock;
  async function stayAwake() { try { lock = await navigator.wakeLock.request("screen"); } catch { /* not everywhere, and not without isolation */ } }
  document.addEventListener("visibilitychange", () => { worker.postMessage({ hidden: document.hidden }); if (!document.hidden) stayAwake(); });
  addEventListener("pagehide", () => { if (lease) navigator.sendBeacon("closed", lease); });
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  stayAwake();
  begin();
}

// -- the worker: requests in, answers out ----------------------------------------------------------------------------------------

class Stream {
  constructor(body) { this.reader = body.getReader(); this.chunks = []; this.held = 0; }

  // Exactly so many bytes, or null at the end.
  async bytes(size) {
    while (this.held < size) {
      const { value, done } = await this.reader.read();
      if (done) return null;
      this.chunks.push(value);
      this.held += value.length;
    }
    const out = new Uint8Array(size);
    let at = 0;
    while (at < size) {
      const chunk = this.chunks[0], part = Math.min(chunk.length, size - at);
      out.set(chunk.subarray(0, part), at);
      at += part;
      if (part === chunk.length) this.chunks.shift(); else this.chunks[0] = chunk.subarray(part);
    }
    this.held -= size;
    return out;
  }

  async line() {
    for (let searched = 0, before = 0; ; ) {
      for (; searched < this.chunks.length; searched++) {
        const found = this.chunks[searched].indexOf(10);
        if (found >= 0) return new TextDecoder().decode(await this.bytes(before + found + 1));
        before += this.chunks[searched].length;
      }
      if (before > MAX_LINE_BYTES) throw new Broken(`the request is longer than ${MAX_LINE_BYTES} bytes`);
      const { value, done } = await this.reader.read();
      if (done) return null;
      this.chunks.push(value);
      this.held += value.length;
    }
  }
}

async function serve() {
  let response;
  try {
    response = await fetch("requests", { cache: "no-store" });
    if (!response.ok) {
      postMessage({ say: (await response.text()).slice(0, 300), end: response.status === 409 ? "refused" : "failed" });
      return;
    }
    const lease = response.headers.get("X-Lease"), stream = new Stream(response.body), agent = new Agent(stream);
    postMessage({ lease, say: "Connected. Waiting for a command of the host." });
    for (let line; (line = await stream.line()) !== null; ) {
      const reply = await agent.answer(JSON.parse(line));
      const sent = await fetch("answer", { method: "POST", headers: { "X-Lease": lease }, body: JSON.stringify(reply) });
      if (!sent.ok || reply.bye) break;
    }
    postMessage({ end: "done" });
  } catch (error) {
    postMessage({ end: response?.ok ? "done" : "failed" });
  }
}

// -- measuring -------------------------------------------------------------------------------------------------------------------

let ort; // the library, loaded at hello
let hidden = false, hiddenTimes = 0, wake = () => {};

function heard({ data }) {
  hidden = Boolean(data.hidden);
  if (hidden) hiddenTimes++; else wake();
}

// Lets messages in, between visits and never within one.
function breathe() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { port1.close(); resolve(); };
    port2.postMessage(0);
  });
}

async function inForeground() {
  await breathe();
  while (hidden) {
    postMessage({ say: "Paused: bring this page to the foreground." });
    await new Promise((resolve) => { wake = resolve; });
  }
}

// The smallest step of the clock, in whole microseconds.
function clockStep() {
  let step = Infinity;
  const begin = now();
  for (let last = begin, seen = 0; seen < 200 && last - begin < 100; ) {
    const time = now();
    if (time > last) { step = Math.min(step, time - last); last = time; seen++; }
  }
  return Math.max(1, Math.round(step * 1000));
}

// Standard normal numbers of a seed (mulberry32, Box-Muller).
function normal(seed, size) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 1) / 4294967297;
  };
  return Float32Array.from({ length: size }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

// A model in a live session with its input and output arrays.
class Item {
  static async load(model, seed, groupMs) {
    const item = new Item();
    item.groupMs = groupMs;
    item.model = model;
    item.session = await item.opened();
    try {
      item.feeds = {};
      for (const { name, isTensor, type, shape } of item.session.inputMetadata) {
        const dims = isTensor ? [...shape] : [];
        if (type !== "float32" || !isTensor || !dims.every((size) => Number.isInteger(size) && size > 0)) {
          throw new Refused(`input ${name} is ${type} [${dims}]; only float32 of fixed shape is timed`);
        }
        const elements = dims.reduce((product, size) => product * size, 1);
        if (elements > MAX_TENSOR_ELEMENTS) throw new Refused(`input ${name} has more than ${MAX_TENSOR_ELEMENTS} elements`);
        item.feeds[name] = new ort.Tensor("float32", normal(seed, elements), dims);
      }
      item.fetches = await item.session.run(item.feeds);
      for (const [name, output] of Object.entries(item.fetches)) {
        if (output.data instanceof Float32Array && !output.data.every(Number.isFinite)) throw new Refused(`output ${name} is not finite`);
      }
      await item.findGroup();
    } catch (error) {
      await item.session.release();
      throw error;
    }
    return item;
  }

  opened() {
    return ort.InferenceSession.create(this.model, { executionProviders: ["wasm"], graphOptimizationLevel: "all", executionMode: "sequential", logSeverityLevel: 4 });
  }

  async warmUp(runs) { for (let i = 0; i < runs; i++) await this.session.run(this.feeds, this.fetches); }

  async groupTook() {
    const { session, feeds, fetches, group } = this, start = now();
    for (let i = 0; i < group; i++) await session.run(feeds, fetches);
    return now() - start;
  }

  // How many runs last as long as a group must.
  async findGroup() {
    for (this.group = 1; ; this.group *= 2) {
      const ms = await this.groupTook();
      if (ms >= this.groupMs || this.group >= MAX_GROUP) { this.fit(ms); return; }
    }
  }

  fit(ms) { this.group = Math.min(MAX_GROUP, Math.max(1, Math.ceil((this.group * this.groupMs) / Math.max(ms, 1e-6)))); }

  // Nanoseconds of each run: the mean of its group.
  async timed(runs) {
    const times = [];
    let best = Infinity;
    while (times.length < runs) {
      const ms = await this.groupTook(), each = ns(ms / this.group);
      best = Math.min(best, ms);
      for (let i = 0; i < this.group && times.length < runs; i++) times.push(each);
    }
    this.fit(best); // code gets faster while the browser optimises it, and the device changes its speed
    return times;
  }

  // Nanoseconds of opening the model anew and running it once: the mean of a group, too, where it is short.
  async timedCold(runs) {
    const times = [];
    while (times.length < runs) {
      const start = now();
      let opened = 0;
      do {
        await this.session.release();
        this.session = await this.opened();
        await this.warmUp(1);
        opened++;
      } while (now() - start < this.groupMs);
      const each = ns((now() - start) / opened);
      for (let i = 0; i < opened && times.length < runs; i++) times.push(each);
    }
    return times;
  }
}

async function visit(item, warmups, runs, cold) {
  const last = Math.min(warmups, 1);
  await item.warmUp(warmups - last);
  const at = now();
  await item.warmUp(last);
  const times = await (cold ? item.timedCold(runs) : item.timed(runs));
  return { ns: times, at_ns: Math.round(at * 1e6), wall_ns: ns(now() - at), cpu_ns: null, involuntary: null, psi_us: null, steal_ms: null };
}

async function anchorNs(item, warmups, runs) {
  await item.warmUp(warmups);
  return Math.min(...(await item.timed(runs)));
}

function browserName() {
  const agent = navigator.userAgent;
  const found = /(Firefox|Edg|OPR|SamsungBrowser|HeadlessChrome|Chrome|CriOS|FxiOS)\/(\d+)/.exec(agent) ?? /(Version)\/(\d+).*Safari/.exec(agent);
  return found ? `${found[1] === "Version" ? "Safari" : found[1]} ${found[2]}` : "unknown browser";
}

// What the browser says of itself; it does not say which processor it runs on.
async function describeSystem() {
  let told = {};
  try { told = (await navigator.userAgentData.getHighEntropyValues(["architecture", "bitness", "model", "platformVersion"])) ?? {}; } catch { /* Chromium alone has it */ }
  const cores = navigator.hardwareConcurrency || 1;
  const machine = [told.model, navigator.platform || told.platform || "unknown platform"].filter(Boolean).join(", ");
  const system = { processor: `${machine}, ${cores} logical cores, ${browserName()}`, cores, user_agent: navigator.userAgent };
  for (const key of ["architecture", "bitness", "model", "platform", "platformVersion"]) if (told[key]) system[key.toLowerCase()] = String(told[key]);
  return system;
}

function wholeNumber(request, key, low, high) {
  const value = request[key];
  if (!Number.isInteger(value) || value < low || value > high) throw new Refused(`${key} must be a whole number from ${low} to ${high}, got ${quoted(value)}`);
  return value;
}

class Agent {
  constructor(stream) { this.stream = stream; this.items = new Map(); this.ready = false; }

  async answer(request) {
    const operations = { hello: () => this.hello(request), look: () => this.look(), load: () => this.load(request), run: () => this.run(request), bye: () => ({ ok: true, bye: true }) };
    try {
      const operation = Object.hasOwn(operations, request.op) ? operations[request.op] : undefined;
      if (!operation) throw new Refused(`unknown request ${quoted(request.op)}`);
      return await operation();
    } catch (error) {
      if (error instanceof Broken || error instanceof WebAssembly.RuntimeError) throw error; // after a trap nothing that the module computes is to be trusted
      return { ok: false, error: error instanceof Refused ? error.message : sentence(error) };
    }
  }

  async hello(request) {
    if (request.contract !== CONTRACT) throw new Refused(`this agent speaks contract ${CONTRACT}, the host ${quoted(request.contract)}; use the agent of the same hwnas version`);
    const asked = Object.keys(request.options ?? {});
    if (asked.length) throw new Refused(`unknown option ${quoted(asked[0])}`);
    const threads = wholeNumber(request, "threads", 1, 1024);
    this.seed = wholeNumber(request, "seed", 0, 2 ** 32 - 1);
    if (threads > 1 && !crossOriginIsolated) {
      throw new Refused("this page is not isolated, so WebAssembly has one thread: open it as localhost (adb reverse) or over TLS, or measure with one thread");
    }
    ort = await import("./ort.wasm.min.mjs");
    ort.env.wasm.wasmPaths = new URL(".", import.meta.url).href;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "fatal";
    const step = clockStep();
    this.groupMs = (STEPS * step) / 1000;
    this.ready = true;
    const options = {
      provider: "wasm", simd: true, threads, optimization: "all", isolated: crossOriginIsolated, clock_us: step, group_us: STEPS * step,
      timed: "the mean of a group of runs that lasts group_us or longer", denormals: "kept", outputs: "preallocated",
      reach: "certifies the web only: ONNX Runtime Web in this browser, not native runtimes on the same device",
    };
    return { ok: true, contract: CONTRACT, runtime: "onnxruntime_web", version: String(ort.env.versions.web), options, system: await describeSystem() };
  }

  look() {
    const state = { clock_step_ns: 1000 * clockStep(), isolated: crossOriginIsolated, hidden };
    if (navigator.hardwareConcurrency) state.usable_cores = navigator.hardwareConcurrency;
    return { ok: true, state };
  }

  async load(request) {
    const model = await this.stream.bytes(wholeNumber(request, "bytes", 0, MAX_MODEL_BYTES)); // read even if refused below: the next request starts after it
    if (model === null) throw new Broken("the model was cut short");
    const name = request.item;
    if (!this.ready) throw new Refused("the first request must be hello");
    if (typeof name !== "string" || !name || name.length > 200 || this.items.size >= MAX_ITEMS) {
      throw new Refused(`an item needs a name of 1 to 200 characters, and at most ${MAX_ITEMS} are held`);
    }
    postMessage({ say: `Loading models: ${this.items.size + 1}.` });
    this.items.set(name, await Item.load(model, this.seed + this.items.size, this.groupMs));
    return { ok: true, item: name };
  }

  item(name) {
    if (!this.items.has(name)) throw new Refused(`no item ${quoted(name)} is loaded`);
    return this.items.get(name);
  }

  async run(request) {
    const { items, order, anchor } = request;
    if (!items || typeof items !== "object" || !anchor || typeof anchor !== "object" || !Array.isArray(order) || order.length < 1 || order.length > MAX_VISITS) {
      throw new Refused(`run needs items, an order of 1 to ${MAX_VISITS} visits, and an anchor`);
    }
    const bursts = new Map();
    for (const [name, burst] of Object.entries(items)) {
      if (!burst || typeof burst !== "object") throw new Refused(`item ${quoted(name)} needs warmups and runs`);
      const cold = burst.cold ?? false;
      if (typeof cold !== "boolean") throw new Refused(`cold must be true or false, got ${quoted(cold)}`);
      bursts.set(name, [this.item(name), wholeNumber(burst, "warmups", 0, cold ? 0 : MAX_RUNS), wholeNumber(burst, "runs", 1, MAX_RUNS), cold]);
    }
    if (!order.every((name) => bursts.has(name))) throw new Refused("the order names an item that is not among the items");
    const reference = [this.item(anchor.item), wholeNumber(anchor, "warmups", 0, MAX_RUNS), wholeNumber(anchor, "runs", 1, MAX_RUNS)];
    postMessage({ say: "Measuring." });
    const visits = [];
    let before = null;
    for (let i = 0; i < order.length; ) {
      await inForeground();
      const times = hiddenTimes;
      let report;
      try {
        before ??= await anchorNs(...reference);
        report = await visit(...bursts.get(order[i]));
        const after = await anchorNs(...reference);
        report.anchor_ns = [before, after];
        before = after;
      } catch (error) { // the visit is lost, the others are not
        if (error instanceof WebAssembly.RuntimeError) throw error;
        report = { error: sentence(error) };
        before = null;
      }
      await breathe();
      if (hiddenTimes !== times) { before = null; continue; } // it went to the background meanwhile: once more
      report.item = order[i++];
      visits.push(report);
    }
    return { ok: true, visits };
  }
}

if (typeof document === "undefined") {
  // A runtime's own worker threads load their own files, not this one.
  addEventListener("message", heard);
  serve();
} else {
  page();
}
