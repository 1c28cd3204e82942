// The page as a whole: its head, and which of the pages the address names.

import { html, render, useState } from "./vendor/preact.js";
import { setToken } from "./api.js";
import { age, duration } from "./format.js";
import { Job } from "./job.js";
import { Model } from "./model.js";
import { Overview } from "./overview.js";
import { Problem } from "./parts.js";
import { Store } from "./store.js";

const THEME = "smdaemon-theme";
const THEMES = ["auto", "light", "dark"];
const LINKS = { live: "live", connecting: "connecting…", away: "no connection, trying again…", refused: "refused" };

function Page({ store }) {
  const { status } = store;
  return html`
    <${Head} store=${store} />
    <main id="main" tabindex="-1">
      <${Problem} error=${store.link.error} />
      ${status ? html`<${Route} store=${store} />` : html`<p class="quiet">${LINKS[store.link.state]}</p>`}
    </main>`;
}

function Route({ store }) {
  const [, kind, value] = location.hash.split("/");
  if (kind === "jobs" && /^\d+$/.test(value)) return html`<${Job} key=${value} store=${store} id=${Number(value)} />`;
  if (kind === "models" && value) return html`<${Model} key=${value} store=${store} name=${decodeURIComponent(value)} />`;
  return html`<${Overview} store=${store} />`;
}

function Head({ store }) {
  const { status, link } = store;
  return html`<header>
    <h1><a href="#/">smdaemon</a></h1>
    ${status && html`<p>${status.version}, ${status.phase}, up ${duration((Date.now() - Date.parse(status.started_at)) / 1000)}
      <small title="read ${age(status.config_loaded_at)}">${status.config_file}</small></p>`}
    <p class="link ${link.state}" role="status">${LINKS[link.state]}</p>
    <${Theme} />
    ${(link.state === "refused" || (status && !status.may_act)) && html`<${Token} store=${store} />`}
  </header>`;
}

function Theme() {
  const [theme, choose] = useState(localStorage.getItem(THEME) || "auto");
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  return html`<button type="button" class="theme" title="Change to ${next}" onClick=${() => {
    localStorage.setItem(THEME, next);
    showTheme(next);
    choose(next);
  }}>${theme}</button>`;
}

function showTheme(theme) {
  document.documentElement.style.colorScheme = theme === "auto" ? "light dark" : theme;
}

/** Whoever may not act can show the daemon's token. */
function Token({ store }) {
  return html`<form class="token" onSubmit=${(event) => {
    event.preventDefault();
    setToken(event.target.elements.token.value.trim());
    event.target.reset();
    store.reconnect();
  }}><label>Token <input name="token" type="password" autocomplete="off" /></label> <button>Use</button></form>`;
}

function main() {
  showTheme(localStorage.getItem(THEME) || "auto");
  const place = document.getElementById("app");
  place.textContent = "";
  const store = new Store(() => render(html`<${Page} store=${store} />`, place));
  addEventListener("hashchange", () => {
    store.tell();
    document.getElementById("main")?.focus();
    scrollTo(0, 0);
  });
  addEventListener("online", () => store.reconnect());
  setInterval(() => store.tell(), 10_000); // ages grow
  store.tell();
  store.run();
}

main();
