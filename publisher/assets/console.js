"use strict";
// The console. It draws what the publisher says and asks for what the API offers; every text becomes a text node,
// so that nothing that is replicated can become part of the page.

const main = document.getElementById("main");
const verdict = document.getElementById("verdict");
const signOut = document.getElementById("sign-out");

// ---- drawing

function put(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

function make(node, attributes) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  return node;
}

const h = (tag, attributes, ...children) => put(make(document.createElement(tag), attributes), children);
const s = (tag, attributes, ...children) =>
  put(make(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes), children);
const show = (...children) => main.replaceChildren(put(document.createDocumentFragment(), children));
const pill = (look, text) => h("span", { class: `pill ${look}` }, text);
const notice = (look, ...text) => h("p", { class: `notice ${look}`, role: look === "bad" ? "alert" : null }, text);
const facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) =>
  h("div", {}, h("dt", {}, name), h("dd", {}, value))));

const number = (n) => (n === null || n === undefined ? "–" : String(n).replace(/\B(?=(\d{3})+$)/g, ","));
function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}
const ms = (milliseconds) => (milliseconds === null || milliseconds === undefined ? "–" : span(milliseconds / 1000));

// For the benchmark: when a page was first there.
function first(mark) {
  if (!performance.getEntriesByName(mark).length) performance.mark(mark);
}

// ---- asking

class SignedOut extends Error {}
// Whoever asked looks at another page by now.
class Left extends Error {}

let turn = 0;

async function ask(path, body) {
  const asked = turn;
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Hubcast-Console": "1" },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the publisher does not answer");
  }
  if (response.status === 401 && path !== "/console/sign-in") throw new SignedOut();
  if (response.status === 204) return null;
  const text = await response.text();
  if (turn !== asked) throw new Left();
  let answer;
  try { answer = JSON.parse(text); } catch { throw new Error(text || `the publisher answers ${response.status}`); }
  if (!response.ok) throw new Error(answer.message || answer.error || `the publisher answers ${response.status}`);
  return answer;
}

// ---- who looks

let me = null;
// What the page came with.
let given = JSON.parse(document.getElementById("session").textContent);

async function identify() {
  const answer = given || await ask("/console/session");
  given = null;
  if (!answer.is_signed_in) throw new SignedOut();
  me = answer;
  signOut.textContent = `Sign out ${me.who}`;
}

// ---- what is told

let told = null;
let events = null;
let toldAt = 0;

// A browser has six connections to a publisher, for all of its pages together: one that nobody sees gives its own back.
document.addEventListener("visibilitychange", () => { if (document.hidden) deaf(); else if (me) listen(); });
window.addEventListener("pagehide", deaf);
window.addEventListener("pageshow", () => { if (me) listen(); });

function listen() {
  if (events || document.hidden) return;
  events = new EventSource("/console/events");
  events.addEventListener("pane", (event) => {
    told = JSON.parse(event.data);
    toldAt = Date.now();
    drawVerdict();
    if (page().name === "") drawOverview();
  });
  events.addEventListener("error", () => {
    const isOver = events && events.readyState === EventSource.CLOSED;
    if (isOver) deaf();
    if (isOver) again();
    drawVerdict();
  });
}

// A publisher that was replaced knows nobody.
function again() {
  ask("/console/session").then(
    (answer) => (answer.is_signed_in ? listen() : drawSignIn()),
    () => setTimeout(again, 2000));
}

function deaf() {
  if (events) events.close();
  events = null;
}

function drawVerdict() {
  const isLive = events && events.readyState === EventSource.OPEN && Date.now() - toldAt < 15000;
  if (!told) verdict.replaceChildren();
  else if (!isLive) verdict.replaceChildren(pill("bad", "not live: the publisher does not answer"));
  else verdict.replaceChildren(told.is_well ? pill("good", "all is well") : pill("warn", "look below"));
}
setInterval(drawVerdict, 5000);

// ---- overview

// What a store's state is called, and how it looks.
function standing(store) {
  const view = store.writer_view;
  if (store.unreachable) return ["bad", "unreachable"];
  if (!store.synced_kinds.length) return ["warn", "never filled"];
  if (!view) return ["none", "no writer here"];
  if (view.failure) return ["bad", view.standing];
  if (told && told.status.pauses.some((pause) => !pause.region || pause.region === store.region)) return ["warn", "paused"];
  if (view.behind) return ["warn", "behind"];
  return [view.standing === "in step" ? "good" : "warn", view.standing];
}
const worst = (looks) => ["bad", "warn", "none", "good"].find((look) => looks.includes(look)) || "none";
const lagOf = (store) => (store.writer_view && !store.unreachable ? store.writer_view.lag_ms : null);
const address = (store) => store.store.slice(store.region.length + 1);

function regions(stores) {
  const found = new Map();
  for (const store of stores) found.set(store.region, [...(found.get(store.region) || []), store]);
  return [...found];
}

function sparkline(past, name) {
  if (!past || !past.worst_ms.length) return null;
  const values = past.worst_ms;
  const top = Math.max(...values.map((v) => v || 0), 5);
  const x = (i) => 240 - (values.length - 1 - i) * 4;
  const y = (v) => 33 - (Math.log1p(v) / Math.log1p(top)) * 30;
  let path = "";
  values.forEach((v, i) => { if (v !== null) path += path && values[i - 1] !== null ? `L${x(i)} ${y(v)}` : `M${x(i)} ${y(v)}h0.01`; });
  const gaps = values.map((v, i) => v === null && s("rect", { class: "gap", x: x(i) - 2, y: 0, width: 4, height: 36 }));
  const label = `Lag of ${name} in the last ${values.length} minutes, at most ${ms(top)}`;
  return h("div", { class: "sparkline" }, s("svg", { viewBox: "0 0 244 36", preserveAspectRatio: "none", role: "img", "aria-label": label },
    s("title", {}, label), gaps, s("path", { class: "spark", d: path, "vector-effect": "non-scaling-stroke" })));
}

function tile([region, stores]) {
  const look = worst(stores.map((store) => standing(store)[0]));
  return h("section", { class: "card", "data-region": region, "aria-label": region },
    h("div", { class: "top" }, h("h3", {}, region), pill(look, look === "good" ? "in step" : look === "none" ? "unknown" : "look")),
    stores.map((store) => {
      const [look, word] = standing(store);
      const view = store.writer_view;
      const why = store.unreachable || (view && (view.failure || view.behind));
      return h("div", { class: "store", "data-store": store.store },
        h("div", { class: "top" }, h("span", { class: "quiet" }, address(store)), pill(look, word)),
        h("div", { class: "top" },
          h("span", { class: "lag" }, ms(lagOf(store)), h("span", { class: "quiet" }, " lag")),
          h("span", { class: "quiet" }, `age ${span(store.age_seconds)}`)),
        sparkline(told.history[store.store], store.store),
        h("div", { class: "quiet" }, `${number(store.contexts)} contexts · ${number(store.tenants)} tenants`,
          view && view.queued ? ` · ${number(view.queued)} wait` : ""),
        why && h("div", { class: "quiet bad" }, why));
    }));
}

function picture(all) {
  const [wide, high] = [560, 290];
  const parts = [];
  all.forEach(([region, stores], i) => {
    const angle = (i / all.length) * 2 * Math.PI + Math.PI;
    const [x, y] = [wide / 2 + Math.cos(angle) * 220, high / 2 + Math.sin(angle) * 105];
    const label = Math.sin(angle) < -0.1 ? y - 18 : y + 27;
    const look = worst(stores.map((store) => standing(store)[0]));
    const lags = stores.map(lagOf).filter((lag) => lag !== null);
    const lag = lags.length ? ms(Math.max(...lags)) : "";
    parts.push(
      s("line", { class: `link ${look}`, x1: wide / 2, y1: high / 2, x2: x, y2: y }),
      s("text", { class: "quiet", x: (x + wide / 2) / 2 + 4, y: (y + high / 2) / 2 - 4 }, lag),
      s("circle", { class: `node ${look}`, cx: x, cy: y, r: 10 }, s("title", {}, `${region}: ${stores.map((x) => standing(x)[1]).join(", ")}`)),
      s("text", { x, y: label, "text-anchor": "middle" }, region));
  });
  return s("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": `The hub and ${all.length} regions` }, parts,
    s("circle", { class: "node hub", cx: wide / 2, cy: high / 2, r: 24 }),
    s("text", { x: wide / 2, y: high / 2 + 4, "text-anchor": "middle" }, "hub"));
}

function histogram() {
  const sums = told.classes_ms.map(() => 0).concat(0);
  for (const past of Object.values(told.history)) past.classes.forEach((count, i) => { sums[i] += count; });
  const all = sums.reduce((a, b) => a + b, 0);
  const top = Math.max(...sums, 1);
  const names = told.classes_ms.map((bound) => (bound < 1000 ? String(bound) : `${bound / 1000} s`)).concat("more");
  const label = `From commit to durable in a store: ${all} beats of the last hour`;
  return s("svg", { viewBox: "0 0 400 220", role: "img", "aria-label": label }, s("title", {}, label),
    sums.map((count, i) => {
      const tall = (count / top) * 165;
      return s("g", {}, s("title", {}, i < told.classes_ms.length ? `at most ${ms(told.classes_ms[i])}: ${count}` : `more: ${count}`),
        s("rect", { class: "bar", x: i * 33 + 4, y: 180 - tall, width: 26, height: Math.max(tall, count ? 2 : 0) }),
        count > 0 && s("text", { class: "quiet", x: i * 33 + 17, y: 175 - tall, "text-anchor": "middle" }, `${Math.max(1, Math.round((count / all) * 100))}%`),
        s("text", { class: "quiet", x: i * 33 + 17, y: 196, "text-anchor": "middle" }, names[i]));
    }), s("text", { class: "quiet", x: 4, y: 214 }, "milliseconds, at most"));
}

function troubles() {
  const { status } = told;
  const engine = status.engine;
  const found = [];
  if (status.database) found.push(notice("bad", `The database: ${status.database}. Gateways go on with what their region has.`));
  if (status.writer && status.writer.released) found.push(notice("bad", "There is no writer: start a publisher with ", h("code", {}, "publisher run"), "."));
  if (engine && engine.suspended) found.push(notice("bad", "The writer cannot renew its lease and sends nothing until it can."));
  if (engine && engine.capture_gap) found.push(notice("warn", `Changes are not all seen at once, scans find them: ${engine.capture_gap}`));
  if (engine && engine.budget_tenants) {
    found.push(notice("warn", `${number(engine.budget_tenants)} tenants are near a budget or over it: `,
      Object.keys(engine.budgets).slice(0, 10).map((tenant, i) => [i ? ", " : "", h("a", { href: `#/tenant/${encodeURIComponent(tenant)}` }, tenant)])));
  }
  if (engine && engine.held_tenants) {
    found.push(notice("warn", `Something of ${number(engine.held_tenants)} tenants is held: `,
      Object.keys(engine.held).slice(0, 10).map((tenant, i) => [i ? ", " : "", h("a", { href: `#/tenant/${encodeURIComponent(tenant)}` }, tenant)])));
  }
  for (const pause of status.pauses) {
    found.push(notice("warn", `Paused: ${extent(pause)}, by ${pause.who}: ${pause.reason}. `, h("a", { href: "#/pause" }, "Pauses")));
  }
  for (const line of status.differences) found.push(notice("warn", line));
  for (const refusal of (engine ? engine.refusals : []).slice(-5)) found.push(notice("warn", `Refused: ${JSON.stringify(refusal)}`));
  return found;
}

function drawOverview() {
  if (!told) return show(h("h1", {}, "Overview"), h("p", { class: "quiet" }, "Asking the regions …"));
  const focused = document.activeElement && document.activeElement.id;
  const { status } = told;
  const { engine, writer, last_scan: last } = status;
  const all = regions(status.stores);
  const repaired = last ? last.summary.stores.reduce((sum, store) => sum + store.repaired, 0) : 0;
  show(h("h1", {}, "Overview"), troubles(),
    facts([
      ["Writer", writer ? `${writer.host}, epoch ${writer.epoch}${engine ? "" : " (not this publisher)"}` : "unknown"],
      writer && writer.standbys.length > 0 && ["Standing by", number(writer.standbys.length)],
      engine && ["Waiting to be built", number(engine.dirty)],
      engine && ["Changes under way", number(engine.unacked)],
      ["Last scan", last ? `${span(last.seconds_ago)} ago, took ${ms(last.summary.ms)}, repaired ${number(repaired)}` : "none yet"],
      engine && engine.scan && ["Scanning", `${Math.round(engine.scan.progress * 100)} % (${engine.scan.cause})`],
      ["Release", told.release],
    ]),
    h("p", {}, h("button", { id: "scan", type: "button", onclick: startScan, disabled: !me.may_republish || !!(engine && engine.scan) }, "Scan now")),
    h("div", { class: "tiles" }, all.map(tile)),
    h("div", { class: "wide" },
      h("section", { class: "card" }, h("h3", {}, "Hub and regions"), picture(all)),
      h("section", { class: "card" }, h("h3", {}, "From commit to durable, last hour"), histogram())));
  if (focused) document.getElementById(focused)?.focus();
  first("overview");
}

async function startScan() {
  try { await ask("/v1/scan", {}); } catch (error) { fail(error); }
}

// ---- tenant

// What is there so soon is drawn at once, without a word that it is being asked for.
const MOMENT_MS = 150;
const isSoon = (asked) => Promise.race([
  asked.then(() => true, () => true),
  new Promise((resolve) => { setTimeout(resolve, MOMENT_MS, false); }),
]);

async function drawTenant(tenant, query) {
  const what = h("select", { name: "what", id: "what" }, h("option", { value: "" }, "tenant"),
    me.kinds.map((kind) => h("option", { value: kind, selected: query.get("kind") === kind }, `key of ${kind}`)));
  const text = h("input", { name: "text", id: "text", autocomplete: "off", spellcheck: "false", value: query.get("key") || tenant || "", required: true });
  const found = h("div", { "aria-live": "polite" });
  const search = async (event) => {
    event.preventDefault();
    if (!what.value) { location.hash = `#/tenant/${encodeURIComponent(text.value)}`; return; }
    try {
      const part = new URLSearchParams({ kind: what.value, key: text.value });
      const { tenants } = await ask(`/console/find?${part}`);
      if (!tenants.length) found.replaceChildren(notice("good", `No tenant has ${what.value} ${text.value}, neither at the hub nor in a store that answers.`));
      else if (tenants.length === 1) location.hash = `#/tenant/${encodeURIComponent(tenants[0])}?${part}`;
      else found.replaceChildren(notice("warn", "Several tenants have it: ", tenants.map((name) =>
        [" ", h("a", { href: `#/tenant/${encodeURIComponent(name)}?${part}` }, name)])));
    } catch (error) { fail(error, found); }
  };
  const look = () => show(h("h1", {}, "Tenant"),
    h("form", { onsubmit: search, role: "search" }, h("label", {}, "Look for", what), h("label", {}, "Name", text),
      h("button", { class: "main", type: "submit" }, "Search")),
    found);
  if (!tenant) { look(); text.focus(); return; }
  const asked = askSides(tenant, query);
  const begun = turn;
  const soon = await isSoon(asked);
  if (turn !== begun) return;
  if (!soon) {
    found.append(h("p", { class: "quiet" }, "Asking the hub and every store …"));
    look();
  }
  await drawSides(tenant, query, found, asked);
  if (soon) look();
  first("tenant");
}

const askSides = (tenant, query) => ask(`/console/tenants/${encodeURIComponent(tenant)}?${query}`);

async function drawSides(tenant, query, into, asked = askSides(tenant, query)) {
  const side = await asked;
  const receipt = h("div", { "aria-live": "polite" });
  const republish = async (event) => {
    event.target.disabled = true;
    receipt.replaceChildren(h("p", { class: "quiet" }, "Building and pushing …"));
    try {
      const answer = await ask("/v1/republish", { tenant, wait: true });
      await drawSides(tenant, query, into);
      into.prepend(notice(answer.delivered ? "good" : "warn", answer.delivered
        ? `Durable in ${answer.receipts.length} stores.` : "Not everywhere: see the stores below."));
    } catch (error) { event.target.disabled = false; fail(error, receipt); }
  };
  const look = (store) => (store.unreachable ? ["bad", "unreachable"] : store.differing ? ["warn", `${store.differing} differ`] : ["good", "as at the hub"]);
  const other = side.stores.filter((store) => store.differing).length;
  const silent = side.stores.filter((store) => store.unreachable).length;
  const summary = side.hub_failure ? notice("bad", `The hub cannot say what it publishes: ${side.hub_failure}`)
    : other || silent ? notice("warn", `${other} of ${side.stores.length} stores differ from the hub.`, silent > 0 && ` ${silent} do not answer.`)
    : !side.count ? notice("good", query.get("key") ? `${query.get("kind")} ${query.get("key")} is nowhere: neither at the hub nor in any store.` : "This tenant is nowhere: neither at the hub nor in any store.")
    : notice("good", "Every store has exactly what the hub has.");
  const value = (row, json) => (row.is_sensitive ? h("span", { class: "quiet" }, "masked") : json === null || json === undefined ? null : h("pre", {}, JSON.stringify(json, null, 1)));
  const words = { same: "same", absent: "–", unknown: "unknown", changed: "other value", missing: "missing", extra: "not at the hub", held: "held", kept: "kept" };
  const cell = (row, cell) => {
    const differs = ["changed", "missing", "extra", "held"].includes(cell.is);
    return h("td", { class: differs ? "differs" : null, "data-is": cell.is },
      cell.is === "same" ? h("span", { class: "good" }, "✓ same") : h("span", { class: differs ? "bad" : "quiet" }, words[cell.is]),
      cell.value !== null && cell.is !== "same" ? value(row, cell.value) : null);
  };
  const more = side.count > side.contexts.length + Number(query.get("skip") || 0);
  const next = new URLSearchParams(query);
  next.set("skip", Number(query.get("skip") || 0) + side.contexts.length);
  into.replaceChildren(put(document.createDocumentFragment(), [
    h("h2", {}, `Tenant ${side.tenant}`), summary,
    h("p", {}, h("button", { type: "button", id: "republish", onclick: republish, disabled: !me.may_republish }, "Republish"), " ",
      h("button", { type: "button", id: "compare", onclick: () => drawSides(tenant, query, into).catch((error) => fail(error, receipt)) }, "Compare again")),
    receipt,
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Contexts side by side" }, h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Context"), h("th", { scope: "col" }, "Hub"),
        side.stores.map((store) => {
          const [tone, word] = look(store);
          return h("th", { scope: "col", "data-store": store.store }, store.store, h("div", {}, pill(tone, word)),
            h("div", { class: "quiet" }, store.unreachable || `version ${store.version || "–"}, age ${span(store.age_seconds)}`));
        }))),
      h("tbody", {}, side.contexts.map((row) => h("tr", {},
        h("th", { scope: "row" }, row.kind, h("div", {}, h("code", {}, row.key))),
        h("td", {}, row.held ? h("div", { class: "bad" }, `held: ${row.held}`) : null,
          row.regions.length ? value(row, row.hub) : h("span", { class: "quiet" }, row.held ? "" : "not there"),
          row.regions.length ? h("div", { class: "quiet" }, row.regions.join(", ")) : null),
        row.stores.map((there) => cell(row, there))))))),
    h("p", { class: "quiet" }, `${number(side.count)} contexts. `, more && h("a", { href: `#/tenant/${encodeURIComponent(tenant)}?${next}` }, "More")),
  ]));
}

// ---- scans and definitions

async function drawScans() {
  const { scans } = await ask("/console/scans");
  const repaired = (scan) => scan.stores.reduce((sum, store) => sum + store.repaired, 0);
  show(h("h1", {}, "Scans"), scans.length === 0 && h("p", {}, "There was none yet."),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Scans" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Ended", "Cause", "Took", "Contexts", "Repaired", "Held tenants", "Stores", "Notes"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, scans.map(([ago, scan]) => h("tr", {},
        h("td", {}, `${span(ago)} ago`), h("td", {}, scan.cause), h("td", { class: "number" }, ms(scan.ms)),
        h("td", { class: "number" }, number(scan.contexts)), h("td", { class: "number" }, number(repaired(scan))),
        h("td", { class: "number" }, number(scan.held_tenants)),
        h("td", {}, scan.stores.map((store) => h("div", {}, pill(store.in_step ? "good" : "warn", store.in_step ? "in step" : "not in step"), " ", store.store,
          h("span", { class: "quiet" }, [store.filled && " filled", store.repaired > 0 && ` repaired ${number(store.repaired)}: ${store.repaired_tenants.join(", ")}`, store.why && ` ${store.why}`].filter(Boolean).join("; "))))),
        h("td", {}, [...scan.problems, ...scan.warnings].map((line) => h("div", { class: "quiet" }, line)))))))));
}

async function drawDefinitions() {
  const answer = await ask("/console/definitions");
  const watch = (watched) => {
    const how = watched.tenant ? `tenant column ${watched.tenant}` : watched.tenants === "all" ? "every tenant" : "tenants by a query";
    return h("li", {}, h("code", {}, watched.table), ` · ${how}`, watched.columns && ` · only ${watched.columns.join(", ")}`);
  };
  show(h("h1", {}, "Definitions"),
    answer.drift ? notice("warn", `Drift: ${answer.drift}`) : notice("good", "Every watched table has its triggers, as far as the writer of this publisher knows."),
    answer.differences.map((line) => notice("warn", line)),
    facts([["Tenants are of type", answer.tenant_type], ["Stores", number(Object.keys(answer.stores).length)]]),
    answer.kinds.map((kind) => h("section", { class: "card" }, h("div", { class: "top" }, h("h3", {}, kind.kind),
      answer.sensitive.includes(kind.kind) && pill("none", "sensitive")),
      h("pre", {}, kind.query), h("h2", {}, "Watches"), h("ul", {}, kind.watch.map(watch)),
      h("p", { class: "quiet" }, `values up to ${number(kind.max_value_bytes)} bytes`, kind.has_regions && " · by region", kind.has_expires && " · may expire"))));
}

// ---- the stop button, and who did what

const extent = (pause) => `${pause.kind ? `kind ${pause.kind}` : "every kind"} in ${pause.region || "every region"}`;

async function drawPause() {
  const [status, { kinds: all }] = await Promise.all([ask("/v1/status"), ask("/console/definitions")]);
  const choice = (name, what, names) => h("label", {}, what, h("select", { name, id: name }, h("option", { value: "" }, `every ${name}`),
    names.map((text) => h("option", {}, text))));
  const said = h("div", { "aria-live": "polite" });
  const act = (path, body) => async (event) => {
    event.preventDefault();
    try {
      await ask(path, typeof body === "function" ? body(event.target) : body);
      await drawPause();
    } catch (error) { fail(error, said); }
  };
  const asked = (form) => ({ region: form.region.value || null, kind: form.kind.value || null, reason: form.reason.value });
  show(h("h1", {}, "Pause"), said,
    h("p", {}, "While something is paused its contexts keep the values that regions have; what is new or changed waits, and only removals leave."),
    h("form", { id: "stop", onsubmit: act("/v1/pause", asked) }, choice("region", "Where", regions(status.stores).map(([name]) => name)),
      choice("kind", "What", all.map((kind) => kind.kind)),
      h("label", {}, "Reason", h("input", { name: "reason", id: "reason", required: true, autocomplete: "off" })),
      h("button", { class: "main", type: "submit", disabled: !me.may_operate }, "Pause")),
    status.pauses.length === 0 && notice("good", "Nothing is paused."),
    status.pauses.map((pause) => h("form", { class: "card", onsubmit: act("/v1/resume", (form) => ({ region: pause.region, kind: pause.kind, reason: form.reason.value })) },
      h("div", {}, h("strong", {}, extent(pause)), h("div", { class: "quiet" }, `${pause.who}, ${span(pause.seconds_ago)} ago: ${pause.reason}`)),
      h("label", {}, "Reason to go on", h("input", { name: "reason", required: true, autocomplete: "off" })),
      h("button", { type: "submit", disabled: !me.may_operate }, "Resume"))),
    status.pause_exceptions.length > 0 && notice("warn", `Published all the same: ${status.pause_exceptions.join(", ")}`));
}

async function drawHeld() {
  const { held } = await ask("/v1/held");
  const said = h("div", { "aria-live": "polite" });
  const decide = (path, group) => async (event) => {
    event.target.disabled = true;
    try {
      const kept = group.state === "dropped";
      const answer = await ask(path, { region: group.region, kind: group.kind, reason: group.reason, kept });
      await drawHeld();
      main.prepend(notice("good", path.endsWith("approve") ? `${number(answer.contexts)} ${of[group.reason]} go out now.`
        : `${number(answer.contexts)} contexts stay as they are until the hub changes them again.`));
    } catch (error) { event.target.disabled = false; fail(error, said); }
  };
  const of = { removed: "removals", changed: "changes", budget: "new contexts" };
  const states = { approved: "let through", dropped: "kept" };
  const keep = { removed: "Keep the values", changed: "Keep the old values", budget: "Keep them out" };
  const row = (group) => h("tr", { "data-held": `${group.region} ${group.kind}`, "data-reason": group.reason },
    h("td", {}, group.region), h("td", {}, group.kind), h("td", {}, of[group.reason]), h("td", { class: "number" }, number(group.contexts)),
    h("td", { class: "number" }, number(group.tenants)),
    h("td", {}, group.cause, h("div", { class: "quiet" }, `since ${span(group.seconds_ago)}`)),
    h("td", {}, group.examples.slice(0, 5).map(([tenant, key]) => h("div", {}, h("a", { href: `#/tenant/${encodeURIComponent(tenant)}` }, tenant), " ", h("code", {}, key)))),
    h("td", {}, group.state === "held" ? null : h("div", {}, `${states[group.state]} by ${group.decided_by || "–"}`),
      group.state !== "approved" && h("button", { type: "button", class: "approve", disabled: !me.may_operate, onclick: decide("/v1/held/approve", group) }, "Let through"), " ",
      group.state === "held" && h("button", { type: "button", class: "drop", disabled: !me.may_operate, onclick: decide("/v1/held/drop", group) }, keep[group.reason])));
  show(h("h1", {}, "Held"), said,
    h("p", {}, "Removals and changes beyond what the guard lets pass, and new contexts beyond a tenant's budget. Regions keep what they have until somebody decides, or, for a budget, until there is room."),
    held.length === 0 ? notice("good", "Nothing is held.")
      : h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Held" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Region", "Kind", "What", "Contexts", "Tenants", "Cause", "Some of them", "Decide"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, held.map(row)))));
}

async function drawAudit() {
  const { acts } = await ask("/v1/audit?limit=1000");
  show(h("h1", {}, "Audit"), acts.length === 0 && h("p", {}, "Nothing was done yet."),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Audit" }, h("table", {},
      h("thead", {}, h("tr", {}, ["When (UTC)", "Who", "From", "Did", "What"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, acts.map((act) => h("tr", {}, h("td", {}, act.at), h("td", {}, act.who), h("td", {}, act.origin), h("td", {}, act.action),
        h("td", {}, h("code", {}, JSON.stringify(act.what)))))))));
}

// ---- signing in, and from page to page

function drawSignIn() {
  turn++;
  deaf();
  told = me = null;
  signOut.hidden = true;
  verdict.replaceChildren();
  const token = h("input", { id: "token", type: "password", name: "token", autocomplete: "current-password", required: true });
  const said = h("div", { "aria-live": "assertive" });
  const enter = async (event) => {
    event.preventDefault();
    try {
      await ask("/console/sign-in", { token: token.value });
      token.value = "";
      draw();
    } catch (error) { said.replaceChildren(notice("bad", error.message)); }
  };
  show(h("section", { class: "card sign-in" }, h("h1", {}, "Sign in"),
    h("form", { onsubmit: enter }, h("label", {}, "Token", token), h("button", { class: "main", type: "submit" }, "Sign in")),
    said, h("p", { class: "quiet" }, "hub.api_token of the publisher's configuration, or the token of a [[hub.token]].")));
  token.focus();
}

function fail(error, into) {
  if (error instanceof Left) return;
  if (error instanceof SignedOut) return drawSignIn();
  (into || main).prepend(notice("bad", error.message));
}

function page() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  let part = rest.join("/");
  try { part = decodeURIComponent(part); } catch { /* as it was typed */ }
  return { name, part, query: new URLSearchParams(query || "") };
}

async function draw() {
  const mine = ++turn;
  const { name, part, query } = page();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    if (!me) await identify();
    if (name === "tenant") await drawTenant(part, query);
    else if (name === "scans") await drawScans();
    else if (name === "definitions") await drawDefinitions();
    else if (name === "pause") await drawPause();
    else if (name === "audit") await drawAudit();
    else if (name === "held") await drawHeld();
    else drawOverview();
    if (turn !== mine) return;
    signOut.hidden = false;
    listen();
  } catch (error) {
    if (turn !== mine) return;
    if (!(error instanceof SignedOut)) show(h("h1", {}, "Hubcast"));
    fail(error);
  }
}

signOut.addEventListener("click", async () => {
  try { await ask("/console/sign-out", {}); } finally { drawSignIn(); }
});
window.addEventListener("hashchange", draw);
draw();
