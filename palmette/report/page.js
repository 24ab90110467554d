"use strict";
// Draws the browser of rollouts from the JSON in #data: {words: {id: text}, total, rollouts: [view...]}.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.getElementById("browser");
  if (!root) return;
  const list = root.querySelector(".list"), detail = root.querySelector(".detail");
  const search = document.getElementById("search"), count = document.getElementById("count");
  const filters = [...document.querySelectorAll(".filters select")];
  const state = { open: null, tab: "messages", colour: "source", leaf: null };

  // ---------------------------------------------------------------- small things
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const signed = (x, digits = 2) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
  const minus = (x, digits = 2) => (x < 0 ? "−" : "") + Math.abs(x).toFixed(digits);
  const mean = (xs) => xs.reduce((a, b) => a + b, 0) / Math.max(1, xs.length);
  const verdict = ({ reward }) =>
    reward === undefined ? ["–", "unknown", "no trusted reward"] : reward >= 1 ? ["✓", "solved", "solved"] : ["✗", "failed", "not solved"];
  const rewardText = ({ reward }) => (reward === undefined ? "absent" : Number(reward.toFixed(3)).toString());
  const short = (task) => task.split("/").slice(-1)[0];

  // ---------------------------------------------------------------- list and filters
  const kindOf = { reward: (facts) => verdict(facts)[2] };
  const factOf = (rollout, name) => (kindOf[name] ? kindOf[name](rollout.facts) : String(rollout.facts[name] ?? ""));
  for (const select of filters) {
    const found = [...new Set(data.rollouts.map((each) => factOf(each, select.name)))].filter(Boolean);
    for (const value of found) select.append(make("option", { value }, value));
    if (found.length < 2) select.parentElement.hidden = true;
    select.addEventListener("change", drawList);
  }
  search.addEventListener("input", drawList);

  function matching() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return data.rollouts.filter((each) => {
      if (filters.some((select) => select.value && factOf(each, select.name) !== select.value)) return false;
      if (!words.length) return true;
      each.text ??= (JSON.stringify(each.facts) + JSON.stringify(each.messages)).toLowerCase();
      return words.every((word) => each.text.includes(word));
    });
  }

  function drawList() {
    const shown = matching();
    list.replaceChildren(...shown.map(item));
    const all = data.total > data.rollouts.length ? `, of ${data.total.toLocaleString("en")} in the run` : "";
    count.textContent = `${shown.length} of ${data.rollouts.length} rollouts${all}`;
    if (!shown.length) list.append(make("p", { class: "empty" }, "No rollout matches."));
    if (shown.length && !shown.includes(state.open)) open(shown[0], false);
    else mark();
  }

  function item(rollout) {
    const facts = rollout.facts, [sign, kind, words] = verdict(facts);
    const where = [facts.stage, facts.step !== undefined ? `step ${facts.step}` : null, facts.model, facts.outcome];
    return make(
      "li",
      { id: `item-${rollout.id}`, role: "option", "aria-selected": "false", on: { click: () => open(rollout, true) } },
      make("span", { class: `sign ${kind}`, title: words }, sign),
      make("span", { class: "task", title: facts.task }, short(facts.task)),
      make("span", { class: `reward ${kind}` }, facts.reward === undefined ? "" : rewardText(facts)),
      make("span", { class: "meta" }, where.filter((each) => each !== undefined && each !== null).join(" · ")),
    );
  }

  function mark() {
    for (const each of list.querySelectorAll("li")) {
      const chosen = state.open && each.id === `item-${state.open.id}`;
      each.setAttribute("aria-selected", String(Boolean(chosen)));
      if (chosen) list.setAttribute("aria-activedescendant", each.id);
    }
  }

  function open(rollout, byHand) {
    state.open = rollout;
    state.leaf = null;
    root.classList.toggle("opened", byHand);
    if (byHand) history.replaceState(null, "", `#rollout-${rollout.id}`);
    mark();
    drawDetail();
    detail.scrollTop = 0;
    if (byHand && matchMedia("(max-width: 860px)").matches) root.scrollIntoView();
  }

  function step(by) {
    const shown = matching();
    const next = shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(state.open) + by))];
    if (!next || next === state.open) return;
    open(next, true);
    document.getElementById(`item-${next.id}`).scrollIntoView({ block: "nearest" });
  }

  // ---------------------------------------------------------------- detail
  const choice = (name, options, chosen, pick) =>
    make("span", { class: "choice", role: "group", "aria-label": name },
      ...options.map(([value, text]) =>
        make("button", { type: "button", "aria-pressed": String(value === chosen), on: { click: () => pick(value) } }, text)));

  function drawDetail() {
    const rollout = state.open, facts = rollout.facts, [sign, kind, words] = verdict(facts);
    const chip = (name, value) => (value === undefined ? null : make("li", {}, make("span", {}, name), String(value)));
    const place = facts.group === undefined ? undefined : `${facts.group}.${facts.sample}`;
    const tokens = rollout.nodes.reduce((sum, node) => sum + node.i.length, 0);
    const bar = make("div", { class: "bar" },
      choice("View", [["messages", "Messages"], ["tokens", "Tokens"]], state.tab, (tab) => { state.tab = tab; drawDetail(); }),
      ...(state.tab === "tokens" ? tokenControls(rollout) : []));
    detail.replaceChildren(
      make("button", { class: "back", type: "button", on: { click: back } }, "← All rollouts"),
      make("h3", {}, make("span", { class: `sign ${kind}`, title: words }, sign + " "), facts.task),
      make("ul", { class: "chips" },
        chip("outcome", facts.outcome), chip("reward", rewardText(facts)), chip("stage", facts.stage), chip("step", facts.step),
        chip("model", facts.model), chip("tier", facts.tier), chip("sample", place), chip("turns", facts.turns),
        chip("tokens", `${facts.sampled_tokens ?? 0} sampled of ${tokens}`), chip("time", `${facts.wall_s} s`),
        facts.attempt > 1 ? chip("attempt", facts.attempt) : null),
      facts.detail ? make("p", { class: "why" }, facts.detail) : "",
      ...Object.entries(rollout.pictures).map(([name, png]) =>
        make("img", { class: "seen", src: `data:image/png;base64,${png}`, alt: `what the verifier saw: ${name}`, title: name })),
      bar,
      ...(state.tab === "tokens" ? tokenView(rollout) : messageView(rollout)));
  }

  function back() {
    root.classList.remove("opened");
    history.replaceState(null, "", "#rollouts");
    document.getElementById(`item-${state.open.id}`)?.scrollIntoView({ block: "center" });
  }

  // ---------------------------------------------------------------- messages
  function messageView(rollout) {
    if (!rollout.messages.length) return [make("p", { class: "empty" }, "Nothing was said: the rollout ended before its first turn.")];
    return rollout.messages.map((message) => {
      const said = [];
      if (message.reasoning) said.push(make("details", {}, make("summary", {}, "reasoning"), make("pre", {}, message.reasoning)));
      if (message.content) said.push(message.role === "tool" ? make("pre", {}, message.content) : make("div", { class: "text" }, message.content));
      for (const call of message.tool_calls ?? []) said.push(callView(call.function ?? call));
      if (message.malformed) said.push(make("p", { class: "malformed" }, "unreadable tool call: " + message.malformed));
      const stats = turnStats(rollout, message);
      if (message.role === "system") {
        return make("details", { class: "message system" }, make("summary", {}, make("b", {}, "system"), `${message.content.length} characters`), ...said);
      }
      return make("div", { class: `message ${message.role}` }, make("header", {}, make("b", {}, message.role), stats), ...said);
    });
  }

  function callView({ name, arguments: given }) {
    let args = given;
    if (typeof args === "string") try { args = JSON.parse(args); } catch { args = { arguments: given }; }
    const strings = Object.values(args).every((value) => typeof value === "string");
    if (name === "bash" && typeof args.command === "string") return make("pre", {}, make("b", {}, "$ "), args.command);
    if (name === "edit" && strings && "old" in args && "new" in args) {
      const lines = (text, mark) => text.split("\n").map((line) => `${mark} ${line}\n`).join("");
      return make("pre", {}, make("b", {}, `edit ${args.path ?? ""}\n`),
        make("span", { class: "minus" }, lines(args.old, "−")), make("span", { class: "plus" }, lines(args.new, "+")));
    }
    return make("pre", {}, make("b", {}, name), Object.keys(args).length ? " " + JSON.stringify(args, null, 1) : "()");
  }

  function turnStats(rollout, message) {
    if (message.leaf === undefined || message.leaf === null || !rollout.nodes[message.leaf]) return "";
    const nodes = pathTo(rollout, message.leaf).filter((node) => node.t >= 0 && node.t === rollout.nodes[message.leaf].t);
    return summary(nodes);
  }

  const at = (values, offset) => (Array.isArray(values) ? values[offset] : values);
  const each = (nodes, key) => nodes.flatMap((node) => (node[key] === undefined ? [] : node.i.map((_, offset) => at(node[key], offset))));
  const gap = (node, offset) => (node.h === undefined ? undefined : node.l[offset] - at(node.h, offset)); // log p student − teacher

  function summary(nodes) {
    const logprobs = nodes.flatMap((node) => node.l), credit = each(nodes, "a");
    if (!logprobs.length) return "";
    const parts = [`${logprobs.length} tokens`, `mean log p ${minus(mean(logprobs), 3)}`];
    if (credit.length) parts.push(`advantage ${signed(mean(credit))}`);
    parts.push(`weights v${nodes[0].v}`);
    return parts.join(" · ");
  }

  // ---------------------------------------------------------------- tokens
  function pathTo(rollout, leaf) {
    const path = [];
    for (let place = leaf; place >= 0; place = rollout.nodes[place].p) path.unshift(rollout.nodes[place]);
    return path;
  }

  const depthOf = (rollout, place) => pathTo(rollout, place).reduce((sum, node) => sum + node.i.length, 0);
  const longest = (rollout, ends) => ends.reduce((best, end) => (depthOf(rollout, end) > depthOf(rollout, best) ? end : best), ends[0]);

  function leaves(rollout) {
    const parents = new Set(rollout.nodes.map((node) => node.p));
    return rollout.nodes.map((_, place) => place).filter((place) => !parents.has(place));
  }

  function tokenControls(rollout) {
    const ends = leaves(rollout), knows = (key) => rollout.nodes.some((node) => node[key] !== undefined);
    const options = [["source", "Source"], ["logprob", "Log p"]];
    if (knows("a")) options.push(["advantage", "Advantage"]);
    if (knows("h")) options.push(["teacher", "Teacher"]);
    if (!options.some(([value]) => value === state.colour)) state.colour = "source";
    const controls = [choice("Colour tokens by", options, state.colour, (colour) => { state.colour = colour; drawDetail(); }), legend()];
    if (ends.length > 1) {
      const select = make("select", { "aria-label": "Branch", on: { change: (event) => { state.leaf = Number(event.target.value); drawDetail(); } } },
        ...ends.map((place, n) => make("option", { value: place }, `branch ${n + 1} of ${ends.length}`)));
      select.value = String(state.leaf ?? longest(rollout, ends));
      controls.push(select);
    }
    return controls;
  }

  function legend() {
    const strip = (from, to, left, right) =>
      make("span", { class: "scale" }, left, make("u", { style: `background: linear-gradient(90deg, ${from}, ${to})` }), right);
    if (state.colour === "logprob") return strip("transparent", "var(--bad)", "certain", "p ≤ 2 %");
    if (state.colour === "advantage") return strip("var(--bad), transparent", "var(--student)", "−", "+");
    if (state.colour === "teacher") return strip("var(--bad), transparent", "var(--student)", "teacher: less likely", "more");
    return make("span", { class: "scale" }, make("u", { style: "background: color-mix(in srgb, var(--student) 30%, transparent); width: 16px" }), "sampled by the model");
  }

  function tokenView(rollout) {
    const ends = leaves(rollout);
    if (!ends.length) return [make("p", { class: "empty" }, "No token reached the model.")];
    const path = pathTo(rollout, state.leaf ?? longest(rollout, ends));
    const most = Math.max(1e-6, ...each(path.filter((node) => node.t >= 0), "a").map(Math.abs));
    const inspect = make("div", { class: "inspect", role: "status" }, "Point at a token, or walk with ← →");
    const blocks = [];
    let depth = 0, turn = 0;
    for (let from = 0; from < path.length; ) {
      let to = from;
      while (to < path.length && path[to].t === path[from].t) to++;
      const nodes = path.slice(from, to), sampled = path[from].t >= 0;
      const length = nodes.reduce((sum, node) => sum + node.i.length, 0);
      const tokens = make("div", { class: "tokens" });
      for (const node of nodes) depth = drawTokens(tokens, node, depth, most);
      const title = sampled ? [make("b", {}, `turn ${++turn}, sampled`), " · " + summary(nodes)] : [make("b", {}, "given"), ` · ${length} tokens`];
      const folded = !sampled && from === 0 && length > 60;
      blocks.push(make("details", { class: `block ${sampled ? "sampled" : ""}`, ...(folded ? {} : { open: "" }) }, make("summary", {}, ...title), tokens));
      from = to;
    }
    const walk = make("div", { class: "walk", tabindex: "0", role: "group", "aria-label": "Tokens", on: {
      pointerover: (event) => event.target.tagName === "I" && point(event.target),
      click: (event) => event.target.tagName === "I" && point(event.target),
      keydown: (event) => {
        if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
        const all = [...walk.querySelectorAll("details[open] i")], at = all.findIndex((each) => each.classList.contains("on"));
        const next = all[Math.min(all.length - 1, Math.max(0, at + (event.key === "ArrowRight" ? 1 : -1)))];
        if (next) { point(next); next.scrollIntoView({ block: "nearest" }); }
        event.preventDefault();
      } } }, ...blocks);
    function point(token) {
      walk.querySelector("i.on")?.classList.remove("on");
      token.classList.add("on");
      inspect.textContent = token.title;
    }
    return [walk, inspect];
  }

  function drawTokens(into, node, depth, most) {
    const all = document.createDocumentFragment();
    node.i.forEach((id, offset) => {
      const text = node.x?.[offset] ?? data.words[id] ?? `⟨${id}⟩`;
      const facts = [`token ${depth + offset}`, JSON.stringify(text), `id ${id}`, node.t >= 0 ? "sampled" : "given"];
      const credit = at(node.a, offset), lead = gap(node, offset);
      if (node.t >= 0) facts.push(`log p ${minus(node.l[offset], 3)} (${(100 * Math.exp(node.l[offset])).toFixed(1)} %)`, `weights v${node.v}`);
      if (lead !== undefined) facts.push(`teacher's log p ${minus(at(node.h, offset), 3)}`);
      if (credit !== undefined) facts.push(`advantage ${signed(credit, 3)}`);
      const token = make("i", { class: node.t >= 0 ? null : "given", title: facts.join(" · ") });
      text.split("\n").forEach((line, n) => {
        if (n) token.append(make("span", { class: "nl" }, "↵"), "\n");
        token.append(line);
      });
      const [tint, much] = colour(node, offset, credit, most);
      if (much > 0) { token.style.setProperty("--tint", tint); token.style.setProperty("--much", `${much.toFixed(0)}%`); }
      all.append(token);
    });
    into.append(all);
    return depth + node.i.length;
  }

  function colour(node, offset, credit, most) {
    if (node.t < 0) return ["transparent", 0];
    if (state.colour === "logprob") return ["var(--bad)", 75 * Math.min(1, -node.l[offset] / 4)];
    if (state.colour === "advantage") return credit === undefined ? ["transparent", 0] : [credit < 0 ? "var(--bad)" : "var(--student)", (60 * Math.abs(credit)) / most];
    if (state.colour === "teacher") {
      const lead = gap(node, offset) ?? 0;
      return [lead > 0 ? "var(--bad)" : "var(--student)", 60 * Math.min(1, Math.abs(lead) / 2)];
    }
    return ["var(--student)", 22];
  }

  // ---------------------------------------------------------------- keyboard, address, start
  list.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") step(1); else if (event.key === "ArrowUp") step(-1); else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
    if (event.key === "Escape") { if (typing) document.activeElement.blur(); else back(); return; }
    if (typing) return;
    if (event.key === "/") { search.focus(); search.scrollIntoView({ block: "nearest" }); event.preventDefault(); }
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "m" || event.key === "t") { state.tab = event.key === "m" ? "messages" : "tokens"; if (state.open) drawDetail(); }
  });
  const asked = data.rollouts.find((each) => location.hash === `#rollout-${each.id}`);
  drawList();
  if (asked) { open(asked, true); root.scrollIntoView(); }
})();
