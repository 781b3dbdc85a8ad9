"""Completes the pages of the documentation site: linked files, and lists of modules.

The README is the site's first page. Pages link as a code host resolves links: relative
to the file in the repository. A linked Markdown file becomes a page of the site, with
what it links to in its turn, and any other linked file is copied. Links are rewritten
to the places in the site.

``::: package.room.*`` stands for all public modules of a room.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()(?!\w+:|/|#)([^)\s#]+)")
ROOM = re.compile(r"^::: ([\w.]+)\.\*$", re.M)
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def linked_files(page: Path) -> set[Path]:
    """Returns the files of the repository that a Markdown file links to."""
    text = page.read_text(encoding="utf-8")
    paths = {(page.parent / link).resolve() for link in LINK.findall(text)}
    return {path for path in paths if path.is_file() and path.is_relative_to(ROOT)}


def place_in_site(path: Path) -> str:
    """Returns where a file of the repository is in the site."""
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()


def modules(match: re.Match[str]) -> str:
    """Returns a directive for every public module of a room."""
    room = ROOT.joinpath(*match[1].split("."))
    names = [path.relative_to(ROOT).with_suffix("") for path in room.rglob("*.py")]
    public = [name for name in names if not re.search(r"(^|/)_", name.as_posix())]
    return "\n\n".join(f"::: {'.'.join(name.parts)}" for name in sorted(public))


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Adds the README and all files outside ``docs/`` that a page links to."""
    readme = ROOT / "README.md"
    files.append(File.generated(config, readme.name, abs_src_path=str(readme)))
    queue, visited = [*sorted(DOCS.rglob("*.md")), readme], {readme}
    while queue:
        page = queue.pop()
        for path in sorted(linked_files(page) - visited):
            visited.add(path)
            if path.is_relative_to(DOCS):
                continue
            place = place_in_site(path)
            files.append(File.generated(config, place, abs_src_path=str(path)))
            if path.suffix == ".md":
                queue.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lists modules, and rewrites links to the places of the files in the site."""
    source = Path(str(page.file.abs_src_path))
    folder = os.path.dirname(page.file.src_uri)

    def rewrite(match: re.Match[str]) -> str:
        path = (source.parent / match[0]).resolve()
        if not (path.is_file() and path.is_relative_to(ROOT)):
            return match[0]  # mkdocs warns about it
        return os.path.relpath(place_in_site(path), folder or ".")

    return ROOM.sub(modules, LINK.sub(rewrite, markdown))
