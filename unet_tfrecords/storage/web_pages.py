"""The files that a web server's page of a folder links to.

Apache, nginx, Caddy and Python write such pages, each in its own way.
"""

import html.parser
import urllib.parse


class _Links(html.parser.HTMLParser):
    """Gathers what `<a href=...>` says, unescaped."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v for name, v in attrs if (tag, name) == ("a", "href") and v]


def links_below(page: str, url: str) -> set[str]:
    """Addresses directly below a folder; those of folders end in a slash.

    Args:
      page: HTML.
      url: of the folder, with a slash at its end.

    >>> page = '<a href="../">Up</a> <a href="?C=N">Name</a> <a href="./a%20b.png">a b'
    >>> sorted(links_below(page + '<a href=/d/c/>c</a>', "http://h/d/"))
    ['http://h/d/a%20b.png', 'http://h/d/c/']
    """
    parser = _Links()
    parser.feed(page)
    found = set()
    for link in parser.found:
        address = urllib.parse.urljoin(url, link)
        inside = address.removeprefix(url)
        if inside == address or set(inside) & set("?#"):
            continue  # elsewhere, or another view of this page
        name, slash, _ = inside.partition("/")
        if name:
            found.add(url + name + slash)
    return found
