// The Health tab: a choice of runs, and the report of them in a frame of its own.
const EVERY = 5000; // milliseconds between two questions whether something is new

export function render() {
  document.body.style.margin = "0";
  document.documentElement.style.colorScheme = "light dark";
  const bar = document.createElement("form");
  bar.style.cssText = "font:14px system-ui,sans-serif;padding:6px 14px;display:flex;" +
    "flex-wrap:wrap;gap:2px 14px;max-height:84px;overflow:auto;background:#8881";
  const frame = document.createElement("iframe");
  frame.title = "Health of the training";
  frame.style.cssText = "border:0;width:100%;height:calc(100vh - 40px);display:block";
  document.body.append(bar, frame);
  const live = document.createElement("span");
  live.style.marginLeft = "auto";
  const left = new Set(); // runs that the reader has left out
  let drawn = "";
  let names = "";

  function choose(runs) {
    if (names === JSON.stringify(runs)) return;
    names = JSON.stringify(runs);
    bar.replaceChildren(live);
    for (const run of runs.length < 2 ? [] : runs) {
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !left.has(run);
      box.addEventListener("change", () => {
        if (box.checked) left.delete(run);
        else left.add(run);
        update();
      });
      label.append(box, " ", run);
      live.before(label);
    }
  }

  function show(text) {
    const page = new DOMParser().parseFromString(text, "text/html");
    const shown = frame.contentDocument;
    const before = [...shown.querySelectorAll("details")].map((x) => x.open);
    const fresh = [...page.querySelectorAll("details")];
    if (before.length === fresh.length) fresh.forEach((x, i) => (x.open = before[i]));
    const at = shown.scrollingElement ? shown.scrollingElement.scrollTop : 0;
    shown.replaceChild(shown.adoptNode(page.documentElement), shown.documentElement);
    shown.scrollingElement.scrollTop = at;
    // In a frame without an address of its own a link would lead to TensorBoard's.
    shown.onclick = (event) => {
      const link = event.target.closest("a");
      if (!link) return;
      event.preventDefault();
      const place = shown.getElementById(link.hash.slice(1));
      place.querySelectorAll(":scope > details").forEach((x) => (x.open = true));
      place.scrollIntoView();
    };
  }

  async function update() {
    try {
      const known = await (await fetch("./runs")).json();
      choose(known.runs);
      const training = known.training.join(", ");
      live.textContent = training && `\u25cf training now: ${training}`;
      const chosen = known.runs.filter((run) => !left.has(run));
      const state = known.state + JSON.stringify(chosen);
      if (state === drawn) return;
      const query = new URLSearchParams(chosen.map((run) => ["run", run]));
      const reply = await fetch(`./page?${query}`);
      show(await reply.text());
      drawn = state;
    } catch (error) {
      console.warn("kbn: TensorBoard does not answer", error);
    }
  }

  update();
  setInterval(() => document.hidden || update(), EVERY);
}
