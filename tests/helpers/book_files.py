"""Links of a built book."""

import re
from pathlib import Path
from urllib.parse import unquote


def broken_links(site: Path) -> list[str]:
    """Links and pictures of the pages that lead to no file or heading of the site, each with its page."""
    found = []
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        links = re.findall(r'(?:href|src)="([^"]+)"', re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
        for link in (link for link in links if not re.match(r"\w+:", link)):
            path, _, anchor = unquote(link).partition("#")
            target = page.parent / path.partition("?")[0] if path else page
            if not target.is_file() or (anchor and f'id="{anchor}"' not in target.read_text(encoding="utf-8")):
                found.append(f"{page.relative_to(site)}: {link}")
        # what MyST leaves of a link whose target it does not find
        found += [f"{page.relative_to(site)}: {words}" for words in re.findall(r'class="xref myst">([^<]*)', text)]
    return found
