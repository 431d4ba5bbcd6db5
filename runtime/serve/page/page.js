// The page: it asks /api/model once, draws with POST /api/pictures, and keeps this session's pictures in memory.

const KEPT = 60; // pictures of the history: the oldest goes when there are more
const by = (id) => document.getElementById(id);
const NUMBERS = ["num_inference_steps", "guidance_scale", "seed", "width", "height"];
const history = []; // {url, facts, seed, button}
let drawing = null; // the AbortController of the picture under way
let key = "";

function headers(more = {}) {
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

// ---- what the server can draw

async function readModel() {
  const response = await fetch("/api/model", { headers: headers() });
  if (!response.ok) throw await problem(response);
  const model = await response.json();
  by("model").textContent = `${model.name} · ${model.licence}`;
  options(by("sampler"), model.samplers, model.default_sampler);
  options(by("decoder"), model.decoders, model.default_decoder);
  by("prompt").maxLength = by("negative_prompt").maxLength = model.max_prompt_chars;
  const values = {
    num_inference_steps: model.default_steps, guidance_scale: model.default_guidance_scale,
    width: model.default_size, height: model.default_size,
  };
  for (const [name, value] of Object.entries(values)) by(name).value = value;
  by("num_inference_steps").max = model.max_steps;
  for (const side of ["width", "height"]) {
    by(side).min = by(side).step = model.size_multiple;
    by(side).max = Math.floor(model.max_pixels / model.size_multiple);
  }
}

function options(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name, name, name === chosen, name === chosen)));
}

// ---- drawing

async function generate() {
  if (drawing || !by("form").reportValidity()) return;
  drawing = new AbortController();
  busy(true, "Waiting for its turn…");
  try {
    const response = await fetch("/api/pictures", {
      method: "POST", signal: drawing.signal, body: JSON.stringify(asked()),
      headers: headers({ "Content-Type": "application/json" }),
    });
    if (!response.ok) throw await problem(response);
    for await (const [kind, data] of events(response.body)) {
      if (kind === "progress") progress(data);
      else if (kind === "picture") finished(data);
      else throw new Error(data.detail);
    }
  } catch (error) {
    failed(error);
  } finally {
    drawing = null;
    busy(false);
  }
}

function asked() {
  const fields = Object.fromEntries(new FormData(by("form")));
  for (const name of NUMBERS) fields[name] = fields[name] === "" ? null : Number(fields[name]);
  return fields;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, kind, data] = part.match(/^event: (\w+)\ndata: (.*)$/);
      yield [kind, JSON.parse(data)];
      if (kind !== "progress") return;
    }
  }
  throw new Error("the connection ended before the picture was done: ask again");
}

function progress({ step, steps, preview }) {
  by("progress").max = steps;
  by("progress").value = step;
  by("status").textContent = step === steps ? "Decoding…" : `Step ${step} of ${steps}`;
  if (preview) show(url(preview, "image/jpeg"), `Preview, step ${step} of ${steps}`);
}

function finished({ png, facts, seed, flagged }) {
  const picture = { url: url(png, "image/png"), facts, seed, button: null };
  history.unshift(picture);
  remember(picture);
  open(picture);
  by("status").textContent = flagged ? "The safety checker flagged this picture: it is black." : "Done.";
}

function failed(error) {
  if (error.name === "AbortError") {
    by("status").textContent = "Cancelled.";
    if (history.length) open(history[0]);
    else show(null, "");
    return;
  }
  by("status").textContent = "No picture.";
  by("error").textContent = error.message;
  by("error").hidden = false;
  if (error.status === 401) {
    by("key_field").hidden = false;
    by("key").focus();
  }
}

async function problem(response) {
  const told = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  const error = new Error((told.detail ?? `the server answered ${response.status}`) + (wait ? ` (try again in ${wait} s)` : ""));
  error.status = response.status;
  return error;
}

function busy(now, words) {
  by("generate").disabled = now;
  by("cancel").disabled = !now;
  by("picture").setAttribute("aria-busy", now);
  if (!now) return;
  by("error").hidden = true;
  by("progress").value = 0;
  by("status").textContent = words;
  for (const id of ["actions", "provenance"]) by(id).hidden = true;
}

// ---- pictures

function url(base64, type) {
  return URL.createObjectURL(new Blob([Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0))], { type }));
}

function show(source, words) {
  const image = by("picture"), before = image.src;
  image.hidden = source === null;
  if (source !== null) image.src = source;
  image.alt = words;
  by("caption").textContent = words;
  if (before && before !== source && !history.some((one) => one.url === before)) URL.revokeObjectURL(before);
}

function open(picture) {
  const { facts, seed } = picture;
  show(picture.url, facts.prompt || "A picture without a prompt");
  by("download").href = picture.url;
  by("download").download = `latentrt-${seed}.png`;
  by("again").onclick = () => reuse(picture);
  by("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
  for (const id of ["actions", "provenance"]) by(id).hidden = false;
  for (const one of history) one.button.toggleAttribute("aria-current", one === picture);
}

function make(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function remember(picture) {
  const image = document.createElement("img"), item = document.createElement("li");
  image.src = picture.url;
  image.alt = `${picture.facts.prompt || "no prompt"}, seed ${picture.seed}`;
  picture.button = document.createElement("button");
  picture.button.type = "button";
  picture.button.append(image);
  picture.button.onclick = () => drawing || open(picture);
  item.append(picture.button);
  by("history").prepend(item);
  by("history_title").hidden = false;
  if (history.length > KEPT) {
    const oldest = history.pop();
    oldest.button.parentElement.remove();
    URL.revokeObjectURL(oldest.url);
  }
}

function reuse({ facts, seed }) {
  const [width, height] = facts.size.split("x");
  const values = {
    prompt: facts.prompt, negative_prompt: facts.negative_prompt, sampler: facts.sampler, num_inference_steps: facts.steps,
    guidance_scale: facts.guidance_scale, decoder: facts.decoder, prompt_syntax: facts.prompt_syntax ?? "plain",
    seed, width, height,
  };
  for (const [name, value] of Object.entries(values)) by(name).value = value ?? "";
  by("prompt").focus();
}

// ---- keys and buttons

by("form").addEventListener("submit", (event) => { event.preventDefault(); generate(); });
by("cancel").addEventListener("click", () => drawing?.abort());
by("key").addEventListener("change", () => { key = by("key").value; readModel().catch(failed); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); generate(); }
  if (event.key === "Escape") drawing?.abort();
});

readModel().catch(failed);
