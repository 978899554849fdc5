"use strict";
// What a reader can do with the page: read curves off, slide between truth and prediction, turn points in space.
// Everything is complete without it, but for the points. Nothing moves by itself.

const SVG = "http://www.w3.org/2000/svg";

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function told(value, unit) {
  return `${String(value).replace("-", "−")}${unit ? `\u00a0${unit}` : ""}`;
}

// Curves

function readable(plot) {
  const { x, panels } = JSON.parse(plot.dataset.curves);
  const svg = plot.querySelector("svg");
  const series = panels.flatMap((panel) => panel.series);
  if (!series.length) return;
  const places = [...new Set(series.flatMap((one) => one.at.map(([across]) => across)))].sort((a, b) => a - b);
  const swatches = [...plot.parentElement.querySelectorAll(".swatch")];
  const hidden = new Set();
  let current = null;

  const top = Math.min(...panels.map(({ box }) => box[1]));
  const bottom = Math.max(...panels.map(({ box }) => box[3]));
  const cursor = draw("g", { class: "cursor" });
  svg.append(cursor);
  const readout = make("div", { className: "readout", hidden: true });
  const spoken = make("output", { className: "spoken" });
  plot.append(readout, spoken);

  function show(place) {
    current = place;
    cursor.replaceChildren();
    readout.hidden = place === null;
    if (place === null) return;
    cursor.append(draw("line", { x1: place, x2: place, y1: top, y2: bottom }));
    const rows = [];
    let at = "";
    for (const one of series) {
      const index = one.at.findIndex(([across]) => Math.abs(across - place) < 0.06);
      if (index < 0) continue;
      at = one.values[index][0];
      if (hidden.has(one.curve)) continue;
      const [across, down] = one.at[index];
      const dot = draw("circle", { cx: across, cy: down, r: 3 });
      dot.style.stroke = one.colour;
      cursor.append(dot);
      rows.push([one.name, one.colour, told(one.values[index][1], one.unit)]);
    }
    const [, axis, unit] = x.match(/^(.*?)\s*(?:\(([^()]*)\))?$/);
    const heading = `${axis} ${told(at, unit)}`;
    readout.replaceChildren(make("b", { textContent: heading }));
    for (const [name, colour, value] of rows) {
      const dot = make("i");
      dot.style.background = colour;
      readout.append(make("div", {}, dot, `${name} `, make("b", { textContent: value })));
    }
    spoken.textContent = `${heading}: ${rows.map(([name, , value]) => `${name} ${value}`).join(", ")}`;
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const onRight = place * scale > box.width / 2;
    readout.style.left = onRight ? "auto" : `${place * scale + 10}px`;
    readout.style.right = onRight ? `${box.width - place * scale + 10}px` : "auto";
  }

  const nearest = (across) => places.reduce((best, one) => (Math.abs(one - across) < Math.abs(best - across) ? one : best));

  function follow(event) {
    const box = svg.getBoundingClientRect();
    show(nearest(((event.clientX - box.left) * svg.viewBox.baseVal.width) / box.width));
  }
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow); // a finger that taps does not move
  plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(null));
  plot.addEventListener("blur", () => show(null));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const index = current === null ? (step > 0 ? -1 : places.length) : places.indexOf(current);
    if (step) show(places[Math.min(Math.max(index + step, 0), places.length - 1)]);
    else if (event.key === "Home") show(places[0]);
    else if (event.key === "End") show(places.at(-1));
    else if (event.key === "Escape") show(null);
    else return;
    event.preventDefault();
  });
  plot.tabIndex = 0;
  plot.setAttribute("role", "application");
  plot.setAttribute("aria-roledescription", "chart; arrow keys read it");

  swatches.forEach((swatch) => {
    const curve = Number(swatch.dataset.curve);
    const button = make("button", { type: "button", className: "swatch" }, ...swatch.childNodes);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      hidden.has(curve) ? hidden.delete(curve) : hidden.add(curve);
      button.setAttribute("aria-pressed", String(!hidden.has(curve)));
      for (const one of series) {
        if (one.curve === curve) svg.getElementById(one.id).style.display = hidden.has(curve) ? "none" : "";
      }
      show(current);
    });
    swatch.replaceWith(button);
  });
}

// Slider between truth and prediction

function comparable(tiles) {
  const [truth, prediction] = [tiles.querySelector(".truth img"), tiles.querySelector(".prediction img")];
  const over = truth.cloneNode();
  over.alt = "";
  const slider = make("input", { type: "range", min: 0, max: 100, step: 1, value: 50 });
  slider.setAttribute("aria-label", `${truth.alt} on the left, predicted on the right: where they meet, in percent`);
  const stage = make("div", { className: "stage" });
  prediction.replaceWith(stage);
  stage.append(prediction, over, make("i", { className: "edge" }), slider);
  const move = () => stage.style.setProperty("--at", `${slider.value}%`);
  slider.addEventListener("input", move);
  move();
  tiles.querySelector(".prediction figcaption").prepend(make("span", { className: "sides", textContent: "True depth" }));
}

// Points in space

function turnable(root) {
  const canvas = root.querySelector("canvas");
  const context = canvas.getContext("2d");
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const frames = JSON.parse(root.querySelector("script").textContent).map((frame) => ({
    ...frame,
    rgb: bytes(frame.rgb),
    truth: new Uint16Array(bytes(frame.truth_mm).buffer),
    prediction: new Uint16Array(bytes(frame.prediction_mm).buffer),
  }));
  const start = { yaw: 0.32, pitch: -0.2, zoom: 1 };
  const view = { ...start, frame: 0, depth: "prediction" };
  let waiting = false;

  // Points of a frame in metres, and their mean: truth and prediction turn around one place, to be compared.
  function placed(frame, depth) {
    const { rows, columns, fx, fy, cx, cy } = frame;
    const points = new Float32Array(3 * rows * columns);
    const mean = [0, 0, 0];
    let known = 0;
    for (let row = 0, point = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++, point++) {
        const z = depth[point] / 1000;
        if (!z) continue;
        points.set([(((column + 0.5) / columns - cx) / fx) * z, (((row + 0.5) / rows - cy) / fy) * z, z], 3 * point);
        for (let axis = 0; axis < 3; axis++) mean[axis] += points[3 * point + axis];
        known++;
      }
    }
    return { points, mean: mean.map((sum) => sum / Math.max(known, 1)) };
  }

  function paint() {
    waiting = false;
    const { width, height } = canvas;
    const frame = frames[view.frame];
    const { rows, columns, rgb } = frame;
    const { points } = (frame[`${view.depth}_points`] ??= placed(frame, frame[view.depth]));
    const pivot = (frame.pivot ??= placed(frame, frame.prediction).mean);
    const away = (pivot[2] * 1.2) / view.zoom;
    const [cosYaw, sinYaw, cosPitch, sinPitch] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
    const focal = frame.fx * width;
    const count = rows * columns;
    const [left, top, far] = [new Float32Array(count), new Float32Array(count), new Float32Array(count)];
    for (let point = 0; point < count; point++) {
      if (!points[3 * point + 2]) continue;
      const [x, y, z] = [points[3 * point] - pivot[0], points[3 * point + 1] - pivot[1], points[3 * point + 2] - pivot[2]];
      const ahead = z * cosYaw - x * sinYaw;
      far[point] = ahead * cosPitch + y * sinPitch + away;
      left[point] = width / 2 + (focal * (x * cosYaw + z * sinYaw)) / far[point];
      top[point] = height / 2 + (focal * (y * cosPitch - ahead * sinPitch)) / far[point];
    }
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const nearest = new Float32Array(width * height).fill(Infinity);
    // A point reaches its neighbour where both lie on one surface: no holes in a slanted floor, none across an edge.
    const reach = (point, other, along) =>
      Math.abs(points[3 * point + 2] - points[3 * other + 2]) < 0.12 * points[3 * point + 2] ? Math.abs(along[other] - along[point]) : 0;
    for (let row = 0, point = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++, point++) {
        if (far[point] < 0.1) continue;
        const cell = (width / columns) * (points[3 * point + 2] / far[point]);
        const [beside, below] = [column + 1 < columns ? point + 1 : point, row + 1 < rows ? point + columns : point];
        const across = Math.min(Math.ceil(Math.max(cell, reach(point, beside, left))) + 1, 40);
        const down = Math.min(Math.ceil(Math.max(cell, reach(point, below, top))) + 1, 40);
        const colour = 0xff000000 | (rgb[3 * point + 2] << 16) | (rgb[3 * point + 1] << 8) | rgb[3 * point];
        const [u0, v0] = [Math.round(left[point] - across / 2), Math.round(top[point] - down / 2)];
        for (let v = Math.max(v0, 0); v < Math.min(v0 + down, height); v++) {
          for (let u = Math.max(u0, 0); u < Math.min(u0 + across, width); u++) {
            const place = v * width + u;
            if (far[point] < nearest[place]) {
              nearest[place] = far[point];
              pixels[place] = colour;
            }
          }
        }
      }
    }
    context.putImageData(image, 0, 0);
  }

  function change(what) {
    Object.assign(view, what);
    view.pitch = Math.min(Math.max(view.pitch, -1.4), 1.4);
    view.zoom = Math.min(Math.max(view.zoom, 0.4), 5);
    if (!waiting) requestAnimationFrame(paint);
    waiting = true;
  }

  const turns = {
    left: () => ({ yaw: view.yaw - 0.12 }),
    right: () => ({ yaw: view.yaw + 0.12 }),
    up: () => ({ pitch: view.pitch + 0.12 }),
    down: () => ({ pitch: view.pitch - 0.12 }),
    nearer: () => ({ zoom: view.zoom * 1.15 }),
    farther: () => ({ zoom: view.zoom / 1.15 }),
    back: () => start,
  };
  const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", "+": "nearer", "=": "nearer", "-": "farther", "−": "farther", 0: "back", Home: "back" };
  canvas.addEventListener("keydown", (event) => {
    const turn = keys[event.key];
    if (!turn) return;
    event.preventDefault();
    change(turns[turn]());
  });
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) change({ yaw: view.yaw + event.movementX * 0.008, pitch: view.pitch - event.movementY * 0.008 });
  });
  function choose(buttons, chosen) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === chosen));
  }
  const [ofFrame, ofDepth] = [root.querySelectorAll("[data-frame]"), root.querySelectorAll("[data-depth]")];
  for (const button of ofFrame) {
    button.addEventListener("click", () => {
      choose(ofFrame, button);
      change({ frame: Number(button.dataset.frame) });
      root.querySelector(".title").textContent = frames[view.frame].title;
    });
  }
  for (const button of ofDepth) {
    button.addEventListener("click", () => {
      choose(ofDepth, button);
      change({ depth: button.dataset.depth });
    });
  }
  for (const button of root.querySelectorAll("[data-turn]")) {
    button.addEventListener("click", () => change(turns[button.dataset.turn]()));
  }
  paint();
}

document.documentElement.classList.add("scripted");
document.querySelectorAll(".plot").forEach(readable);
document.querySelectorAll(".frame .tiles").forEach(comparable);
document.querySelectorAll(".cloud").forEach(turnable);
