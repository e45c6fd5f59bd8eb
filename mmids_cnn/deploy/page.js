// The page: strokes and examples in, answers out. All that it knows of the network is in the element `data`.

function start() {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const { height, width, classes } = data;
  const networks = data.checkpoints.map((one) => withWeights(data.layers, floatsOf(one.weights)));
  const examples = data.examples.map((one) => ({ ...one, pixels: bytesOf(one.pixels) }));
  const first = data.checkpoints.findIndex((one) => one.step === data.step);

  let strokes = []; // of points, in units of the pad's width
  let pointer = null; // the one that draws: a second finger, or the palm beside a pen, does not
  let example = null; // shown in place of strokes
  let network = networks[first];
  let image = null; // what the network sees, null where nothing is drawn
  let found = null; // what comes out of each layer
  let scheduled = false;
  let looking = 0; // counts up, so that an old search for what matters ends

  const percent = (p) => (p > 0.999 && p < 1 ? "> 99.9 %" : `${(100 * p).toFixed(1)} %`);
  const element = (parent, tag, className = "", text = "") => {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = text;
    return parent.appendChild(made);
  };

  // ---- pictures

  /** Fills a canvas pixel by pixel; `colourOf(index)` gives [red, green, blue], `opacityOf(index)` 0 to 255. */
  function paint(canvas, columns, rows, colourOf, opacityOf = () => 255) {
    if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
    const context = canvas.getContext("2d");
    const picture = context.createImageData(columns, rows);
    for (let index = 0; index < columns * rows; index++) {
      picture.data.set(colourOf(index), 4 * index);
      picture.data[4 * index + 3] = opacityOf(index);
    }
    context.putImageData(picture, 0, 0);
  }

  // As matplotlib's "magma", whose steps look equal: black for nothing, in a dark page and in a light one.
  const HEAT = ["#000004", "#231151", "#5f187f", "#982d80", "#d3436e", "#f8765c", "#febb81", "#fcfdbf"].map(rgb);
  const [ADDS, TAKES] = ["#e8590c", "#1c6fd6"].map(rgb);

  function rgb(hex) {
    return [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
  }

  const mixed = (a, b, share) => a.map((value, index) => value + (b[index] - value) * share);

  function heat(value) {
    const place = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1);
    const below = Math.min(Math.floor(place), HEAT.length - 2);
    return mixed(HEAT[below], HEAT[below + 1], place - below);
  }

  const HEATS = Array.from({ length: 256 }, (_, index) => heat(index / 255)); // painting is most of a frame

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function paintGrey(canvas, pixels) {
    paint(canvas, width, height, (index) => Array(3).fill(pixels ? pixels[index] : 0));
  }

  // ---- the pad

  const pad = at("pad");
  pad.style.aspectRatio = `${width} / ${height}`;

  function paintPad() {
    const scale = Math.max(1, Math.round(pad.clientWidth * (window.devicePixelRatio || 1)));
    [pad.width, pad.height] = [scale, Math.round((scale * height) / width)];
    const context = pad.getContext("2d");
    context.fillStyle = context.strokeStyle = colour("--ink");
    if (example) {
      const ink = rgb(colour("--ink"));
      const small = document.createElement("canvas");
      paint(small, width, height, () => ink, (index) => example.pixels[index]);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, 0, 0, pad.width, pad.height);
    }
    context.lineWidth = scale / 14;
    context.lineCap = context.lineJoin = "round";
    for (const stroke of strokes) {
      context.beginPath();
      for (const [x, y] of stroke) context.lineTo(x * scale, y * scale);
      if (stroke.length === 1) context.lineTo(stroke[0][0] * scale, stroke[0][1] * scale); // a dot
      context.stroke();
    }
  }

  function point(event) {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.width];
  }

  pad.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    event.preventDefault(); // no selection of text begins
    pad.focus({ focusVisible: false });
    pad.setPointerCapture(event.pointerId); // so that a stroke may leave the pad and come back
    pointer = event.pointerId;
    if (example) show(null);
    strokes.push([point(event)]);
    change();
  });
  pad.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const between = event.getCoalescedEvents ? event.getCoalescedEvents() : []; // all that came since the last frame
    strokes.at(-1).push(...(between.length ? between : [event]).map(point));
    change();
  });
  for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
    pad.addEventListener(type, (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null;
      requestAnimationFrame(announce);
    });
  }

  function undo() {
    example ? show(null) : strokes.pop();
    change();
    requestAnimationFrame(announce);
  }

  function clear() {
    strokes = [];
    show(null);
    requestAnimationFrame(announce);
  }

  at("undo").addEventListener("click", undo);
  at("clear").addEventListener("click", clear);
  document.addEventListener("keydown", (event) => {
    const isUndo = event.key === "Backspace" || ((event.ctrlKey || event.metaKey) && event.key === "z");
    if (isUndo || event.key === "Escape") {
      event.preventDefault();
      if (!at("kernel").hidden) hideKernel();
      else if (isUndo) undo();
      else clear();
    }
  });

  // ---- answers

  const bars = classes.map((name) => {
    const row = element(at("bars"), "li");
    element(row, "span", "", name);
    const bar = element(element(row, "span", "track"), "div", "bar");
    return { row, bar, share: element(row, "span", "share") };
  });
  at("bars").classList.toggle("many", classes.length > 12);

  /** Something was drawn: all is computed once before the next frame, however many events come. */
  function change() {
    stopLooking();
    if (!scheduled) requestAnimationFrame(update);
    scheduled = true;
  }

  function update() {
    scheduled = false;
    image = example ? example.pixels : imageOf(strokes, height, width);
    found = image && outputs(network, image, height, width);
    const answer = image && softmax(Array.from(found.at(-1).values));
    const order = image && [...answer.keys()].sort((a, b) => answer[b] - answer[a]);
    paintPad();
    paintGrey(at("seen"), image);
    at("hint").hidden = Boolean(image);
    for (const id of ["undo", "clear", "look"]) at(id).disabled = !image;
    bars.forEach(({ row, bar, share }, index) => {
      bar.style.transform = `scaleX(${image ? answer[index] : 0})`;
      share.textContent = image ? percent(answer[index]) : "";
      row.classList.toggle("first", Boolean(image) && index === order[0]);
    });
    at("best").textContent = image ? classes[order[0]] : "?";
    at("best").classList.toggle("none", !image);
    at("best").classList.toggle("long", Boolean(image) && classes[order[0]].length > 2);
    at("sure").textContent = image ? sureness(answer, order) : "draw something";
    paintMaps();
  }

  function sureness(answer, order) {
    const [p, second] = [answer[order[0]], order[1]];
    const said = percent(p) + (p < 0.6 && order.length > 1 ? `, not sure: it may be ${classes[second]}` : " sure");
    if (!example) return said;
    return `${said}. Test image ${example.index} is ${classes[example.label]}`;
  }

  /** Tells those who cannot see the bars: once, when a stroke has ended. */
  function announce() {
    const says = image ? `${at("best").textContent}, ${at("sure").textContent}` : "draw something";
    at("live").textContent = says;
  }

  // ---- what the answer relies on

  function stopLooking() {
    looking++;
    at("look").setAttribute("aria-pressed", "false");
    at("looked").textContent = "";
  }

  at("look").addEventListener("click", async () => {
    const pressed = at("look").getAttribute("aria-pressed") === "true";
    stopLooking();
    paintGrey(at("seen"), image);
    if (pressed || !image) return;
    at("look").setAttribute("aria-pressed", "true");
    at("looked").textContent = "A black square slides over the image \u2026";
    const mine = looking;
    const [shown, layers] = [image, network]; // as they are now
    const before = softmax(logits(layers, shown, height, width));
    const best = before.indexOf(Math.max(...before));
    const half = Math.max(1, Math.round((5 / 28) * Math.min(height, width)) >> 1);
    const drops = new Float64Array(height * width);
    let worst = { drop: 0, after: before };
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const covered = withSquare(shown, x, y, half);
        if (!covered) continue; // nothing was there to cover
        const after = softmax(logits(layers, covered, height, width));
        const drop = (drops[y * width + x] = before[best] - after[best]);
        if (drop > worst.drop) worst = { drop, after };
      }
      await new Promise(requestAnimationFrame); // a row a frame: the page stays alive
      if (mine !== looking) return;
    }
    const most = Math.max(worst.drop, 0.02); // a drop of no account is not made to look large
    paint(at("seen"), width, height, (index) => {
      const grey = Array(3).fill(0.75 * shown[index]);
      const share = drops[index] / most;
      return mixed(grey, share > 0 ? ADDS : TAKES, Math.min(Math.abs(share), 1) * 0.9);
    });
    const then = worst.after.indexOf(Math.max(...worst.after));
    const falls = `${percent(before[best])} to ${percent(worst.after[best])}`;
    const says = then === best ? "" : `, and the network says ${classes[then]}`;
    at("looked").textContent =
      worst.drop < 0.02
        ? `No black square of ${2 * half + 1}\u00d7${2 * half + 1} pixels takes ${classes[best]} away from it.`
        : `Orange: what it relies on. A black square on the strongest spot, and ${classes[best]} falls from ${falls}${says}.`;
    at("live").textContent = at("looked").textContent;
  });

  function withSquare(pixels, x, y, half) {
    const covered = pixels.slice();
    let ink = 0;
    for (let row = Math.max(y - half, 0); row <= Math.min(y + half, height - 1); row++) {
      for (let column = Math.max(x - half, 0); column <= Math.min(x + half, width - 1); column++) {
        ink += covered[row * width + column];
        covered[row * width + column] = 0;
      }
    }
    return ink ? covered : null;
  }

  // ---- examples

  function show(one) {
    example = one;
    if (one) strokes = [];
    for (const { button, of } of buttons) button.setAttribute("aria-pressed", String(of === one));
    change();
  }

  const buttons = examples.map((one) => {
    const said = one.logits.indexOf(Math.max(...one.logits));
    const isRight = said === one.label;
    const button = element(at(isRight ? "right" : "wrong"), "button");
    paintGrey(element(button, "canvas"), one.pixels);
    element(button, "span", "", isRight ? classes[said] : `${classes[one.label]} \u2192 ${classes[said]}`);
    const told = isRight ? "" : `, which the network takes for ${classes[said]}`;
    button.setAttribute("aria-label", `Test image ${one.index}: ${classes[one.label]}${told}`);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      show(one);
      requestAnimationFrame(announce);
    });
    return { button, of: one };
  });
  for (const id of ["right", "wrong"]) if (!at(id).children.length) element(at(id), "p", "small", "none");

  // ---- epochs

  const slider = at("epoch");
  at("epochs").hidden = networks.length === 1;
  slider.max = networks.length - 1;
  slider.value = first;
  slider.addEventListener("input", () => {
    network = networks[slider.value];
    tellEpoch();
    change();
    requestAnimationFrame(announce);
  });

  function tellEpoch() {
    const { epoch, step, accuracy } = data.checkpoints[slider.value];
    const when = epoch === null ? `step ${step}` : `epoch ${+epoch.toFixed(2)}`;
    at("when").textContent = accuracy === null ? when : `${when}: ${(100 * accuracy).toFixed(2)} % of the test split`;
    slider.setAttribute("aria-valuetext", at("when").textContent);
  }
  tellEpoch();

  // ---- maps and kernels

  const MOST_MAPS = 64; // of a block: more would be neither seen nor fast
  const shownAt = data.layers.flatMap((layer, index) => (layer.shown ? [index] : []));
  const known = examples.map((one) => outputs(networks[first], one.pixels, height, width));

  const blocks = shownAt.map((index, number) => {
    const size = known.length ? known[0][index] : outputs(network, new Uint8Array(height * width), height, width)[index];
    // One scale for a block, whatever is drawn: the largest value that any example has.
    const top = Math.max(1e-6, ...known.map((out) => out[index].values.reduce((a, b) => Math.max(a, b), 0)));
    const count = Math.min(size.channels, MOST_MAPS);
    const conv = data.layers.findLastIndex((layer, before) => before < index && layer.op === "conv");
    const left = size.channels > count ? ` (the first ${count} of ${size.channels})` : "";
    element(at("blocks"), "h3", "", `Block ${number + 1}: ${count} maps of ${size.height}\u00d7${size.width}${left}`);
    const legend = element(at("blocks"), "div", "scale", "0");
    paint(element(legend, "canvas"), 96, 1, (place) => HEATS[Math.round((place / 95) * 255)]);
    element(legend, "span", "", top.toFixed(1));
    const maps = element(at("blocks"), "div", "maps");
    maps.setAttribute("role", "group");
    maps.setAttribute("aria-label", `Maps of block ${number + 1}; arrow keys go from one to the next`);
    const block = { index, number, top, conv, canvases: [] };
    for (let map = 0; map < count; map++) {
      const canvas = element(maps, "canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Map ${map + 1} of ${count}`);
      canvas.tabIndex = map ? -1 : 0; // one stop of the tab key a block
      canvas.addEventListener("pointerenter", () => showKernel(block, map));
      canvas.addEventListener("focus", () => showKernel(block, map));
      canvas.addEventListener("blur", hideKernel);
      canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hideKernel());
      canvas.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const next = block.canvases[map + step];
        if (!next) return;
        event.preventDefault();
        [canvas.tabIndex, next.tabIndex] = [-1, 0];
        next.focus();
      });
      block.canvases.push(canvas);
    }
    return block;
  });

  function paintMap(canvas, { index, top }, map) {
    const size = known.length ? known[0][index] : found[index];
    const values = found && found[index].values;
    const colourOf = (place) => {
      const value = values ? values[place * size.channels + map] / top : 0;
      return HEATS[Math.min(255, Math.round(255 * value))];
    };
    paint(canvas, size.width, size.height, colourOf);
  }

  function paintMaps() {
    for (const block of blocks) block.canvases.forEach((canvas, map) => paintMap(canvas, block, map));
  }

  function showKernel(block, map) {
    const { kernel, bias } = network[block.conv].weights;
    const [rows, columns, channels, features] = data.layers[block.conv].arrays.kernel;
    const across = Math.ceil(Math.sqrt(channels)); // kernels side by side, a line between them
    const down = Math.ceil(channels / across);
    const own = kernel.filter((_, index) => index % features === map);
    const most = own.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9);
    const [zero, line] = [rgb(colour("--zero")), rgb(colour("--card"))];
    const wide = across * (columns + 1) - 1;
    paint(at("weights"), wide, down * (rows + 1) - 1, (place) => {
      const [y, x] = [Math.floor(place / wide), place % wide];
      const channel = Math.floor(y / (rows + 1)) * across + Math.floor(x / (columns + 1));
      const [i, j] = [y % (rows + 1), x % (columns + 1)];
      if (i === rows || j === columns || channel >= channels) return line;
      const value = kernel[((i * columns + j) * channels + channel) * features + map] / most;
      return mixed(zero, value > 0 ? ADDS : TAKES, Math.abs(value));
    });
    paintMap(at("enlarged"), block, map);
    const from = block.number ? `the ${channels} maps of block ${block.number}, each` : "the image";
    const plus = bias ? ` Then ${bias[map] < 0 ? "\u2212" : "+"} ${Math.abs(bias[map]).toPrecision(2)}.` : "";
    at("reads").textContent =
      `Block ${block.number + 1}, map ${map + 1}: sums ${from} under a ${rows}\u00d7${columns} kernel ` +
      `that slides over it; orange adds, blue takes away.${plus} What is below 0 becomes 0.`;
    const panel = at("kernel");
    panel.hidden = false;
    const box = block.canvases[map].getBoundingClientRect();
    const room = document.documentElement.clientWidth - panel.offsetWidth - 8;
    const below = box.bottom + panel.offsetHeight + 8 < window.innerHeight;
    const top = below ? box.bottom + 8 : box.top - panel.offsetHeight - 8;
    panel.style.left = `${Math.max(8, Math.min(box.left, room)) + window.scrollX}px`;
    panel.style.top = `${Math.max(top, 8) + window.scrollY}px`;
  }

  function hideKernel() {
    at("kernel").hidden = true;
  }

  document.addEventListener("pointerdown", (event) => event.target.closest(".maps") || hideKernel());

  // ---- what it is, and whether it is that

  const began = performance.now();
  const gaps = examples.map((one) => {
    const here = logits(networks[first], one.pixels, height, width);
    return Math.max(...here.map((value, index) => Math.abs(value - one.logits[index])));
  });
  const each = (performance.now() - began) / Math.max(examples.length, 1);
  at("lead").textContent = `Draw with mouse, pen or finger: a small network in this page says ${data.asked} it is.`;
  at("size").textContent = `what it sees: ${width}\u00d7${height} pixels, centred`;
  at("about").textContent =
    `${data.network} with ${data.parameters.toLocaleString("en")} numbers, trained for ${data.step.toLocaleString("en")} steps on ${data.dataset}: ` +
    `${(100 * data.accuracy).toFixed(2)} % of ${data.count.toLocaleString("en")} test images right. ` +
    `This page takes ${each.toFixed(1)} ms an image, and its logits of the examples differ from those of the ` +
    `program that trained it by at most ${Math.max(0, ...gaps).toExponential(0)}. It loads nothing and sends nothing.`;

  new ResizeObserver(paintPad).observe(pad);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintPad);
  update();
}

if (typeof document !== "undefined") start(); // tests run the functions above without a page
