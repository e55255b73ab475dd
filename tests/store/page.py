"""Files and commands of docs/store.md."""

import re

from tests.e2e.lab import ROOT

PAGE = (ROOT / "docs" / "store.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = dict(re.findall(r"<!-- command: (\S+) -->\n```sh\n(.*?)```", PAGE, re.DOTALL))
