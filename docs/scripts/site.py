"""Hook of mkdocs: adds pages from outside docs/, the reference pages, and figures drawn from the committed records."""

from __future__ import annotations

import posixpath
import re
import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from ddbench.cli.main import cli

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "results/README.md": "results.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages from outside docs/, by their path in the repository."""
GENERATED = {
    "api.md": "# Public interface\n\nThe names of `ddbench.api`, which plugins import.\n\n::: ddbench.api\n",
    "functions.md": "# Python functions\n\n[python.md](python.md) introduces them.\n\n::: ddbench.python\n",
    "commands.md": "# Command line\n\n::: mkdocs-click\n    :module: ddbench.cli.main\n    :command: cli\n"
    "    :prog_name: ddbench\n    :style: plain\n    :depth: 1\n",
}
"""Reference pages, which the plugins fill."""
FIGURE = "images/scaling-imagenette-64px.svg"
LINK = re.compile(r"\[(!?[^\]\[]*)\]\(([^):#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and the figure to the files of the site."""
    for source, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    for name, text in GENERATED.items():
        files.append(File.generated(config, name, content=text))
    if (old := files.get_file_from_path(FIGURE)) is not None:
        files.remove(old)
    files.append(File.generated(config, FIGURE, content=scaling_figure()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapts the links of a page to the site, and keeps numbers of tables on one line.

    A page that is named by its file is named by its title. Links to files that are not in the site become plain text.
    """
    sources = {name: source for source, name in OUTSIDE.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    folder = posixpath.dirname(source)

    def adapt(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        name = OUTSIDE.get(path, path.removeprefix("docs/"))
        linked = files.get_file_from_path(name)
        if linked is None:
            return text
        if text in (target, posixpath.basename(target)) and linked.is_documentation_page():
            text = linked.content_string.splitlines()[0].removeprefix("# ")
        return f"[{text}]({name}{anchor})"

    lines = LINK.sub(adapt, markdown).splitlines()
    return "\n".join(line.replace(" ± ", "\u00a0±\u00a0") if line.startswith("|") else line for line in lines)


def scaling_figure() -> str:
    """Draws the figure of the README from the committed records, with the command that the README names."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = re.findall(r"^ddbench (figure scaling .*)$", text, re.MULTILINE)
    words = command.split()
    with tempfile.TemporaryDirectory() as folder:
        words[words.index("--output") + 1] = str(Path(folder) / "figure")
        place = words.index("--results-dir") + 1
        words[place] = str(ROOT / words[place])
        cli.main(words, standalone_mode=False)
        return (Path(folder) / "figure.svg").read_text(encoding="utf-8")
