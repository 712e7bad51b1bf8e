"""Write the pages of docs/reference/ from the code: `python -m docs.generate_reference`, as `make docs` does.

Imports the commands, settings, topics, structs and roles; starts nothing, reads no environment. Equal code makes equal
pages. Start at pages.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.reference_pages import commands, contract, process

DIRECTORY = Path(__file__).parent / "reference"
PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands.commands_page,
    "settings.md": process.settings_page,
    "topics.md": contract.topics_page,
    "messages.md": contract.messages_page,
    "features.md": contract.features_page,
    "metrics.md": process.metrics_page,
    "exit-codes.md": commands.exit_codes_page,
    "errors.md": process.errors_page,
}


def main() -> None:
    """Write every page that is not what the code says, and name it."""
    for name, render in PAGES.items():
        path, text = DIRECTORY / name, render()
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            sys.stdout.write(f"wrote docs/reference/{name}\n")


if __name__ == "__main__":
    main()
