"use strict";
// Everything that is shown comes from outside and is set as text, never as HTML.
const PAGE = 200, PERIOD = 10000, DAY = 86400000;
const WORDS = {
  rejected: "rejected", last_good: "last good", nacked: "nacked", expired: "expired",
  not_yet_valid: "not valid yet", expires_soon: "expires soon", warning: "warning", ok: "ok",
  hidden: "hidden", passed_over: "passed over",
};
const URGENCY = Object.keys(WORDS);
// Until when, in days from now; the words; the class of the bar.
const SPANS = [
  [0, "expired", "expired"], [1, "1 day", "today"], [7, "7 days", "week"], [30, "30 days", "month"],
  [90, "90 days", ""], [180, "180 days", ""], [365, "1 year", ""], [Infinity, "later", ""],
];
const byId = (id) => document.getElementById(id);
let state = JSON.parse(byId("data").textContent);
let entries = [], shown = PAGE, span = null, open = new Set(), timer = null;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function replace(id, ...children) { byId(id).replaceChildren(...children); }

function length(milliseconds) {
  const seconds = Math.round(Math.abs(milliseconds) / 1000);
  const [unit, name] = [[86400, "days"], [3600, "h"], [60, "min"], [1, "s"]]
    .find(([unit]) => seconds >= 2 * unit || unit === 1);
  return `${Math.round(seconds / unit)} ${name}`;
}

function when(time) {
  const left = Date.parse(time) - Date.parse(state.agent.now);
  return left >= 0 ? `in ${length(left)}` : `${length(left)} ago`;
}

function instant(time) { return time.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC"); }

function who(client) {
  const process = client.process ? `, ${client.process} ${client.pid ?? ""}` : "";
  return `${client.node} (${client.user ?? `uid ${client.uid}`}${process}, ${client.protocol})`;
}

function said(client, version) {
  if (!client.sent || !client.version) return "nothing sent";
  const old = client.version === version ? "" : ` of ${client.version.slice(0, 8)}`;
  const word = { ack: "ACK", nack: "NACK", none: "no answer" }[client.answer];
  const reason = client.error ? `: ${client.error}` : "";
  return `${word}${old}, sent ${when(client.sent)}${reason}`;
}

// Secrets and folders of which nothing is served, as one list.
function collect() {
  const now = Date.parse(state.agent.now);
  const secrets = state.secrets.map((secret) => ({ ...secret, id: `s ${secret.name}` }));
  const folders = state.folders.map((folder) => ({
    ...folder, id: `f ${folder.folder}`, names: [], subscribers: [], warnings: [],
  }));
  entries = [...folders, ...secrets];
  for (const entry of entries) {
    entry.days = entry.not_after ? (Date.parse(entry.not_after) - now) / DAY : null;
    entry.text = [
      entry.name, entry.folder, entry.issuer, entry.serial, entry.version, WORDS[entry.state],
      ...entry.names, ...(entry.subjects ?? []),
      ...[...entry.problems, ...entry.warnings].map((problem) => `${problem.path} ${problem.what}`),
      ...entry.subscribers.map((client) => `${who(client)} ${client.error ?? ""}`),
    ].join("\n").toLowerCase();
  }
}

function spanOf(days) { return SPANS.findIndex(([until]) => days < until || until === Infinity); }

function notices() {
  const list = [];
  const note = (text, bad) => list.push(make("li", bad ? { class: "bad" } : {}, text));
  state.agent.waiting_for.forEach((wait) => note(`Not ready: ${wait}`, true));
  for (const root of state.roots) {
    if (root.present === false) note(`The root ${root.path} does not exist; it is served as soon as it does.`);
    root.problems.forEach((problem) => note(`${problem.path}: ${problem.what}; ${problem.remedy}`));
  }
  for (const [reason, count] of Object.entries(state.watch.polled)) {
    const remedy = state.watch.polled_paths.find((path) => path.reason === reason)?.remedy ?? "";
    note(`${count} folders are polled instead of watched (${reason.replaceAll("_", " ")}). ${remedy}`);
  }
  replace("notices", ...list);
}

function timeline() {
  const groups = SPANS.map(() => []);
  for (const entry of entries) if (entry.days !== null) groups[spanOf(entry.days)].push(entry);
  const most = Math.max(1, ...groups.map((group) => group.length));
  replace("timeline", ...SPANS.map(([, words, kind], index) => {
    const count = groups[index].length;
    const bar = make("span", { class: `bar ${count ? kind : "empty"}` });
    // So that one among thousands can be seen.
    bar.style.height = count ? `${Math.max(6, Math.round(86 * Math.sqrt(count / most)))}px` : "2px";
    const label = index === 0 ? `${count} expired`
      : words === "later" ? `${count} expire later` : `${count} expire within ${words}, not sooner`;
    return make("button", {
      type: "button", "aria-pressed": String(span === index), "aria-label": label, title: label,
      onclick: () => { span = span === index ? null : index; shown = PAGE; draw(); },
    }, make("strong", {}, String(count)), bar,
    make("small", {}, index === 0 || words === "later" ? words : `< ${words}`));
  }));
  const ahead = entries.filter((entry) => entry.days !== null && entry.days >= 0);
  ahead.sort((a, b) => a.days - b.days);
  replace("next", ahead.length ? "Next: " : "", ...ahead.slice(0, 5).flatMap((entry, index) => [
    index ? ", " : "",
    make("button", {
      type: "button", class: "link",
      onclick: () => { byId("search").value = entry.name; span = null; shown = PAGE; draw(); },
    }, entry.name),
    ` ${when(entry.not_after)}`,
  ]));
}

function chosen() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = byId("state").value;
  const found = entries.filter((entry) =>
    (!wanted || entry.state === wanted)
    && (span === null || (entry.days !== null && spanOf(entry.days) === span))
    && words.every((word) => entry.text.includes(word)));
  const name = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  const orders = {
    trouble: (a, b) => URGENCY.indexOf(a.state) - URGENCY.indexOf(b.state) || name(a, b),
    expiry: (a, b) => (a.days ?? Infinity) - (b.days ?? Infinity) || name(a, b),
    name,
  };
  return found.sort(orders[byId("order").value]);
}

function clients(entry) {
  const refused = entry.subscribers.filter((client) => client.answer === "nack").length;
  if (!entry.subscribers.length) return make("span", { class: "soft" }, entry.version ? "none" : "");
  const count = `${entry.subscribers.length}`;
  return refused ? make("span", { class: "state nacked" }, `${count}, ${refused} refused it`) : count;
}

function covers(entry) {
  if (entry.problems.length) return entry.problems[0].what;
  const names = entry.names.length ? entry.names : entry.subjects ?? [];
  return names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");
}

function row(entry) {
  const isOpen = open.has(entry.id);
  const toggle = make("button", {
    type: "button", class: "link name", "aria-expanded": String(isOpen),
    onclick: () => { if (!open.delete(entry.id)) open.add(entry.id); draw(entry.id); },
  }, entry.name);
  toggle.dataset.id = entry.id;
  const kind = entry.state === "hidden" ? "hidden_state" : entry.state;
  const main = make("tr", {},
    make("td", { class: `state ${kind}` }, WORDS[entry.state] ?? entry.state),
    make("td", {}, toggle, entry.kind === "trust_bundle" ? make("span", { class: "soft" }, " trust bundle") : null),
    make("td", {}, entry.not_after
      ? make("time", { datetime: entry.not_after, title: instant(entry.not_after) }, when(entry.not_after)) : ""),
    make("td", entry.problems.length ? { class: "rejected" } : {}, covers(entry)),
    make("td", { class: "mono" }, entry.version?.slice(0, 8) ?? ""),
    make("td", {}, clients(entry)));
  return isOpen ? [main, make("tr", { class: "detail" }, make("td", { colspan: "6" }, ...details(entry)))] : [main];
}

function details(entry) {
  const problem = (word, kind) => (item) => make("li", {},
    make("span", { class: `state ${kind}` }, word), ` ${item.path}: ${item.what}. `,
    make("span", { class: "soft" }, item.remedy));
  const facts = [
    ["Expires", entry.not_after && instant(entry.not_after)],
    ["Valid from", entry.not_before && instant(entry.not_before)],
    ["Covers", entry.names.join(", ")],
    ["Subject", entry.subjects?.join("; ")],
    ["Issuer", entry.issuer], ["Serial", entry.serial], ["Key", entry.key_type],
    ["Version", entry.version && `${entry.version}, since ${instant(entry.since)}`],
    ["Folder", entry.folder], ["Files", entry.files?.join(", ")],
  ].filter(([, value]) => value);
  const lines = [
    ...entry.problems.map(problem("error:", "rejected")),
    ...entry.warnings.map(problem("warning:", "warning")),
  ];
  const streams = entry.subscribers.slice(0, PAGE).map((client) => make("li", {},
    make("span", client.answer === "nack" ? { class: "nacked" } : {}, `${who(client)}: ${said(client, entry.version)}`)));
  return [
    lines.length ? make("ul", {}, ...lines) : null,
    make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    streams.length ? make("ul", { "aria-label": "Clients" }, ...streams) : null,
  ].filter(Boolean);
}

function waiting() {
  byId("waiting").hidden = state.waiting.total === 0;
  const more = state.waiting.total - state.waiting.names.length;
  byId("waiting-text").textContent = `Clients wait for ${state.waiting.total} names that do not exist`
    + (more > 0 ? `; these are ${state.waiting.names.length} of them.` : ".");
  replace("waiting-names", ...state.waiting.names.map((name) =>
    make("li", {}, make("code", {}, name.name), ` ${name.streams} ${name.streams === 1 ? "stream" : "streams"}`)));
}

function draw(focus) {
  const { agent } = state;
  const streams = agent.streams.sotw + agent.streams.delta + agent.streams.fetch;
  byId("summary").textContent = `${agent.version} on ${agent.socket}: ${state.secrets.length} secrets, `
    + `${streams} streams, up ${length(agent.uptime_seconds * 1000)}`;
  notices();
  timeline();
  const found = chosen();
  replace("rows", ...found.slice(0, shown).flatMap(row));
  byId("count").textContent = `${found.length} of ${entries.length}`
    + (found.length > shown ? `, ${shown} shown` : "");
  byId("more").hidden = found.length <= shown;
  byId("clear").hidden = !byId("search").value && !byId("state").value && span === null;
  waiting();
  if (focus) [...byId("rows").querySelectorAll("button")].find((button) => button.dataset.id === focus)?.focus();
}

function states() {
  const select = byId("state"), wanted = select.value;
  const there = URGENCY.filter((word) => entries.some((entry) => entry.state === word));
  if (wanted && !there.includes(wanted)) there.push(wanted);
  select.replaceChildren(make("option", { value: "" }, "all"), ...there.map((word) => {
    const count = entries.filter((entry) => entry.state === word).length;
    return make("option", { value: word }, `${WORDS[word]} (${count})`);
  }));
  select.value = wanted;
}

function take(fresh) {
  state = fresh;
  collect();
  states();
  // What somebody is reading or has the keyboard on stays where it is.
  const active = document.activeElement?.dataset?.id;
  draw(active);
  byId("fresh").textContent = `as of ${instant(state.agent.now)}`;
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/status", { cache: "no-store", signal: AbortSignal.timeout(PERIOD) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    take(await answer.json());
  } catch {
    byId("fresh").textContent = `the agent does not answer; as of ${instant(state.agent.now)}`;
  }
}

// One request at a time, the next one some seconds after its answer.
function go() { timer = setTimeout(async () => { await refresh(); if (timer !== null) go(); }, PERIOD); }

byId("filter").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["search", "state", "order"]) {
  byId(id).addEventListener("input", () => { shown = PAGE; draw(); });
}
byId("more").addEventListener("click", () => { shown += PAGE; draw(); });
byId("clear").addEventListener("click", () => {
  byId("search").value = ""; byId("state").value = ""; span = null; shown = PAGE; draw(); byId("search").focus();
});
byId("pause").addEventListener("click", () => {
  const paused = timer !== null;
  if (paused) { clearTimeout(timer); timer = null; } else { go(); refresh(); }
  byId("pause").setAttribute("aria-pressed", String(paused));
});
// A link may bring a search along: #search=WORDS.
function fromLink() {
  byId("search").value = new URLSearchParams(location.hash.slice(1)).get("search") ?? "";
}
window.addEventListener("hashchange", () => { fromLink(); shown = PAGE; draw(); });
fromLink();
take(state);
go();
