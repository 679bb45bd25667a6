"""Renders an HTML file from a template, with the style and the scripts that all pages share."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path

from ddbench.core.text import counted


def render(template: str, **values: object) -> str:
    """Renders a template of this package.

    Args:
        template: Name of a template that extends `base.html.jinja`.
        **values: Its variables. `picture_sources` are the sources that the Content-Security-Policy allows for images.

    Returns:
        The HTML document. It holds its style and scripts, and loads neither from elsewhere.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ddbench.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_datatables(".js"), _read("page.js")]
    return environment.get_template(template).render(
        version=metadata.version("ddbench"),
        counted=counted,
        styles=[_datatables(".css"), _read("page.css")],
        scripts=scripts,
        script_hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        **values,
    )


def _read(name: str) -> str:
    return (resources.files("ddbench.report") / name).read_text(encoding="utf-8")


def _datatables(suffix: str) -> str:
    """The script or style sheet of DataTables, from the package itables. Its import would load pandas."""
    spec = find_spec("itables")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("html").joinpath(f"dt_bundle{suffix}").read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode("ascii")
