"use strict";
// The page is whole without this script: it adds sorting, filtering, copying, and a mark in the contents.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, settings = {}) => Object.assign(document.createElement(tag), settings);

  function value(row, column, words) {
    const cell = row.cells[column];
    const text = (cell.dataset.sort ?? cell.textContent).trim();
    if (words) return text.toLowerCase();
    const number = parseFloat(text.replace("−", "-"));
    return Number.isNaN(number) ? null : number; // what is missing comes last, whichever way
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    if (rows.length < 3) return;
    heads.forEach((head, column) => {
      const words = head.classList.contains("t");
      const button = make("button", { type: "button", title: "Sort" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const way = { ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
        const next = way === undefined ? "ascending" : way;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (next) head.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1;
        const known = rows.map((row) => [value(row, column, words), row]);
        const compare = ([a], [b]) => {
          if (a === null || b === null) return (a === null) - (b === null);
          return sign * (words ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
        };
        body.append(...(next ? known.sort(compare) : known).map(([, row]) => row));
      });
    });
  }

  function filterable(table) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 8) return;
    const about = table.caption.textContent.trim();
    const field = make("input", { type: "search", placeholder: "filter rows", ariaLabel: `Filter rows: ${about}` });
    const count = make("span");
    count.setAttribute("role", "status");
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/);
      rows.forEach((row) => { row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word)); });
      const left = rows.filter((row) => !row.hidden).length;
      count.textContent = left < rows.length ? `${left} of ${rows.length} rows` : "";
    });
    const tools = make("p", { className: "tools" });
    tools.append(field, count);
    table.closest(".table").prepend(tools);
  }

  async function copy(text, from) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { // an old browser, or a page that may not: the selected text can be copied by hand at least
      getSelection().selectAllChildren(from);
      return document.execCommand("copy");
    }
  }

  all("table.sort").forEach((table) => { sortable(table); filterable(table); });

  all("[data-copy]").forEach((source) => {
    const button = make("button", { type: "button", textContent: "Copy" });
    const said = make("span");
    said.setAttribute("role", "status");
    button.addEventListener("click", async () => {
      said.textContent = (await copy(source.innerText.trim(), source)) ? "copied" : "selected; press Ctrl+C";
    });
    const tools = make("p", { className: "tools" });
    tools.append(button, said);
    source.before(tools);
  });

  // A page that was sent without its folder still has every drawing in it.
  all("figure").forEach((figure) => {
    const link = figure.querySelector("a[data-svg]");
    if (link) link.href = figure.querySelector("img").src;
  });

  // A box that scrolls can be reached by keyboard, and only then.
  const boxes = all(".scroll, .card, .formula");
  const reach = () => boxes.forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
  addEventListener("resize", reach);
  all("details").forEach((part) => part.addEventListener("toggle", reach));
  reach();

  // Contents: folded on narrow screens, the section being read marked on wide ones.
  const contents = document.querySelector(".contents details");
  const wide = matchMedia("(min-width: 72rem)");
  const fold = () => { contents.open = wide.matches; };
  wide.addEventListener("change", fold);
  fold();
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  links.forEach((link) => link.addEventListener("click", fold));
  const visible = new Set();
  const watch = new IntersectionObserver((changes) => {
    changes.forEach((change) => visible[change.isIntersecting ? "add" : "delete"](change.target.id));
    const first = [...links.keys()].find((name) => visible.has(name));
    links.forEach((link, name) => {
      if (name === first) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  }, { rootMargin: "-10% 0px -70% 0px" });
  links.forEach((_, name) => watch.observe(document.getElementById(name)));

  // Paper shows all details; afterwards they are as they were.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));
})();
