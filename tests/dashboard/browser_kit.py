"""A page of the dashboard in a real Chromium, as a person has it: looked at, clicked and typed into; nothing here polls or sleeps."""

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

PATIENCE_SECONDS = 60
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--disable-domain-reliability", "--no-default-browser-check", "--no-pings", "--hide-scrollbars"),
)
# Answers once the condition holds: looked at now, and again whenever the page has changed.
_UNTIL = """
const [condition, done] = arguments;
const holds = new Function(`return (${condition});`);
const look = () => { const found = holds(); if (found) { observer.disconnect(); done(found); } };
const observer = new MutationObserver(look);
observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
look();
"""


def missing() -> str:
    """Why there is no browser to test with; empty where there is one."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)} here; on Debian: make browser" if absent else ""


def start_browser(profile: Path) -> webdriver.Chrome:
    """A Chromium without a window, with a profile of its own, that keeps to itself and logs what it asks for."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for each in (*QUIET, f"--user-data-dir={profile}", "--window-size=1280,900"):
        options.add_argument(each)
    options.accept_insecure_certs = True  # a daemon's certificate may be one of the test's own
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(PATIENCE_SECONDS)
    driver.set_page_load_timeout(PATIENCE_SECONDS)
    return driver


class Page:
    """The dashboard at an origin, such as 'http://127.0.0.1:8470'."""

    def __init__(self, driver: webdriver.Chrome, origin: str) -> None:
        self.driver = driver
        self.origin = origin
        self.asked: list[str] = []
        self.complaints: list[str] = []

    def open(self, where: str = "#/") -> "Page":
        """Load the page anew and show one of its parts."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.origin}/{where}")
        return self

    def go(self, where: str) -> None:
        """Follow an address within the page: nothing is loaded anew."""
        self.driver.execute_script("location.hash = arguments[0]", where)

    def until(self, condition: str) -> object:
        """The value of a JavaScript expression once it is true; TimeoutException where it never is."""
        return self.driver.execute_async_script(_UNTIL, condition)

    def until_shown(self, selector: str, text: str = "") -> None:
        """Return once an element of that selector has that text in it."""
        self.until(
            f"[...document.querySelectorAll({json.dumps(selector)})].some((each) => each.textContent.includes({json.dumps(text)}))"
        )

    def until_live(self) -> None:
        """Return once the page follows the daemon and shows it."""
        self.until(
            "document.querySelector('.link.live') && !document.querySelector('main').innerText.includes('Loading')"
        )

    def text(self, selector: str) -> str:
        """The visible text of the first such element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def rows(self, selector: str) -> list[list[str]]:
        """The visible text of the cells of the rows below such an element."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll(`${arguments[0]} tr`)]"
            ".map((row) => [...row.cells].map((cell) => cell.innerText.trim()))",
            selector,
        )

    def count(self, selector: str) -> int:
        """How many such elements there are."""
        return self.driver.execute_script("return document.querySelectorAll(arguments[0]).length", selector)

    def click(self, label: str) -> None:
        """Click the first button of that label, once it can be clicked."""
        self.until(
            f"[...document.querySelectorAll('button')].find((each) => each.innerText === {json.dumps(label)} && !each.disabled)"
        ).click()

    def show_token(self, token: str) -> None:
        """Type the daemon's token and use it."""
        self.until("document.querySelector('.token input')").send_keys(token, Keys.ENTER)

    def colours(self, scheme: str) -> None:
        """Have the system's theme light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """What has the focus, in words: its text, or the name of a field."""
        return self.driver.execute_script(
            "const at = document.activeElement; return at.innerText?.trim() || at.name || at.tagName.toLowerCase()"
        )

    def tab_to(self, words: str, *, most: int = 200) -> None:
        """Move the focus by the tabulator until it is on what has these words."""
        for _ in range(most):
            if self.focused() == words:
                return
            self.press(Keys.TAB)
        raise AssertionError(f"the tabulator does not lead to {words!r}")

    def read_logs(self) -> None:
        """Take in what the browser has asked for and complained about since the last time."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
        self.complaints += [entry["message"] for entry in self.driver.get_log("browser")]

    def forgive(self, part: str) -> None:
        """Forget the complaints about what was to be refused."""
        self.read_logs()
        self.complaints = [each for each in self.complaints if part not in each]

    def forget_logs(self) -> None:
        """Forget what the browser has asked for and complained about so far."""
        self.read_logs()
        self.asked.clear()
        self.complaints.clear()

    def origins(self) -> set[str]:
        """Where requests went to; what the browser shows of itself, in its own schemes, is none."""
        parts = [urlsplit(url) for url in self.asked]
        return {
            f"{each.scheme}://{each.netloc}" for each in parts if each.scheme in {"http", "https", "ws", "wss", "ftp"}
        }

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """What is to be seen, as a PNG; with `whole` the page in its full length."""
        if whole:
            height = self.driver.execute_script("return document.documentElement.scrollHeight")
            width = self.driver.get_window_size()["width"]
            self.driver.set_window_size(width, min(height + 20, 6000))
        self.driver.save_screenshot(str(path))
