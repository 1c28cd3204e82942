"""The dashboard in a real Chromium, over a real daemon: it shows what the API says, as it happens, and does what one asks."""

import json

import pytest
import trustme
from daemon_kit import write_config
from full_journal import fill_journal, write_models
from selenium.webdriver.common.keys import Keys
from serving_kit import TOKEN, Forwarder

LARGE = 4 << 20  # floats: several buffers, so that an export may be held between them
ROWS = {
    group: f".jobs tbody.{name}"
    for group, name in (("running", "running"), ("waiting", "waiting"), ("ended", "ended-last"))
}
# The least contrast of any text with what is behind it, as WCAG 2 reckons.
CONTRAST = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => {
  const [r, g, b] = channels(colour).map((each) => each / 255).map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return channels(colour)[3] === 0 ? behind(element.parentElement) : colour;
};
const ratios = [...document.querySelectorAll("body *")]
  .filter((each) => each.innerText?.trim() && !each.children.length && !each.disabled)
  .map((each) => [light(getComputedStyle(each).color), light(behind(each))].sort((one, other) => other - one))
  .map(([high, low]) => (high + 0.05) / (low + 0.05));
return Math.min(...ratios);
"""


def published(serving, *names):
    """Drop these one after the other, and return when each is published."""
    for name in names:
        serving.drop(name)
        jobs = serving.client.events(after=0)
        next(
            event
            for event in jobs
            if event.data["job"]["source"].endswith(name) and event.data["job"]["state"] == "published"
        )


def test_the_page_shows_what_the_api_says(serving, page):
    """Head, meters, models and jobs are those of the status and of the list of jobs."""
    serving.configure()
    serving.start()
    published(serving, "ckpt-1.npz", "ckpt-2.npz")
    page.open().until_live()
    status = serving.client.get("/v1/status")
    assert f"{status['version']}, running" in page.text("header")
    assert page.text("[aria-label=Workers]").endswith(f"0 of {status['workers']} busy")
    assert page.text(".counts") == "2 published"
    (model,) = page.rows(".models tbody")
    assert (model[0], model[1], model[2], model[4]) == ("ranker", "ok", "2", "48 B")
    jobs = serving.client.get("/v1/jobs")["jobs"]
    shown = [(row[0], row[1], row[2], row[3], row[7]) for row in page.rows(".jobs tbody") if len(row) > 1]
    assert shown == [
        (str(job["id"]), "ranker", str(job["version"]), "published", job["source"].rpartition("/")[2]) for job in jobs
    ]
    assert page.count(".models .timeline rect.published") >= 1
    assert page.count(".plots canvas") == 5
    assert page.driver.title == "smdaemon: 0 running"


def test_whoever_is_not_told_is_named(serving, page):
    """A notifier whose command fails, and Serving's file that cannot be understood: each with its code and what to do."""
    (serving.root / "models.config").write_text("no such thing {")
    config = serving.configure(daemon="")
    with config.open("a") as file:
        file.write('[[notify]]\nname = "pager"\ncommand = ["false"]\n[serving]\nconfig_file = "models.config"\n')
    serving.start()
    published(serving, "ckpt-1.npz")
    page.open().until_live()
    page.until_shown(".problem", "notifier-failed")
    page.until_shown(".problem", "serving-config-invalid")
    assert "Notifier pager" in page.text("main")


def test_an_empty_daemon_has_a_page(serving, page):
    """Where nothing has happened yet the page says so."""
    serving.configure()
    serving.start()
    page.open().until_live()
    assert "Nothing runs, nothing waits" in page.text("main")
    assert page.text(".counts") == "no jobs yet"


def test_a_drop_appears_and_is_published_before_ones_eyes(serving, page):
    """Nothing is loaded anew: the stream tells it."""
    serving.configure()
    serving.start()
    page.open().until_live()
    page.driver.execute_script("window.sameDocument = true")
    serving.drop("ckpt-7.npz")
    page.until_shown(f"{ROWS['ended']} .published")
    page.until_shown(".models td.number", "7")
    assert page.driver.execute_script("return window.sameDocument")
    page.read_logs()
    assert sum("/v1/events" in url for url in page.asked) == 1
    assert sum("/v1/status" in url for url in page.asked) == 1


def test_what_is_written_shows_how_far_it_has_come(serving, page):
    """A bar, as far as the API says; then the job moves to those that have ended."""
    serving.configure()
    process = serving.start(held=True)
    page.open().until_live()
    serving.drop("ckpt-1.npz", LARGE)
    process.held()
    page.until_shown(f"{ROWS['running']} [role=progressbar]", " %")
    (job,) = serving.client.get("/v1/queue")["jobs"]
    bar = page.driver.execute_script("return document.querySelector('[role=progressbar]').ariaValueNow")
    assert int(bar) == 100 * job["bytes_done"] // job["bytes_total"]
    assert "16.0 MiB" in page.text(ROWS["running"])
    process.release()
    page.until_shown(f"{ROWS['ended']} .published")
    assert page.count("[role=progressbar]") == 0


def test_sizes_times_and_speeds_in_words(serving, page):
    """Numbers are given as people say them, and what is left as far as it can be told."""
    serving.configure()
    serving.start()
    page.open().until_live()
    said = page.driver.execute_async_script(
        """
        const done = arguments[0];
        import("/page/format.js").then((format) => done([
          format.bytes(0), format.bytes(999), format.bytes(1234567), format.bytes(2.5e12), format.rate(0), format.rate(1.1e9),
          format.duration(4.24), format.duration(75), format.duration(600), format.duration(7500), format.duration(3600 * 50),
          format.timeLeft({ state: "writing", bytes_done: 1e9, bytes_total: 3e9, bytes_per_second: 1e8 }),
          format.timeLeft({ state: "queued", bytes_done: 0, bytes_total: 3e9, bytes_per_second: 0 }),
          format.age("2026-01-01T00:00:00Z", Date.parse("2026-01-01T00:00:07.9Z")), format.basename("/runs/a/"), format.counted(1, "export"),
        ]))
        """
    )
    assert said == [
        *("0 B", "999 B", "1.2 MiB", "2.3 TiB", "", "1.0 GiB/s"),
        *("4.2 s", "75 s", "10 min", "2 h 5 min", "2 d 2 h"),
        *("20 s", "", "7 s", "a", "1 export"),
    ]


def test_over_tcp_the_buttons_wait_for_the_token(serving, page):
    """Without the token, and with a wrong one, one may look; with the right one, act. The tab remembers it."""
    serving.configure()
    process = serving.start(held=True)
    serving.drop("ckpt-1.npz", LARGE)
    process.held()
    page.open().until_live()
    page.until_shown(ROWS["running"], "Cancel")
    assert page.count("button[title^='You may read here']") == 1
    page.show_token("wrong-but-long-enough")
    page.until("!document.querySelector('.token input').value && document.querySelector('.link.live')")
    assert page.count(".act button:enabled") == 0
    page.show_token(TOKEN)
    page.until("document.querySelector('.act button:enabled')")
    assert page.count(".token") == 0
    page.open().until_live()
    page.until("document.querySelector('.act button:enabled')")
    assert TOKEN not in page.driver.page_source
    process.release()


def test_cancel_and_retry_by_mouse(serving, page):
    """Cancelling asks first; a cancelled job is run again, and ends."""
    serving.configure()
    process = serving.start(held=True)
    serving.drop("ckpt-1.npz", LARGE)
    process.held()
    page.open().until_live()
    page.show_token(TOKEN)
    page.click("Cancel")
    page.click("Leave it")
    page.until("!document.querySelector('dialog')")
    assert serving.client.get("/v1/jobs/1")["state"] == "writing"
    page.click("Cancel")
    page.click("Cancel job 1")
    page.until_shown(f"{ROWS['ended']} .cancelled")
    page.click("Retry")
    process.release()
    page.until_shown(f"{ROWS['ended']} .published")
    states = [move["state"] for move in serving.client.get("/v1/jobs/1")["history"]]
    assert states.index("cancelled") < states.index("published") == len(states) - 1


def test_pin_and_roll_back_by_keyboard_alone(serving, page):
    """From the address to a rollback and back with tabulator, letters, space and enter only."""
    serving.configure()
    serving.start()
    published(serving, "ckpt-1.npz", "ckpt-2.npz")
    page.open().until_live()
    page.press(Keys.TAB)
    assert page.focused() == "Skip to the content"
    page.press(Keys.ENTER)
    assert page.driver.execute_script("return document.activeElement.id") == "main"
    page.driver.execute_script("document.activeElement.blur()")
    page.tab_to("token")
    page.press(TOKEN, Keys.ENTER)
    page.until("document.querySelector('.act button:enabled') || !document.querySelector('.token')")
    page.tab_to("ranker")
    page.press(Keys.ENTER)
    page.until_shown(".versions", "Roll back")
    page.tab_to("Pin")
    page.press(Keys.SPACE)
    page.until_shown(".versions", "Unpin")
    assert [each["pinned"] for each in serving.client.get("/v1/models/ranker/versions")["versions"]] == [True, False]
    page.tab_to("Roll back")
    page.press(Keys.ENTER)
    page.until("document.querySelector('dialog')")
    assert page.focused() == "Leave it"
    page.press(Keys.ESCAPE)
    page.until("!document.querySelector('dialog')")
    assert page.focused() == "Roll back"
    page.press(Keys.ENTER)
    page.until("document.querySelector('dialog')")
    page.tab_to("Roll back to 1")
    page.press(Keys.ENTER)
    page.until_shown(".versions td", "3 of 1")
    assert serving.client.get("/v1/status")["models"][0]["newest_version"] == 3


def test_what_the_daemon_refuses_is_said_beside_the_button(serving, page):
    """A refusal shows the daemon's words, and the page goes on."""
    serving.configure()
    serving.start()
    published(serving, "ckpt-1.npz", "ckpt-2.npz")
    page.open().until_live()
    page.show_token(TOKEN)
    page.until("!document.querySelector('.token')")
    page.go("#/models/ranker")
    page.until(
        "[...document.querySelectorAll('.versions button:enabled')].some((each) => each.innerText === 'Roll back')"
    )
    for each in (serving.root / "models" / "1").iterdir():
        each.rename(serving.root / each.name)
    (serving.root / "models" / "1").rmdir()
    page.click("Roll back")
    page.click("Roll back to 1")
    page.until_shown(".refused", "1")
    page.forgive("/rollback")


def test_a_failed_job_says_what_is_wrong_and_what_to_do(serving, page):
    """Its page has error, code, remedy, states and the lines of the log; the queue has the code."""
    serving.configure()
    serving.start()
    (serving.root / "runs" / "ckpt-1.npz.tmp").write_bytes(b"no zip")
    (serving.root / "runs" / "ckpt-1.npz.tmp").rename(serving.root / "runs" / "ckpt-1.npz")
    page.open().until_live()
    page.until_shown(f"{ROWS['ended']} code", "source-truncated")
    page.go("#/jobs/1")
    page.until_shown("article h2", "Job 1")
    job = serving.client.get("/v1/jobs/1")
    said = page.text(".problem")
    assert all(job["error"][part] in said for part in ("message", "code", "remedy"))
    assert page.driver.execute_script(
        "return [...document.querySelectorAll('.history .state')].map((each) => each.innerText)"
    ) == [move["state"] for move in job["history"]]
    events = [line["event"] for line in job["log"]]
    assert "job failed" in events
    assert (
        page.driver.execute_script("return [...document.querySelectorAll('.log b')].map((each) => each.innerText)")
        == events
    )


def test_what_is_not_there_is_said(serving, page):
    """A job or a model that nobody knows, and an address that is none."""
    serving.configure()
    serving.start()
    page.open("#/jobs/77").until_live()
    page.until_shown(".problem", "there is no job 77")
    page.go("#/models/no%20such%zz")
    page.until_shown("main", "No model is called")
    page.go("#/nonsense")
    page.until_shown("h2", "Models")
    page.forgive("/v1/jobs/77")


def test_names_are_text(serving, page):
    """What others have named is shown, never run."""
    serving.configure(model='on_drop = "export"\nversion = "sequence"')
    serving.start()
    name = "<img src=x onerror=document.title='caught'>&amp;.npz"
    page.open().until_live()
    serving.drop(name)
    page.until_shown(f"{ROWS['ended']} .path", name)
    assert page.count("main img") == 0
    assert "caught" not in page.driver.title


def test_the_daemon_is_restarted_and_the_page_comes_back(serving, page):
    """It says that the daemon is away, and goes on with what is there afterwards, without being loaded anew."""
    serving.configure()
    process = serving.start()
    published(serving, "ckpt-1.npz")
    page.open().until_live()
    page.driver.execute_script("window.sameDocument = true")
    process.stop()
    page.until_shown(".link.away", "no connection since")
    assert "stale" in page.driver.execute_script("return document.querySelector('main').className")
    serving.start()
    published(serving, "ckpt-2.npz")
    page.until_live()
    page.until_shown(ROWS["ended"], "ckpt-2.npz")
    serving.drop("ckpt-3.npz")
    page.until_shown(ROWS["ended"], "ckpt-3.npz")
    assert page.driver.execute_script("return window.sameDocument")


def test_fifty_models_and_ten_thousand_jobs(serving, page):
    """As much is drawn as one can look at; the next of the queue are shown, and events go on arriving."""
    models = [f"model-{number:02}" for number in range(50)]
    address = serving.origin.removeprefix("http://")
    write_models(
        serving.root, models, daemon=f'control_listen = "{address}"', model='on_drop = "ignore"\non_backlog = "all"'
    )
    fill_journal(serving.root, models, ended=8000, queued=2000)
    process = serving.start(held=True)
    process.held()
    page.open().until_live()
    assert len(page.rows(".models tbody")) == 50
    assert page.text(".counts").startswith("1 writing") or page.text(".counts").startswith("2 writing")
    waiting = serving.client.get("/v1/status")["jobs"]["queued"]
    assert len(page.rows(".jobs tbody")) < 150
    assert f"and {waiting - 100:,} more" in page.text(ROWS["waiting"])
    assert page.count("*") < 12_000
    first = serving.client.get("/v1/queue", limit=1000)["jobs"]
    next_ones = [str(job["id"]) for job in first if job["state"] == "queued"][:100]
    assert [row[0] for row in page.rows(ROWS["waiting"]) if len(row) > 1] == next_ones
    process.release()
    page.until(f"Number(document.querySelector('{ROWS['ended']} a').innerText) > 8020")
    assert page.count("*") < 12_000
    page.driver.find_element("name", "name").send_keys("-17")
    page.until("document.querySelectorAll('.models tbody tr').length === 1")
    page.go("#/models/model-17")
    page.until(
        "document.querySelectorAll('.jobs tbody tr').length === 50 && document.querySelectorAll('.versions tbody tr').length === 50"
    )
    page.click("Older jobs")
    page.until("document.querySelectorAll('.jobs tbody tr').length === 100")


def test_light_and_dark(serving, page):
    """The page follows the system or what one chooses, is remembered, and can be read in both."""
    serving.configure()
    serving.start()
    published(serving, "ckpt-1.npz")
    (serving.root / "runs" / "ckpt-2.npz.tmp").write_bytes(b"no zip")
    (serving.root / "runs" / "ckpt-2.npz.tmp").rename(serving.root / "runs" / "ckpt-2.npz")
    page.open().until_live()
    page.until_shown(f"{ROWS['ended']} code", "source-truncated")
    paper = "return getComputedStyle(document.body).backgroundColor"
    plot = "return document.querySelector('.plot canvas').toDataURL()"
    seen = {}
    for scheme in ("light", "dark"):
        page.colours(scheme)
        page.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        seen[scheme] = (page.driver.execute_script(paper), page.driver.execute_script(plot))
        assert page.driver.execute_script(CONTRAST) >= 4.5, scheme
    assert seen["light"][0] != seen["dark"][0]
    assert seen["light"][1] != seen["dark"][1]
    page.click("Theme: system")
    page.until_shown("button", "Theme: light")
    assert page.driver.execute_script(paper) == seen["light"][0]
    page.open().until_live()
    page.until_shown("button", "Theme: light")
    assert page.driver.execute_script(paper) == seen["light"][0]
    page.colours("light")


@pytest.mark.parametrize("where", ["#/", "#/models/ranker", "#/jobs/1"])
def test_a_narrow_window_needs_no_sideways_scrolling(serving, page, where):
    """Everything is as wide as a telephone at most."""
    serving.configure()
    serving.start()
    published(serving, "ckpt-1.npz")
    page.driver.set_window_size(500, 800)
    page.open(where).until_live()
    page.until_shown("main", "ranker")
    assert page.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_the_browser_refuses_what_is_not_of_the_page(serving, page):
    """Neither an inline script that somebody has put there is run, nor is anything sent to another origin."""
    serving.configure()
    serving.start()
    page.open().until_live()
    page.driver.execute_script(
        "const made = document.createElement('script'); made.textContent = 'window.ran = true'; document.body.append(made);"
    )
    refused = page.driver.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:1/').then(() => done('sent'), (error) => done(String(error)))"
    )
    assert not page.driver.execute_script("return window.ran")
    assert refused.startswith("TypeError")
    page.read_logs()
    said = json.dumps(page.complaints)
    assert "script-src" in said
    assert "connect-src" in said
    page.forget_logs()
    page.open().until_live()


def test_over_tls_nothing_is_shown_without_the_token(serving, page):
    """The page says what it lacks and takes it; with a wrong one it goes on saying so."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    (serving.root / "cert.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
    (serving.root / "key.pem").touch(mode=0o600)
    (serving.root / "key.pem").write_bytes(certificate.private_key_pem.bytes())
    serving.configure(daemon='control_tls_cert = "cert.pem"\ncontrol_tls_key = "key.pem"')
    serving.origin = page.origin = serving.origin.replace("http:", "https:")
    serving.start()
    page.open()
    page.until_shown(".problem", "over TLS every request takes the token")
    assert "give the token at the top" in page.text(".problem")
    assert page.text(".link") == "refused"
    assert page.count("section") == 0
    page.show_token("wrong-but-long-enough")
    page.until_shown(".link.refused")
    page.show_token(TOKEN)
    page.until_live()
    page.until_shown("main", "ranker")
    assert page.count(".token") == 0
    page.forgive("status of 403")


def test_through_ssh_one_acts_as_who_one_is(serving, page):
    """A port that leads to the unix socket, as `ssh -L` makes it, needs neither TCP nor a token: the kernel says who it is."""
    write_config(serving.root)
    process = serving.start(held=True)
    with Forwarder(serving.root / "control.sock") as origin:
        serving.origin = page.origin = origin
        page.open().until_live()
        assert page.count(".token") == 0
        serving.drop("ckpt-1.npz", LARGE)
        process.held()
        page.click("Cancel")
        page.click("Cancel job 1")
        page.until_shown(f"{ROWS['ended']} .cancelled")
