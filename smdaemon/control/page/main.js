// The page as a whole: its head, and which of the pages the address names.

import { html, render, useEffect, useState } from "./vendor/preact.js";
import { setToken } from "./api.js";
import { age } from "./format.js";
import { Job } from "./job.js";
import { Model } from "./model.js";
import { Overview } from "./overview.js";
import { Problem } from "./parts.js";
import { Store } from "./store.js";
import { chosenTheme, nextTheme, showTheme } from "./theme.js";

function Page({ store }) {
  const { status, link } = store;
  useEffect(() => {
    document.title = titleOf(store);
  });
  return html`
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault(); // the address says which page is shown
      focusMain();
    }}>Skip to the content</a>
    <${Head} store=${store} />
    <main id="main" tabindex="-1" class=${status && link.state !== "live" ? "stale" : ""}>
      ${link.state === "refused" ? html`<${Refused} error=${link.error} />` : ""}
      ${status ? html`<${Route} store=${store} />` : html`<p class="quiet">${link.state === "refused" ? "" : inWords(link)}</p>`}
    </main>`;
}

/** The daemon's refusal; its remedy is for programs where a token is what it lacks. */
function Refused({ error }) {
  const remedy = "give the token at the top of this page: it is in the file that control_token_file names";
  return html`<${Problem} error=${error.code === "not-allowed" ? { code: error.code, message: error.message, remedy } : error} />`;
}

function Route({ store }) {
  const [, kind, value] = location.hash.split("/");
  if (kind === "jobs" && /^\d+$/.test(value)) return html`<${Job} key=${value} store=${store} id=${Number(value)} />`;
  if (kind === "models" && value) return html`<${Model} key=${value} store=${store} name=${decoded(value)} />`;
  return html`<${Overview} store=${store} />`;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function Head({ store }) {
  const { status, link } = store;
  return html`<header>
    <h1><a href="#/">smdaemon</a></h1>
    ${status && html`<p>${status.version}, ${status.phase}, up ${age(status.started_at)}${" "}
      <small class="minor" title="read ${age(status.config_loaded_at)} ago">${status.config_file}</small></p>`}
    <p class="link ${link.state}" role="status">${inWords(link)}</p>
    ${(link.state === "refused" || (status && !status.may_act)) && html`<${Token} store=${store} />`}
    <${Theme} />
  </header>`;
}

function inWords({ state, since }) {
  if (state === "away") return `no connection since ${new Date(since).toLocaleTimeString()}, trying again`;
  return state === "connecting" ? "connecting…" : state;
}

function titleOf({ status, link, sorted }) {
  if (!status || link.state !== "live") return `smdaemon: ${inWords(link)}`;
  const ill = status.models.filter((model) => model.health !== "ok").length;
  return `smdaemon: ${ill ? `${ill} degraded, ` : ""}${sorted.running.length} running`;
}

function Theme() {
  const [theme, choose] = useState(chosenTheme());
  return html`<button type="button" class="theme" title="Change between the system's theme, light and dark" onClick=${() => choose(nextTheme())}>Theme: ${theme}</button>`;
}

/** Whoever may not act can show the daemon's token. */
function Token({ store }) {
  return html`<form class="token" onSubmit=${(event) => {
    event.preventDefault();
    setToken(event.target.elements.token.value.trim());
    event.target.reset();
    store.reconnect();
  }}><label>Token <input name="token" type="password" autocomplete="off" title="What the file holds that control_token_file names; kept until the tab is closed" /></label> <button>Use</button></form>`;
}

function focusMain() {
  document.getElementById("main")?.focus();
}

function main() {
  showTheme();
  const place = document.getElementById("app");
  place.textContent = "";
  const store = new Store(() => render(html`<${Page} store=${store} />`, place));
  addEventListener("hashchange", () => {
    store.tell();
    focusMain();
    scrollTo(0, 0);
  });
  addEventListener("online", () => store.reconnect());
  setInterval(() => store.tell(), 5_000); // ages grow
  store.tell();
  store.run();
}

main();
