// The page is complete HTML; this script chooses what is visible (by the address after #) and draws figures that come into view.
(() => {
  "use strict";
  const shared = JSON.parse(document.getElementById("shared").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const drawn = new WeakSet();
  const now = { section: 0, image: null, target: {} }; // target: the class chosen in each section

  function draw(plot) {
    if (drawn.has(plot)) return;
    drawn.add(plot);
    const figure = JSON.parse(plot.nextElementSibling.textContent);
    figure.layout.template = shared.template;
    Plotly.newPlot(plot, figure.data, figure.layout, shared.config);
  }

  // Hidden elements never intersect, so a figure is drawn when it is first shown, at the width it then has.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "400px" });

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
    const layer = document.querySelector(`.layer[data-section="${now.section}"]`);
    for (const article of all("article[data-class]", layer)) article.hidden = article.dataset.class !== now.target[now.section];
    for (const row of all("tr[data-class]", layer)) mark(row, row.dataset.class === now.target[now.section]);
    // A window that was resized meanwhile left hidden figures at their old width.
    for (const plot of all(".plot")) if (drawn.has(plot) && plot.offsetParent) Plotly.Plots.resize(plot);
  }

  // "#image/KEY/LAYER", "#class/NUMBER/LAYER", "#layer/LAYER", a label after the layer where it has several.
  function parse(hash) {
    const parts = hash.slice(1).split("/");
    const kind = parts[0];
    const link = parts.slice(kind === "layer" ? 1 : 2).join("/");
    const section = link ? shared.sections.indexOf(link) : now.section;
    return { kind, name: parts[1] || "", section };
  }

  function find(kind, name, section) {
    if (kind === "image") {
      const tile = all("a[data-image]").find((a) => a.dataset.link === `image/${name}`);
      return tile && { image: tile.dataset.image };
    }
    const layer = document.querySelector(`.layer[data-section="${section}"]`);
    const article = all("article[data-class]", layer).find((a) => a.dataset.class === name);
    return article && { target: name };
  }

  function go(scroll) {
    const notice = document.getElementById("notice");
    notice.textContent = "";
    if (!location.hash || location.hash === "#") return show();
    const { kind, name, section } = parse(location.hash);
    const found = kind === "layer" ? {} : ["image", "class"].includes(kind) && section >= 0 && find(kind, name, section);
    if (section < 0 || !found) {
      notice.textContent = "This page does not hold what the link names; the run file may.";
      return show();
    }
    now.section = section;
    if (found.image) now.image = found.image;
    if (found.target) now.target[section] = found.target;
    show();
    if (scroll) place(kind);
  }

  // Brings the chosen thing into view, unless its head is there already.
  function place(kind) {
    const where = kind === "layer" ? `.layer[data-section="${now.section}"]`
      : kind === "class" ? `.layer[data-section="${now.section}"] article:not([hidden])`
        : `.viewer [data-section="${now.section}"] article:not([hidden])`;
    const element = document.querySelector(where);
    if (!element) return;
    const top = element.getBoundingClientRect().top;
    if (top < 50 || top > innerHeight * 0.6) element.scrollIntoView({ block: "start" });
  }

  for (const [number] of shared.sections.entries()) {
    const first = document.querySelector(`.layer[data-section="${number}"] article[data-class]`);
    now.target[number] = first ? first.dataset.class : "";
  }
  const first = document.querySelector("a[data-image]");
  now.image = first ? first.dataset.image : "";
  for (const plot of all(".plot")) seen.observe(plot);
  addEventListener("hashchange", () => go(true));
  go(true);
  document.documentElement.dataset.ready = "true";
})();
