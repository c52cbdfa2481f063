"""What MkDocs does beside copying pages: generated pages, and a build that fails on anything from another server.

`reference/` comes from the code, the measurements and `changelog.md` from the files of the repository.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
from reference import MEASUREMENTS, generated_pages

_MEASUREMENTS = re.compile(r"\]\((?:\.\./)+(benchmarks/\w+\.md)")
_LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'> ]+", re.IGNORECASE)
_LINKED = re.compile(
    r"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=[\"']?(?:https?:)?//"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file holds."""
    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the repository's measurements, which a reader of the checkout follows, to their pages."""
    up = "../" * page.file.src_uri.count("/")
    return _MEASUREMENTS.sub(lambda link: f"]({up}{MEASUREMENTS[link[1]]}", markdown)


def on_post_page(output: str, page: object, config: MkDocsConfig) -> str:
    """Refuse a page that would fetch a script, font, style or picture from another server."""
    if found := _LOADED.search(output) or _LINKED.search(output):
        raise PluginError(f"{page} loads something from another server: {found.group(0)}")
    return output
