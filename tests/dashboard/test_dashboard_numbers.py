"""Numbers that JavaScript's do not hold, as versions may be: what the page reads, shows and says is the daemon's number."""

import json

from serving_kit import TOKEN

LARGE = 20261127234510123

_PARSED = """
const [text, done] = arguments;
import("/page/api.js").then(({ fromJson }) => done(fromJson(text)));
"""


def test_large_whole_numbers_are_read_as_text(serving, page):
    """Nothing else changes, whatever texts and numbers stand around them."""
    serving.configure()
    serving.start()
    page.open().until_live()
    kept = {
        "small": [0, -7, 2**53 - 1, 1.5, 0.12345678901234567, 1e300, -2.5e-8],
        "texts": [str(LARGE), f'"{LARGE}"', "\\", '\\"', f"\n{LARGE}", "é\u2028", ""],
        f'"{LARGE}': None,
    }
    told = kept | {"large": [LARGE, -LARGE, 2**53, 2**63 - 1, [{"version": LARGE}]]}
    large = [str(LARGE), str(-LARGE), str(2**53), str(2**63 - 1), [{"version": str(LARGE)}]]
    for text in (
        json.dumps(told),
        json.dumps(told, ensure_ascii=False, indent=1),
        json.dumps(told, separators=(",", ":")),
    ):
        assert page.driver.execute_async_script(_PARSED, text) == kept | {"large": large}


def test_a_version_of_seventeen_digits_can_be_pinned(serving, page):
    """What the button names is what the daemon is asked for."""
    serving.configure()
    process = serving.start()
    serving.drop(f"ckpt-{LARGE}.npz")
    assert process.job("published")["version"] == LARGE
    page.open().until_live()
    page.show_token(TOKEN)
    page.until("document.querySelector('.act button:enabled') || !document.querySelector('.token')")
    page.go("#/models/ranker")
    page.until("[...document.querySelectorAll('.versions button:enabled')].some((each) => each.innerText === 'Pin')")
    page.click("Pin")
    page.until_shown(".versions", "Unpin")
    assert page.rows(".versions tbody")[0][0] == str(LARGE)
    assert serving.client.get("/v1/models/ranker/versions")["versions"][0]["pinned"]
