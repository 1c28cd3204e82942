"""The dashboard's files over plain HTTP: who gets what, under which rules for the browser."""

import re
from importlib.resources import files

import pytest
import trio
from control_fakes import serving
from control_http import ask

from smdaemon.control import pages
from smdaemon.control.access import Access

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PAGE = files("smdaemon.control").joinpath("page")
NAMES = sorted(pages._all())
needs_vendor = pytest.mark.skipif(
    not pages.is_complete(), reason="what the page stands on is not here: make installs it"
)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_served_as_it_is_under_the_same_rules(server, name):
    """Content, type, tag and the policy that forbids everything from elsewhere."""
    answer = ask(server.path, "GET", f"/page/{name}")
    assert answer.status == 200
    assert answer.content == PAGE.joinpath(name).read_bytes()
    kinds = {
        "html": "text/html",
        "js": "text/javascript",
        "css": "text/css",
        "svg": "image/svg+xml",
        "txt": "text/plain",
    }
    assert answer.headers["Content-Type"].partition(";")[0] == kinds[name.rpartition(".")[2]]
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_a_file_that_the_browser_has_is_not_sent_again(server):
    """304 for its tag, the file for any other; HEAD tells the tag, too."""
    tag = ask(server.path, "GET", "/page/main.js").headers["ETag"]
    assert ask(server.path, "HEAD", "/page/main.js").headers["ETag"] == tag
    again = ask(server.path, "GET", "/page/main.js", headers={"If-None-Match": tag})
    assert (again.status, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert again.headers["Content-Security-Policy"]
    assert ask(server.path, "GET", "/page/main.js", headers={"If-None-Match": '"other"'}).status == 200
    assert ask(server.path, "GET", "/page/main.js").headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "nothing.js",
            "",
            "vendor",
            "vendor/",
            "../pages.py",
            "..%2fpages.py",
            "%2e%2e/pages.py",
            "vendor/../../pages.py",
        ),
        *("/etc/passwd", "%2fetc%2fpasswd", "index.html/", "index.html%00", "INDEX.HTML", "..\\pages.py"),
    ],
)
def test_other_names_are_not_found(server, name):
    """Nothing but the page's own files has a name here, however it is written."""
    answer = ask(server.path, "GET", f"/page/{name}")
    assert answer.status == 404
    assert b"import" not in answer.content


def test_a_page_is_not_written_to(server):
    """Its files can be read only."""
    assert ask(server.path, "POST", "/page/main.js", b"").status == 405
    assert ask(server.path, "DELETE", "/page/main.js").status == 405


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
def test_programs_are_told_the_routes(server, accept):
    """Programs such as curl get the text, and caches know that browsers do not."""
    answer = ask(server.path, "GET", "/", headers={} if accept is None else {"Accept": accept})
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.headers["Vary"] == "Accept"
    assert b"/v1/queue" in answer.content


@needs_vendor
def test_a_browser_is_shown_the_page(server):
    """GET / with text/html among what is taken."""
    answer = ask(server.path, "GET", "/", headers=BROWSER)
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.headers["Vary"] == "Accept"
    assert answer.content == PAGE.joinpath("index.html").read_bytes()


def test_without_what_it_stands_on_there_is_no_page(server, monkeypatch):
    """A source tree in which nobody ran make tells the routes to browsers, too."""
    there = {name: file for name, file in pages._all().items() if not name.startswith("vendor/")}
    monkeypatch.setattr(pages, "_all", lambda: there)
    assert ask(server.path, "GET", "/", headers=BROWSER).headers["Content-Type"].startswith("text/plain")


@needs_vendor
def test_the_page_asks_only_for_what_is_there():
    """Every file that the page or a script names exists; no script or style stands in the page itself, no other host is named."""
    index = PAGE.joinpath("index.html").read_text()
    named = re.findall(r'(?:src|href)="/page/([^"]+)"', index)
    assert set(named) <= set(NAMES)
    assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*src=)", index)
    for name in (each for each in NAMES if each.endswith(".js") and not each.startswith("vendor/")):
        script = PAGE.joinpath(name).read_text()
        assert {each.removeprefix("./") for each in re.findall(r'from "([^"]+)"', script)} <= set(NAMES), name
        assert "http" not in script.replace("http-equiv", ""), name
        assert not re.search(r"\beval\(|innerHTML|document\.write", script), name


def test_a_link_on_another_page_may_lead_here(server):
    """A visit is let in; a script of another origin is not, nor is it let to the API by a visit."""
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", **BROWSER}
    assert ask(server.path, "GET", "/", headers=visit).status == 200
    assert ask(server.path, "GET", "/v1/status", headers=visit).status == 403
    assert (
        ask(
            server.path, "GET", "/page/main.js", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
        ).status
        == 403
    )


async def test_who_may_not_act_is_told_so(tmp_path):
    """The status says whether whoever asks may act: the page shows its buttons by that."""
    path = tmp_path / "s"
    access = Access(frozenset())
    async with serving(path, access=lambda: access):
        answer = await trio.to_thread.run_sync(ask, path, "GET", "/v1/status")
    assert answer.json["may_act"] is False


def test_the_queue_is_what_has_not_ended(server, client):
    """What runs is first, then the oldest; of one model if asked, and at most so many."""
    for _ in range(4):
        client.post("/v1/exports", {"model": "ranker", "source": "ckpt-41.npz"})
    server.call(server.backend.move, 1, "published")
    server.call(server.backend.move, 3, "writing")
    assert [job["id"] for job in client.get("/v1/queue")["jobs"]] == [3, 2, 4]
    assert [job["id"] for job in client.get("/v1/queue", limit=1)["jobs"]] == [3]
    assert client.get("/v1/queue", model="nobody")["jobs"] == []
    assert ask(server.path, "GET", "/v1/queue?limit=0").status == 400
    assert ask(server.path, "GET", "/v1/queue?before=3").status == 400
