"""How Sphinx builds the site of docs/: Markdown by MyST, the furo theme, every broken reference an error."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

project = "Footfall"
release = version = _PROJECT["version"]
html_title = f"Footfall {version}"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
smartquotes = False  # JSON in descriptions keeps its quotes
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_last_updated_fmt = None  # equal sources build equal pages

myst_heading_anchors = 4  # a heading is linked to as on a code host: settings.md#kafka-clients
linkcheck_anchors = False  # anchors that a script makes are not in the page
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost)[:/]"]  # addresses in examples
