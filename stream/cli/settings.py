"""Define `footfall settings`, which lists every setting with its value and variable. Start at settings_command."""

import sys

from stream.cli.options import AsJson, setting_names, with_settings
from stream.cli.show import print_table
from stream.process.settings import Settings


@with_settings
def settings_command(settings: Settings, as_json: AsJson = False) -> None:
    """List all settings as resolved from flags, environment and footfall.toml; secrets are masked."""
    printable = settings.printable()
    if as_json:
        import json

        listed = {name.field: {"value": printable[name.field], "variable": name.variable} for name in setting_names()}
        sys.stdout.write(json.dumps(listed, indent=2) + "\n")
        return
    rows = [
        [name.field, "" if printable[name.field] is None else str(printable[name.field]), name.variable]
        for name in setting_names()
    ]
    print_table(["setting", "value", "variable"], rows)
