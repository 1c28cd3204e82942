// Light, dark, or as the system is; the choice stays in this browser.

const STORED = "smdaemon-theme";
const THEMES = ["system", "light", "dark"];
const CHANGED = "theme-changed";

/** The theme that was chosen. */
export function chosenTheme() {
  const stored = localStorage.getItem(STORED);
  return THEMES.includes(stored) ? stored : THEMES[0];
}

/** Choose the next theme; its name. */
export function nextTheme() {
  const next = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
  localStorage.setItem(STORED, next);
  showTheme();
  return next;
}

/** Have the document in the chosen theme: style.css has both colours of everything. */
export function showTheme() {
  const theme = chosenTheme();
  document.documentElement.style.colorScheme = theme === "system" ? "light dark" : theme;
  dispatchEvent(new Event(CHANGED));
}

/** Call `changed` whenever colours are others; the answer ends that. For what is no part of the document's style. */
export function onTheme(changed) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  addEventListener(CHANGED, changed);
  system.addEventListener("change", changed);
  return () => {
    removeEventListener(CHANGED, changed);
    system.removeEventListener("change", changed);
  };
}
