"""The site: built without a warning, and whatever it links to within itself is there."""

import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
WANTED = ["sphinx", "furo", "myst_nb", "sphinx-mathjax-offline"]

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in WANTED), reason="pip install -e . --group docs"
)


class Page(HTMLParser):
    """What a page may be linked to by, and what it refers to."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.references = set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.references.add((tag, value))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a fresh build, in which a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q",
               str(ROOT / "docs"), str(out)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_page_is_there(pages):
    """Each source is a page, and each but the first is in the navigation of the first."""
    names = {path.stem for path in (ROOT / "docs").glob("*.md")}
    built = {path.stem: page for path, page in pages.items()}
    assert names <= set(built)
    linked = {value for _, value in built["index"].references}
    assert {f"{name}.html" for name in names - {"index"}} <= linked


def test_links_within(site, pages):
    """Pages, anchors, pictures, scripts and downloads exist."""
    broken, checked = [], 0
    for path, page in pages.items():
        for _, value in page.references:
            link = urlsplit(value)
            if link.scheme or link.netloc:
                continue
            checked += 1
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            anchors = pages[target].anchors if target in pages else set()
            if not target.is_file() or (link.fragment and unquote(link.fragment) not in anchors):
                broken.append(f"{path.relative_to(site)}: {value}")
    assert checked > 300
    assert not broken


def test_nothing_is_fetched(pages):
    """A reader without a network sees all of it: only links lead elsewhere."""
    for path, page in pages.items():
        for tag, value in page.references:
            assert tag == "a" or not urlsplit(value).netloc, (path.name, tag, value)
