"use strict";
const $ = (id) => document.getElementById(id);
const COLORS = ["#e6194b", "#0b84a5", "#f6a800", "#6f4e7c", "#3c9d4e", "#ca472f"];
let image = null; // {file, bitmap}
let names = [];
let token = "";
let latest = 0; // number of the newest question about the image

async function ask(path, form) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { method: "POST", body: form, headers });
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  if (response.status === 401) $("token-form").hidden = false;
  const detail = answer.detail;
  throw new Error(typeof detail === "string" ? detail : `the server answered ${response.status}`);
}

function form(fields) {
  const data = new FormData();
  for (const [name, value] of fields) data.append(name, value);
  return data;
}

function draw(overlay, objects) {
  const { bitmap } = image;
  const canvas = $("canvas");
  const scale = Math.min(1, 1200 / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (overlay) {
    const side = Math.min(canvas.width, canvas.height);
    const left = (canvas.width - side) / 2;
    const top = (canvas.height - side) / 2;
    context.drawImage(overlay, left, top, side, side);
  }
  const unit = Math.max(2, canvas.width / 300);
  context.lineWidth = unit;
  context.font = `600 ${Math.max(12, 6 * unit)}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const item of objects || []) {
    const [left, top, right, bottom] = item.box.map((value) => value * scale);
    const color = COLORS[names.indexOf(item.label) % COLORS.length] || COLORS[0];
    context.strokeStyle = context.fillStyle = color;
    context.strokeRect(left, top, right - left, bottom - top);
    const text = `${item.label} ${item.score.toFixed(2)}`;
    const height = Math.max(14, 7 * unit);
    const y = top > height ? top - height : top;
    context.fillRect(left - unit / 2, y, context.measureText(text).width + 6, height);
    context.fillStyle = "#fff";
    context.fillText(text, left + 2, y + 1);
  }
  canvas.setAttribute("aria-label", objects ? `the image with ${objects.length} boxes` : "the image");
  $("stage").hidden = false;
}

async function overlayOf(heatmap) {
  const bytes = Uint8Array.from(atob(heatmap.png), (char) => char.charCodeAt(0));
  const gray = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = document.createElement("canvas");
  canvas.width = gray.width;
  canvas.height = gray.height;
  const context = canvas.getContext("2d");
  context.drawImage(gray, 0, 0);
  const pixels = context.getImageData(0, 0, gray.width, gray.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const value = pixels.data[at] / 255; // from clear over orange to red
    pixels.data[at] = 255;
    pixels.data[at + 1] = Math.round(200 * (1 - value));
    pixels.data[at + 2] = 0;
    pixels.data[at + 3] = Math.round(190 * value * value);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

async function take(file) {
  if (!file) return;
  $("image-error").textContent = "";
  $("scores").replaceChildren();
  $("scores-hint").hidden = true;
  try {
    image = { file, bitmap: await createImageBitmap(file) };
    $("drop-text").textContent = `${file.name}; drop or choose another`;
    draw();
    $("caption").textContent = "";
  } catch { // this browser does not show it; the server may still read it, or says why not
    image = { file, bitmap: null };
    $("stage").hidden = true;
    $("drop-text").textContent = file.name;
  }
  await classify();
}

async function classify() {
  if (!image) {
    $("image-error").textContent = "choose an image first";
    return;
  }
  const asked = ++latest;
  const labels = $("labels").value;
  names = labels.split(",").map((part) => part.trim()).filter(Boolean);
  $("go").disabled = true;
  $("image-error").textContent = "";
  try {
    const fields = [["image", image.file], ["labels", labels]];
    const found = await ask("classify", form(fields));
    if (asked !== latest) return;
    show(found.labels);
    if ($("boxes").checked && image.bitmap) {
      const detected = await ask("detect", form(fields));
      if (asked !== latest) return;
      draw(null, detected.objects);
      $("caption").textContent = detected.objects.length
        ? `${detected.objects.length} objects` : "no object of these labels was found";
    }
  } catch (error) {
    if (asked === latest) $("image-error").textContent = error.message;
  } finally {
    if (asked === latest) $("go").disabled = false;
  }
}

function show(labels) {
  const items = labels.slice(0, 20).map(({ label, probability }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = label;
    const bar = document.createElement("span");
    bar.className = "bar";
    const part = document.createElement("span");
    part.style.width = `${100 * probability}%`;
    bar.append(part);
    const value = document.createElement("span");
    value.className = "value";
    value.textContent = `${(100 * probability).toFixed(1)}%`;
    button.append(name, bar, value);
    button.addEventListener("click", () => locate(label, button));
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  $("scores").replaceChildren(...items);
  $("scores-hint").hidden = !image.bitmap;
}

async function locate(label, button) {
  if (!image.bitmap) return;
  const asked = ++latest;
  $("image-error").textContent = "";
  try {
    const found = await ask("heatmap", form([["image", image.file], ["text", label]]));
    if (asked !== latest) return;
    draw(await overlayOf(found));
    for (const other of $("scores").querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    $("caption").textContent =
      `${label}: cosines from ${found.low.toFixed(3)} (clear) to ${found.high.toFixed(3)} (red)`;
  } catch (error) {
    if (asked === latest) $("image-error").textContent = error.message;
  }
}

async function search() {
  const text = $("query").value.trim();
  if (!text) return;
  $("search-error").textContent = "";
  $("search-status").textContent = "searching …";
  try {
    const fields = [["text", text], ["k", "24"]];
    if ($("rare").checked) fields.push(["probability", "0.01"]);
    const { hits } = await ask("search", form(fields));
    $("search-status").textContent = hits.length ? `${hits.length} images` : "no image fits";
    $("hits").replaceChildren(...(await Promise.all(hits.map(hitItem))));
  } catch (error) {
    $("search-status").textContent = "";
    $("hits").replaceChildren();
    $("search-error").textContent = error.message;
  }
}

async function hitItem(hit) {
  const item = document.createElement("li");
  const picture = document.createElement("img");
  picture.alt = "";
  picture.loading = "lazy";
  if (token) { // an <img> shows no token
    const response = await fetch(hit.image, { headers: { authorization: `Bearer ${token}` } });
    if (response.ok) picture.src = URL.createObjectURL(await response.blob());
  } else {
    picture.src = hit.image;
  }
  const odds = hit.probability === null ? 0 : Math.round(1 / Math.max(hit.probability, 1e-6));
  const rarity = odds >= 2 ? `, 1 in ${odds.toLocaleString("en")}` : "";
  item.append(picture, document.createTextNode(`${hit.path} ${hit.score.toFixed(3)}${rarity}`));
  return item;
}

async function start() {
  try {
    const health = await (await fetch("health")).json();
    $("model").textContent = `${health.name}, ${health.address}`;
    $("boxes-choice").hidden = !health.boxes;
    $("boxes").checked = health.boxes;
    $("search").hidden = health.index === null;
    $("token-form").hidden = !health.token;
  } catch {
    $("model").textContent = "the server does not answer";
  }
}

$("file").addEventListener("change", (event) => take(event.target.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
$("drop").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") $("file").click();
});
$("label-form").addEventListener("submit", (event) => { event.preventDefault(); classify(); });
$("boxes").addEventListener("change", () => image && classify());
$("search-form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token-form").hidden = true;
});
start();
