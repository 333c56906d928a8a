"""The README's figures are those of the benchmarks, and its links lead somewhere."""

import json
import re
from pathlib import Path

from benchmarks.tables import comparison, two_papers

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_comparison_is_that_of_the_results():
    assert comparison() in TEXT, "python -m benchmarks.tables writes it"


def test_a_notebook_has_the_numbers_of_the_results():
    kept = json.loads((ROOT / "notebooks" / "two_papers.json").read_text())
    assert kept == two_papers(), "python -m benchmarks.tables writes it"


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)", TEXT)
    assert len(links) > 20
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]
