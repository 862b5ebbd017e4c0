"""HTML pages as a parser reads them."""

import html.parser


class Page(html.parser.HTMLParser):
    """Everything by which a page could show or do something.

    Attributes:
      tags: in order.
      attributes: tag, name and value of each.
      text: outside of tags.
    """

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_data(self, data):
        self.text += data
