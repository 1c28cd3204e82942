"""Text of others made safe to show: what could command a terminal, or hide, is written as an escape."""

import unicodedata

# Control, format (direction overrides, zero width), surrogate and private use characters, line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: str, keep: str = "") -> str:
    """`text` with every character that could command the terminal, or hide, as an escape; those in `keep` stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if char in keep or unicodedata.category(char) not in _UNPRINTABLE
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
