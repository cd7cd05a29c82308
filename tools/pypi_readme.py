"""The README as a package index shows it: hatchling calls this when it builds (see `tool.hatch` in pyproject.toml).

An index resolves no relative link. With a repository in ``[project.urls]`` links become absolute; without one, only
their words stay, and pictures are left out.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)")
PICTURE = re.compile(r'<img src="(?!https?:)([^"]+)"([^>]*)>')
BRANCH = "main"


def absolute(text: str, url: str) -> str:
    """Markdown whose relative links lead to the repository `url`, or nowhere where it is "".

    >>> absolute("[errors](docs/errors.md)", "https://github.com/a/b")
    '[errors](https://github.com/a/b/blob/main/docs/errors.md)'
    >>> absolute("see [errors](docs/errors.md) ![plot](plot.png)", "")
    'see errors '
    """

    def link(found: re.Match) -> str:
        picture, words, path = found.groups()
        if url:
            return f"{picture}[{words}]({url}/{'raw' if picture else 'blob'}/{BRANCH}/{path})"
        return "" if picture else words

    text = PICTURE.sub(lambda m: f'<img src="{url}/raw/{BRANCH}/{m[1]}"{m[2]}>' if url else "", text)
    return LINK.sub(link, text)


class ReadmeHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        shown = absolute(text, metadata.get("urls", {}).get("Repository", ""))
        metadata["readme"] = {"content-type": "text/markdown", "text": shown}
