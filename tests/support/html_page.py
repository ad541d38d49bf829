"""A page as its tags say it: what a reader sees, what it would load, where its links lead."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}
LOADING = {"src", "srcset", "poster", "data", "background", "formaction", "action", "ping"}
IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?(?!data:)[^\s"')]+""")


class HtmlPage(HTMLParser):
    """Checks that tags nest, and collects what tests ask about.

    text: of the body. tags: (tag, attributes) in order. heads: levels of the headings. links: targets of <a>.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.style = ""
        self.script = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.style += data
        elif "script" in self.open:
            self.script += data
        elif "body" in self.open or "html" not in self.open:
            self.text += data + " "

    def all(self, name: str) -> list[dict[str, str | None]]:
        """Attributes of every tag of that name."""
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def images(self) -> list[str]:
        return [image.get("src") or "" for image in self.all("img")]

    @property
    def links(self) -> list[str]:
        return [link.get("href") or "" for link in self.all("a")]

    @property
    def heads(self) -> list[int]:
        return [int(tag[1]) for tag, _ in self.tags if re.fullmatch("h[1-6]", tag)]

    def asks_for(self) -> list[str]:
        """Everything that a browser would fetch for this page, and links that lead to another host."""
        found = [
            f"{tag} {name}={value}"
            for tag, attributes in self.tags
            for name, value in attributes.items()
            if (name in LOADING or (tag == "link" and name == "href")) and not str(value).startswith("data:")
        ]
        found += [link for link in self.links if re.match(r"(?!data:)[a-z]+:|//", link)]
        styles = [self.style, *(str(attributes.get("style", "")) for _, attributes in self.tags)]
        return found + [match for style in styles for match in IN_STYLE.findall(style)]
