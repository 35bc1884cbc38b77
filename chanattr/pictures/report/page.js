// The page is complete HTML; this script chooses what is visible (by the address after #) and draws figures that come into view.
(() => {
  "use strict";
  const shared = JSON.parse(document.getElementById("shared").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const drawn = new WeakSet();
  const now = { section: 0, image: null, target: {} }; // target: the class chosen in each section

  // A figure in the colours of the page: as it was made, or in the dark every colour by its counterpart there.
  const night = matchMedia("(prefers-color-scheme: dark)");
  function toned(value) {
    if (!night.matches) return value;
    if (typeof value === "string") return shared.night[value.toLowerCase()] || value;
    if (Array.isArray(value)) return value.map(toned);
    return value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([name, one]) => [name, toned(one)])) : value;
  }

  function draw(plot) {
    if (drawn.has(plot)) return;
    drawn.add(plot);
    const figure = JSON.parse(plot.nextElementSibling.textContent);
    figure.layout.template = shared.template;
    Plotly.newPlot(plot, toned(figure.data), toned(figure.layout), shared.config);
  }

  // Hidden elements never intersect, so a figure is drawn when it is first shown, at the width it then has.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "400px" });

  const load = chanattrView.load;

  // The picture through the mask that the slider chooses, and its row in the table. The strip holds the masks one below another.
  async function look(figure) {
    const at = Number(figure.querySelector("input").value), canvas = figure.querySelector("canvas");
    for (const [number, row] of all("tbody tr", figure).entries()) mark(row, number === at);
    const tile = document.querySelector(`a[data-image="${figure.closest("article").dataset.image}"] img`);
    const strip = await load(figure.querySelector("img").src), picture = tile && await load(tile.src);
    const { width, height } = canvas, side = strip.width;
    const paint = canvas.getContext("2d", { willReadFrequently: true });
    paint.drawImage(strip, 0, at * side, side, side, 0, 0, width, height);
    const mask = paint.getImageData(0, 0, width, height).data;
    paint.fillStyle = "#b0b0b0";
    paint.fillRect(0, 0, width, height);
    if (picture) {
      const [left, top, right, bottom] = figure.dataset.part.split(",").map(Number), { width: w, height: h } = picture;
      paint.drawImage(picture, left * w, top * h, (right - left) * w, (bottom - top) * h, 0, 0, width, height);
    }
    const seen = paint.getImageData(0, 0, width, height);
    for (let i = 0; i < seen.data.length; i++) if (i % 4 < 3) seen.data[i] *= 0.18 + 0.82 * mask[i] / 255;
    paint.putImageData(seen, 0, 0);
    figure.dataset.at = String(at);
  }

  const mark = (element, on) => on ? element.setAttribute("aria-current", "true") : element.removeAttribute("aria-current");

  function show() {
    const link = shared.sections[now.section];
    for (const part of all("[data-section]")) part.hidden = Number(part.dataset.section) !== now.section;
    for (const tab of all("[data-tab]")) mark(tab, Number(tab.dataset.tab) === now.section);
    for (const tile of all("a[data-image]")) {
      tile.href = `#${tile.dataset.link}/${link}`;
      mark(tile, tile.dataset.image === now.image);
    }
    for (const article of all("article[data-image]")) article.hidden = article.dataset.image !== now.image;
    const layer = document.querySelector(`.layer[data-section="${now.section}"]`) || document.createElement("div");
    for (const article of all("article[data-class]", layer)) article.hidden = article.dataset.class !== now.target[now.section];
    for (const row of all("tr[data-class]", layer)) mark(row, row.dataset.class === now.target[now.section]);
    rove();
    for (const form of all(".filter")) sift(form);
    for (const figure of all(".masks")) if (figure.offsetParent) look(figure);
    for (const figure of all(".view")) if (figure.offsetParent) chanattrView.look(figure, shared.glow);
    for (const article of all("article:not([hidden])")) if (article.offsetParent) chanattrView.fill(article, now.section);
    // A window that was resized meanwhile left hidden figures at their old width.
    for (const plot of all(".plot")) if (drawn.has(plot) && plot.offsetParent) Plotly.Plots.resize(plot);
  }

  // Tiles that the filter leaves; the chosen image stays chosen.
  function sift(form) {
    const words = form.querySelector("input").value.toLowerCase().trim(), how = form.querySelector("select").value;
    let count = 0;
    for (const group of all(".group")) {
      let any = false;
      for (const tile of all(".tile", group)) {
        const mark = tile.querySelector(`[data-section="${now.section}"]`);
        const fits = tile.dataset.words.includes(words) && (!how || (mark && mark.dataset.how.split(" ").includes(how)));
        tile.hidden = !fits;
        any = any || fits;
        count += fits;
      }
      group.hidden = !any;
    }
    form.querySelector("[role=status]").textContent = words || how ? `${count} shown` : "";
    rove();
  }

  const decode = (text) => { try { return decodeURIComponent(text); } catch { return text; } };

  // What can be named after "image" and "class", in a section.
  function choices(kind, section) {
    if (kind === "layer") return [{ name: "" }];
    if (kind === "image") return all("a[data-image]").map((a) => ({ name: a.dataset.link.slice("image/".length), image: a.dataset.image }));
    const layer = document.querySelector(`.layer[data-section="${section}"]`);
    return kind === "class" && layer ? all("article[data-class]", layer).map((a) => ({ name: a.dataset.class, target: a.dataset.class })) : [];
  }

  // "#image/KEY/LAYER", "#class/NUMBER/LAYER", "#layer/LAYER", and a label after a layer that has several. Compared decoded,
  // so that a key may be typed as it is; without a layer the one in view is meant.
  function find(hash) {
    const kind = hash.split("/", 1)[0];
    const wanted = decode(hash.slice(kind.length + 1));
    for (const [section, link] of shared.sections.entries())
      for (const choice of choices(kind, section)) {
        const name = decode(choice.name), full = [name, decode(link)].filter(Boolean).join("/");
        if (full === wanted || (name && name === wanted && section === now.section)) return { kind, section, ...choice };
      }
    return null;
  }

  function go() {
    const notice = document.getElementById("notice");
    const hash = location.hash.slice(1);
    const found = hash ? find(hash) : null;
    const there = found || (hash && document.getElementById(hash)); // a part of the page, such as "#images"
    notice.textContent = hash && !there ? "This page does not hold what the link names; the run file may." : "";
    if (!hash) start(); // also when the reader goes back to where the page opened
    if (!found) return show();
    now.section = found.section;
    if (found.image) now.image = found.image;
    if (found.target) choose(found.target);
    show();
    place(found.kind);
  }

  // A class stays chosen at every layer that has a place for it.
  function choose(target) {
    for (const article of all("article[data-class]"))
      if (article.dataset.class === target) now.target[Number(article.closest(".layer").dataset.section)] = target;
  }

  const chosen = () => document.querySelector(`.viewer [data-section="${now.section}"] article:not([hidden])`);

  // Focus goes to the head of an image that was chosen on the page, as a reader by keyboard goes on from there.
  function focus(article) {
    const head = article && article.querySelector("h3");
    if (head) head.focus({ preventScroll: true });
  }

  // Tiles are one stop of the Tab key, the chosen one or the first that the filter leaves; arrow keys move among them.
  function rove(to) {
    const tiles = all(".tile").filter((tile) => !tile.hidden);
    const stop = to || tiles.find((tile) => tile.hasAttribute("aria-current")) || tiles[0];
    for (const tile of all(".tile")) tile.tabIndex = tile === stop ? 0 : -1;
    if (to) to.focus();
  }

  function step(event) {
    const tile = event.target.closest(".tile");
    if (!tile || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const tiles = all(".tile").filter((one) => !one.hidden), at = tiles.indexOf(tile), box = tile.getBoundingClientRect();
    // The nearest tile of the next line, up or down.
    const line = (way) => {
      const beyond = tiles.map((one) => [one, one.getBoundingClientRect()]).filter(([, b]) => way * (b.top - box.top) > box.height / 2);
      const far = ([, b]) => 10 * Math.abs(b.top - box.top) + Math.abs(b.left - box.left);
      return beyond.length ? beyond.reduce((best, one) => far(one) < far(best) ? one : best)[0] : null;
    };
    const moves = { ArrowRight: () => tiles[at + 1], ArrowLeft: () => tiles[at - 1], ArrowDown: () => line(1), ArrowUp: () => line(-1),
      Home: () => tiles[0], End: () => tiles[tiles.length - 1] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const to = moves[event.key]();
    if (to) rove(to);
  }

  // Brings the chosen thing into view, unless its head is there already.
  function place(kind) {
    const where = kind === "layer" ? `.layer[data-section="${now.section}"]`
      : kind === "class" ? `.layer[data-section="${now.section}"] article:not([hidden])`
        : "";
    const element = where ? document.querySelector(where) : chosen();
    if (!element) return;
    const top = element.getBoundingClientRect().top;
    if (top < 50 || top > innerHeight * 0.6) element.scrollIntoView({ block: "start" });
    if (kind === "image") focus(element);
  }

  function start() {
    now.section = 0;
    for (const number of shared.sections.keys()) {
      const first = document.querySelector(`.layer[data-section="${number}"] article[data-class]`);
      now.target[number] = first ? first.dataset.class : "";
    }
    const first = document.querySelector("a[data-image]");
    now.image = first ? first.dataset.image : "";
  }

  start();
  for (const plot of all(".plot")) seen.observe(plot);
  for (const figure of all(".masks")) figure.querySelector("input").addEventListener("input", () => look(figure));
  for (const figure of all(".view")) figure.querySelector("input").addEventListener("input", () => chanattrView.look(figure, shared.glow));
  for (const form of all(".filter")) {
    form.addEventListener("input", () => sift(form));
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  for (const tiles of all(".gallery")) tiles.addEventListener("keydown", step);
  for (const link of all("[data-skip]"))
    link.addEventListener("click", (event) => { // no address of its own: what is chosen stays chosen
      event.preventDefault();
      const article = chosen();
      if (!article) return;
      article.scrollIntoView({ block: "start" });
      focus(article);
    });
  night.addEventListener("change", () => {
    for (const plot of all(".plot"))
      if (drawn.delete(plot)) {
        Plotly.purge(plot);
        seen.observe(plot);
      }
  });
  let resized = 0;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => { for (const f of all(".view")) if (f.offsetParent) chanattrView.look(f, shared.glow); }, 120);
  });
  addEventListener("hashchange", go);
  go();
  document.documentElement.dataset.ready = "true";
})();
