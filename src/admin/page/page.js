"use strict";
// Everything that is shown comes from outside and is set as text, never as HTML.
const PAGE = 200, PERIOD = 10000, DAY = 86400000;
const STATES = ["rejected", "expired", "expiring", "ok", "skipped"];
// How many days of rotations are drawn, and in how many bars.
const ROTATIONS = { days: 7, bars: 84 };
// The end of each span, in days from now, and its name.
const SPANS = [
  [0, "expired"], [1, "1 day"], [7, "7 days"], [30, "30 days"],
  [90, "90 days"], [180, "180 days"], [365, "1 year"], [Infinity, "later"],
];
const byId = (id) => document.getElementById(id);
let report = JSON.parse(byId("data").textContent);
let entries = [], shown = PAGE, span = null, open = new Set(), timer = null, link = "";

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
  const left = Date.parse(time) - Date.parse(report.now);
  return left >= 0 ? `in ${length(left)}` : `${length(left)} ago`;
}

// As the command line writes it.
function instant(time) { return `${time.slice(0, 16).replace("T", " ")} UTC`; }

function second(time) { return `${time.slice(11, 19)} UTC`; }

function who(client) {
  const process = client.process ? `, ${client.process} ${client.pid ?? ""}` : "";
  return `${client.node} (${client.user ?? `uid ${client.uid}`}${process}, ${client.protocol})`;
}

function standing(client) { return client.standing.replaceAll("_", " "); }

function delivery(client, secret) {
  const parts = [standing(client)];
  if (client.requested !== secret.name) parts.push(`requested ${client.requested}`);
  if (client.version && !client.current) parts.push(`version ${client.version.slice(0, 8)}`);
  if (client.sent) parts.push(`sent ${when(client.sent)}`);
  return parts.join(", ") + (client.error ? `: ${client.error}` : "");
}

// The credentials, with the values for searching and sorting.
function collect() {
  const now = Date.parse(report.now);
  entries = report.credentials.map((credential) => {
    const { secrets } = credential;
    const pair = secrets.find((secret) => secret.key_type !== null);
    const ends = secrets.map((secret) => secret.not_after).filter(Boolean).sort();
    const subscribers = secrets.flatMap((secret) => secret.subscribers);
    const certificates = secrets.flatMap((secret) => secret.certificates);
    return {
      ...credential, subscribers,
      id: credential.folder + "/" + credential.name,
      names: pair ? pair.certificates[0].names : certificates.map((one) => one.subject),
      not_after: ends[0] ?? null,
      days: ends.length ? (Date.parse(ends[0]) - now) / DAY : null,
      since: secrets.map((secret) => secret.since).sort().at(-1) ?? null,
      text: [
        credential.name, credential.folder, credential.state,
        ...secrets.flatMap((secret) => [secret.name, secret.version, secret.kind, ...secret.files]),
        ...certificates.flatMap((one) => [one.subject, one.issuer, one.serial, ...one.names]),
        ...[...credential.problems, ...credential.warnings].map((one) => `${one.path} ${one.what}`),
        ...subscribers.map((client) => `${who(client)} ${client.requested} ${client.error ?? ""}`),
      ].join("\n").toLowerCase(),
    };
  });
}

function spanOf(days) { return SPANS.findIndex(([until]) => days < until || until === Infinity); }

function notices() {
  const list = [];
  const note = (text, bad) => list.push(make("li", bad ? { class: "bad" } : {}, text));
  report.agent.waiting_for.forEach((wait) => note(`Not ready: ${wait}`, true));
  if (report.agent.config_error) {
    note(`The configuration was refused, and the previous one is in effect: ${report.agent.config_error}`, true);
  }
  for (const root of report.roots) {
    root.problems.forEach((one) => note(`${one.path}: ${one.what}; ${one.remedy}`, true));
    root.warnings.forEach((one) => note(`${one.path}: ${one.what}; ${one.remedy}`));
  }
  for (const [reason, count] of Object.entries(report.watch.polled)) {
    const remedy = report.watch.polled_paths.find((path) => path.reason === reason)?.remedy ?? "";
    note(`${count} folders are polled instead of watched (${reason.replaceAll("_", " ")}). ${remedy}`);
  }
  replace("notices", ...list);
}

function timeline() {
  const groups = SPANS.map(() => []);
  for (const entry of entries) if (entry.days !== null) groups[spanOf(entry.days)].push(entry);
  const most = Math.max(1, ...groups.map((group) => group.length));
  replace("timeline", ...SPANS.map(([, words], index) => {
    const count = groups[index].length;
    // When a certificate is expiring depends on its lifetime, so the state decides.
    const isExpiring = groups[index].some((entry) => entry.secrets.some((one) => one.state === "expiring"));
    const kind = index === 0 ? "expired" : isExpiring ? "expiring" : "";
    const bar = make("span", { class: `bar ${count ? kind : "empty"}` });
    // The square root makes one among thousands visible.
    bar.style.height = count ? `${Math.max(6, Math.round(86 * Math.sqrt(count / most)))}px` : "2px";
    const label = index === 0 ? `${count} expired`
      : words === "later" ? `${count} expire later` : `${count} expire within ${words}, not sooner`;
    return make("button", {
      type: "button", "aria-pressed": String(span === index), title: label,
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

// How many credentials were rotated when, within the last days, or since the agent's start where that is
// later: only the last rotation of each is known.
function rotations() {
  const { bars } = ROTATIONS, uptime = report.agent.uptime_seconds * 1000;
  const isNew = uptime < ROTATIONS.days * DAY;
  const days = isNew ? Math.max(uptime, 60000) / DAY : ROTATIONS.days;
  const counts = new Array(bars).fill(0);
  for (const entry of entries) {
    if (!entry.since) continue;
    const age = (Date.parse(report.now) - Date.parse(entry.since)) / DAY;
    const bar = bars - 1 - Math.floor(Math.max(age, 0) / days * bars);
    if (bar >= 0) counts[bar] += 1;
  }
  const total = counts.reduce((sum, count) => sum + count, 0), most = Math.max(1, ...counts);
  const text = `${total} of ${entries.length} rotated or loaded `
    + (isNew ? `since the agent's start ${length(uptime)} ago` : `within the last ${days} days`);
  const drawing = byId("rotations-drawing");
  const svg = (tag, attributes) => {
    const element = document.createElementNS(drawing.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const marks = counts.flatMap((count, bar) => {
    const height = 6 + 22 * Math.sqrt(count / most);
    return count ? [svg("rect", { x: bar * 10 + 1, width: 8, y: 30 - height, height })] : [];
  });
  byId("rotations-text").textContent = text;
  drawing.setAttribute("viewBox", `0 0 ${bars * 10} 32`);
  drawing.replaceChildren(svg("line", { x1: 0, y1: 31, x2: bars * 10, y2: 31 }), ...marks);
}

function chosen() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = byId("state").value;
  const found = entries.filter((entry) =>
    (!wanted || entry.state === wanted)
    && (span === null || (entry.days !== null && spanOf(entry.days) === span))
    && words.every((word) => entry.text.includes(word)));
  const ends = (entry) => entry.days ?? Number.MAX_VALUE;
  const name = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  const orders = {
    // In the agent's order: by state, then by expiry.
    state: () => 0,
    expiry: (a, b) => ends(a) - ends(b) || name(a, b),
    rotation: (a, b) => (b.since ?? "").localeCompare(a.since ?? "") || name(a, b),
    name,
  };
  return found.sort(orders[byId("order").value]);
}

function clients(entry) {
  const counts = new Map();
  for (const client of entry.subscribers) {
    counts.set(standing(client), (counts.get(standing(client)) ?? 0) + 1);
  }
  const words = ["rejected", "nothing sent", "outdated", "up to date"].filter((word) => counts.has(word));
  const text = words.map((word) => `${counts.get(word)} ${word}`).join(", ");
  return counts.has("rejected") ? make("span", { class: "state rejected" }, text) : text;
}

function covers(entry) {
  if (entry.problems.length) return entry.problems[0].what;
  const { names } = entry;
  return names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");
}

function ago(time) {
  return time ? make("time", { datetime: time, title: instant(time) }, when(time)) : "";
}

// A long name is broken after a dot, if it has one.
function breakable(text) {
  return text.split(/(?<=\.)/).flatMap((piece, index) => (index ? [make("wbr"), piece] : [piece]));
}

function probed(probe) {
  const name = probe.name && !probe.target.startsWith(`${probe.name}:`) ? ` for ${probe.name}` : "";
  return `probed ${probe.target}${name} ${when(probe.at)}: ${probe.what}`;
}

// The clients, and below them what a probe saw last.
function seen(entry) {
  const [last] = entry.probes;
  if (!last) return [clients(entry)];
  const kind = last.verdict === "live" ? "soft" : "warning";
  return [clients(entry), make("div", { class: `probe ${kind}` }, probed(last))];
}

function row(entry) {
  const isOpen = open.has(entry.id);
  const toggle = make("button", {
    type: "button", class: "link name", "aria-expanded": String(isOpen),
    onclick: () => { if (!open.delete(entry.id)) open.add(entry.id); draw(entry.id); },
  }, ...breakable(entry.name));
  toggle.dataset.id = entry.id;
  const cell = (label, content, kind) =>
    make("td", { "data-label": label, ...(kind ? { class: kind } : {}) }, ...[content].flat());
  const main = make("tr", {},
    make("td", { class: `state ${entry.state}` }, entry.state),
    make("td", {}, toggle),
    cell("expires", ago(entry.not_after)),
    cell("", covers(entry), entry.problems.length ? entry.state : ""),
    cell("rotated", ago(entry.since)),
    cell("clients:", seen(entry)));
  return isOpen ? [main, make("tr", { class: "detail" }, make("td", { colspan: "6" }, ...details(entry)))] : [main];
}

function facts(pairs) {
  const known = pairs.filter(([, value]) => value);
  return make("dl", {}, ...known.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function details(entry) {
  const problem = (word, kind) => (item) => make("li", {},
    make("span", { class: `state ${kind}` }, word), ` ${item.path}: ${item.what}. `,
    make("span", { class: "soft" }, item.remedy));
  const word = entry.state === "skipped" ? "skipped:" : "error:";
  const lines = [
    ...entry.problems.map(problem(word, entry.state === "skipped" ? "skipped" : "rejected")),
    ...entry.warnings.map(problem("warning:", "warning")),
  ];
  return [
    lines.length ? make("ul", {}, ...lines) : "",
    facts([["Folder", entry.folder], ["Skipped files", entry.skipped_files.join(", ")]]),
    ...entry.secrets.flatMap((secret) => ofSecret(secret)),
    entry.probes.length ? make("ul", { "aria-label": "Probes" },
      ...entry.probes.map((probe) => make("li", {}, probed(probe)))) : "",
  ];
}

function ofSecret(secret) {
  const kind = secret.kind.replaceAll("_", " ");
  const previous = secret.is_previous ? ", the previous version" : "";
  const streams = secret.subscribers.slice(0, PAGE).map((client) => make("li", {},
    make("span", client.answer === "nack" ? { class: "rejected" } : {},
      `${who(client)}: ${delivery(client, secret)}`)));
  return [
    make("h3", {}, `${secret.name}, ${kind}: ${secret.state}${previous}`),
    facts([
      ["Expires", secret.not_after && `${instant(secret.not_after)}, ${when(secret.not_after)}`],
      ["Version", `${secret.version}, since ${instant(secret.since)}`],
      ["Files", secret.files.join(", ")], ["Key", secret.key_type],
      ...secret.certificates.map((one) => [
        secret.key_type ? "Chain" : "CA",
        `${one.subject}, issued by ${one.issuer}, serial ${one.serial}, until ${instant(one.not_after)}`
        + (one.names.length ? `, covers ${one.names.join(", ")}` : ""),
      ]),
      ["OCSP staple", secret.staple && (secret.staple.next_update
        ? `until ${instant(secret.staple.next_update)}` : "has no end")],
    ]),
    streams.length ? make("ul", { "aria-label": `Clients of ${secret.name}` }, ...streams) : "",
  ];
}

function waiting() {
  const { total, names } = report.waiting;
  byId("waiting").hidden = total === 0;
  byId("waiting-text").textContent = `Clients requested ${total} ${total === 1 ? "name that does" : "names that do"} not exist`
    + (total > names.length ? `; these are ${names.length} of them.` : ".");
  replace("waiting-names", ...names.map((name) =>
    make("li", {}, make("code", {}, name.name), ` ${name.streams} ${name.streams === 1 ? "stream" : "streams"}`)));
}

function draw(focus) {
  const { agent } = report;
  const streams = agent.streams.sotw + agent.streams.delta + agent.streams.fetch;
  const secrets = entries.reduce((sum, entry) => sum + entry.secrets.length, 0);
  document.title = `sds-agent on ${agent.host}`;
  byId("host").textContent = `on ${agent.host}`;
  byId("summary").textContent = `${agent.version}, ${agent.socket}: ${secrets} secrets, `
    + `${streams} streams, up ${length(agent.uptime_seconds * 1000)}`;
  notices();
  timeline();
  rotations();
  const found = chosen();
  replace("rows", ...found.slice(0, shown).flatMap(row));
  byId("count").textContent = `${found.length} of ${entries.length}`
    + (found.length > shown ? `, ${shown} shown` : "");
  byId("more").hidden = found.length <= shown;
  byId("clear").hidden = !byId("search").value && !byId("state").value && span === null;
  waiting();
  toLink();
  if (focus) [...byId("rows").querySelectorAll("button")].find((button) => button.dataset.id === focus)?.focus();
}

function states() {
  const select = byId("state"), wanted = select.value;
  select.replaceChildren(make("option", { value: "" }, "all"), ...STATES.map((word) => {
    const count = entries.filter((entry) => entry.state === word).length;
    return make("option", { value: word }, `${word} (${count})`);
  }));
  select.value = wanted;
}

function take(fresh) {
  report = fresh;
  collect();
  states();
  // The focus stays where it is.
  const active = document.activeElement?.dataset?.id;
  draw(active);
  byId("fresh").textContent = `as of ${second(report.now)}`;
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/status", { cache: "no-store", signal: AbortSignal.timeout(PERIOD) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    take(await answer.json());
  } catch {
    byId("fresh").textContent = `the agent does not answer; as of ${second(report.now)}`;
  }
}

// One request at a time; the next one follows some seconds after the answer.
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
// The filter is part of the link: #search=WORDS&state=STATE&order=ORDER&expires=SPAN.
function toLink() {
  const all = [
    ["search", byId("search").value], ["state", byId("state").value],
    ["order", byId("order").value === "state" ? "" : byId("order").value],
    ["expires", span === null ? "" : SPANS[span][1]],
  ];
  const wanted = new URLSearchParams(all.filter(([, value]) => value)).toString();
  if (wanted === link) return;
  link = wanted;
  history.replaceState(null, "", link ? `#${link}` : location.pathname);
}

function fromLink() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const choose = (id, fallback) => {
    const wanted = parameters.get(id) ?? fallback;
    const options = [...byId(id).options].map((option) => option.value);
    byId(id).value = options.includes(wanted) ? wanted : fallback;
  };
  byId("search").value = parameters.get("search") ?? "";
  choose("state", "");
  choose("order", "state");
  const index = SPANS.findIndex(([, words]) => words === parameters.get("expires"));
  span = index < 0 ? null : index;
  link = parameters.toString();
}
window.addEventListener("hashchange", () => { fromLink(); shown = PAGE; draw(); });
states();
fromLink();
take(report);
go();
