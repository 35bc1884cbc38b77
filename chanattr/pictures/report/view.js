// One image at a layer: its energy map over the picture, the marked point on its curve, and cards of channels. Data lies beside each place.
const chanattrView = (() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const SVG = "http://www.w3.org/2000/svg";
  const parsed = new WeakMap(), images = new Map(), stores = new Map();

  const load = (source) => {
    if (!images.has(source)) {
      const image = new Image();
      image.src = source;
      images.set(source, image.decode().then(() => image));
      if (images.size > 40) images.delete(images.keys().next().value);
    }
    return images.get(source);
  };

  function svg(tag, attributes, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // What is nothing beside the scores that are drawn is 0.
  const short = (value, span) => value === null ? "none" : Math.abs(value) < 5e-4 * span ? "0" : Number(value.toPrecision(3)).toString();
  const knownOf = (data) => [...data.score, data.original, data.empty].filter((value) => value !== null);
  const spanOf = (data) => Math.max(0, ...knownOf(data)) - Math.min(0, ...knownOf(data));

  // Colours of energy from 0 to 1, as the figures have them; faint energy is transparent.
  let glowing = null;
  function glow(stops) {
    if (glowing) return glowing;
    glowing = new Uint8ClampedArray(256 * 4);
    for (let level = 0; level < 256; level++) {
      const at = level / 255;
      let right = stops.findIndex(([place]) => place >= at);
      if (right < 1) right = 1;
      const [low, one] = stops[right - 1], [high, two] = stops[right], share = (at - low) / (high - low);
      for (let colour = 0; colour < 3; colour++) glowing[4 * level + colour] = one[colour] + share * (two[colour] - one[colour]);
      glowing[4 * level + 3] = 255 * 0.86 * Math.min(1, at / 0.75) ** 1.15;
    }
    return glowing;
  }

  function dataOf(figure) {
    if (!parsed.has(figure)) parsed.set(figure, JSON.parse(figure.querySelector("script").textContent));
    return parsed.get(figure);
  }

  // The picture in grey, the map of the chosen area glowing on the part that the network saw; what it did not see is darker.
  async function paint(figure, data, at, stops) {
    const canvas = figure.querySelector("canvas");
    if (!canvas) return; // the layer has no grid
    const tile = document.querySelector(`a[data-image="${figure.closest("article").dataset.image}"] img`);
    const picture = tile && await load(tile.src), strip = data.strip && await load(data.strip);
    if (Number(figure.dataset.at) !== at) return; // the slider has moved on meanwhile
    const [wide, high] = picture ? [picture.width, picture.height] : [1, 1], scale = 384 / Math.max(wide, high);
    canvas.width = Math.round(wide * scale);
    canvas.height = Math.round(high * scale);
    const { width, height } = canvas, brush = canvas.getContext("2d", { willReadFrequently: true });
    const [left, top, right, bottom] = data.part.map((edge, n) => edge * (n % 2 ? height : width));
    brush.fillStyle = "#7c7c7c";
    brush.fillRect(0, 0, width, height);
    if (picture) {
      brush.filter = "grayscale(1) brightness(0.72)";
      brush.drawImage(picture, 0, 0, width, height);
      brush.filter = "none";
    }
    brush.fillStyle = "rgba(0, 0, 0, 0.5)";
    brush.beginPath();
    brush.rect(0, 0, width, height);
    brush.rect(left, top, right - left, bottom - top);
    brush.fill("evenodd");
    const has = data.has[at] === "1" ? at : data.star;
    if (!strip || has < 0 || data.has[has] !== "1") return;
    const place = [...data.has.slice(0, has)].filter((one) => one === "1").length, [down, across] = data.size;
    const grid = document.createElement("canvas");
    grid.width = across;
    grid.height = down;
    const cells = grid.getContext("2d", { willReadFrequently: true });
    cells.drawImage(strip, 0, place * down, across, down, 0, 0, across, down);
    const map = document.createElement("canvas");
    map.width = Math.max(1, Math.round(right - left));
    map.height = Math.max(1, Math.round(bottom - top));
    const over = map.getContext("2d", { willReadFrequently: true });
    over.imageSmoothingQuality = "high";
    over.drawImage(grid, 0, 0, map.width, map.height);
    const seen = over.getImageData(0, 0, map.width, map.height), colours = glow(stops);
    for (let i = 0; i < seen.data.length; i += 4) {
      const level = 4 * seen.data[i];
      for (let n = 0; n < 4; n++) seen.data[i + n] = colours[level + n];
    }
    over.putImageData(seen, 0, 0);
    brush.drawImage(map, left, top);
    canvas.dataset.painted = String(at);
  }

  // Score against area, logarithmic; drawn at the width that there is.
  function curve(figure, data, at) {
    const place = figure.querySelector(".curve"), wide = Math.max(240, Math.min(620, place.clientWidth || 400)), high = 230;
    const pad = { left: 46, right: 14, top: 14, bottom: 40 };
    const known = knownOf(data), span = spanOf(data);
    let low = Math.min(0, ...known), top = Math.max(...known, low + 1e-6);
    top += 0.06 * (top - low);
    const most = Math.max(2, data.channels);
    const x = (area) => pad.left + (wide - pad.left - pad.right) * Math.log(Math.max(area, 0.9) / 0.9) / Math.log(1.1 * most / 0.9);
    const y = (score) => high - pad.bottom - (high - pad.top - pad.bottom) * (score - low) / (top - low);
    const drawing = svg("svg", { width: wide, height: high, viewBox: `0 0 ${wide} ${high}` });
    const line = (one, two, name) => drawing.append(svg("line", { x1: one[0], y1: one[1], x2: two[0], y2: two[1], class: name }));
    const text = (at_, words, name) => drawing.append(svg("text", { x: at_[0], y: at_[1], class: name }, words));
    line([pad.left, high - pad.bottom], [wide - pad.right, high - pad.bottom], "axis");
    const ticks = [1, 10, 100, 1000, 10000].filter((tick) => tick < most / 2).concat(most);
    for (const tick of ticks) {
      line([x(tick), high - pad.bottom], [x(tick), high - pad.bottom + 4], "axis");
      text([x(tick), high - pad.bottom + 17], tick.toLocaleString("en"), "tick");
    }
    text([(pad.left + wide - pad.right) / 2, high - 6], "area: how many are selected", "tick");
    // Each level's name stands at the end where the curve is not: small sets are near "none", in the game delete near "all".
    const first = data.score.find((score) => score !== null) ?? data.empty;
    const rises = Math.abs(first - data.empty) <= Math.abs(first - data.original);
    for (const [value, name] of [[data.original, "all"], [data.empty, "none"]])
      if (value !== null) {
        line([pad.left, y(value)], [wide - pad.right, y(value)], "level");
        text([pad.left - 5, y(value) + 4], short(value, span), "tick end");
        text([(name === "all") === rises ? pad.left + 34 : wide - pad.right, y(value) - 5], name, "tick end");
      }
    const points = data.area.map((area, n) => [x(area), data.score[n]]).filter(([, score]) => score !== null).map(([a, s]) => [a, y(s)]);
    if (points.length) drawing.append(svg("path", { d: `M${points.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L")}`, class: "line" }));
    data.area.forEach((area, n) => {
      if (data.score[n] === null) return;
      const dot = svg("circle", { cx: x(area), cy: y(data.score[n]), r: n === data.star ? 6 : 4, "data-step": n,
        class: `point${data.kept[n] === "1" ? "" : " open"}${n === data.star ? " star" : ""}` });
      dot.append(svg("title", {}, `${area.toLocaleString("en")}: ${short(data.score[n], span)}`));
      drawing.append(dot);
    });
    if (data.star >= 0 && data.score[data.star] !== null)
      text([x(data.area[data.star]), Math.max(11, y(data.score[data.star]) - 15)], "a*", "tick star");
    if (data.score[at] !== undefined && data.score[at] !== null)
      drawing.append(svg("circle", { cx: x(data.area[at]), cy: y(data.score[at]), r: 10, class: "here" }));
    place.replaceChildren(drawing);
  }

  function look(figure, stops) {
    const data = dataOf(figure), slider = figure.querySelector("input"), at = Number(slider.value);
    figure.dataset.at = String(at);
    const words = figure.querySelector(".now");
    if (data.area.length) {
      const kept = data.kept[at] === "1" ? "● the target is the top class" : "○ it is not";
      words.textContent = `${data.area[at].toLocaleString("en")} of ${data.channels.toLocaleString("en")}${at === data.star ? ", a*" : ""}: ` +
        `score ${short(data.score[at], spanOf(data))}, ${kept}`;
      slider.setAttribute("aria-valuetext", words.textContent);
    } else words.textContent = "No set was found.";
    curve(figure, data, at);
    return paint(figure, data, at, stops);
  }

  // Pictures and examples into the cards of channels that come into view.
  function fill(root, section) {
    for (const image of all("img[data-tile]", root)) {
      const tile = document.querySelector(`a[data-image="${image.closest("article").dataset.image}"] img`);
      if (tile) image.src = tile.src;
      else image.closest("figure").hidden = true;
      image.removeAttribute("data-tile");
    }
    for (const card of all("li[data-channel]:not([data-filled])", root)) {
      card.dataset.filled = "true";
      if (!stores.has(section)) {
        const held = document.getElementById(`channels-${section}`);
        stores.set(section, held ? JSON.parse(held.textContent) : {});
      }
      const kept = stores.get(section)[card.dataset.channel];
      if (!kept) continue;
      const image = (source, alt, parent) => {
        const made = new Image();
        made.src = source;
        made.alt = alt;
        made.title = alt;
        parent.append(made);
      };
      if (kept.picture) image(kept.picture, kept.said, card);
      for (const [kind, title] of [["driven", "drive it most"], ["needed", "need it most"]]) {
        if (!kept[kind] || !kept[kind].length) continue;
        const row = document.createElement("div"), name = document.createElement("span");
        row.className = "crops";
        name.className = "quiet";
        name.textContent = title;
        card.append(name, row);
        for (const [source, alt] of kept[kind]) image(source, alt, row);
      }
    }
  }

  return { look, fill, load };
})();
