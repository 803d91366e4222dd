"""Builds the addresses in the package's metadata from the one in pyproject.toml."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


class CustomMetadataHook(MetadataHookInterface):
    """Sets the addresses of the project, and the README as the index shows it."""

    def update(self, metadata):
        home = self.config["home"].rstrip("/")
        root = Path(self.root)
        module = (root / "keras_tinyalex" / "__init__.py").read_text(encoding="utf-8")
        version = re.search(r'^__version__ = "(.+)"$', module, re.M)[1]
        metadata["urls"] = {
            "Homepage": home,
            "Documentation": self.config["documentation"].rstrip("/"),
            "Changelog": f"{home}/blob/main/CHANGELOG.md",
            "Issues": f"{home}/issues",
            "Source": home,
        }
        readme = (root / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": with_absolute_links(readme, home, f"v{version}"),
        }


def with_absolute_links(text, home, tag):
    """Returns Markdown whose links and images work outside the repository.

    Args:
        text: Markdown.
        home: Address of the repository.
        tag: Of the files that relative links lead to.
    """

    def absolute(match):
        image, words, target = match.groups()
        if re.match(r"https?:|#", target):
            return match[0]
        kind = "raw" if image else "blob"
        return f"{image}[{words}]({home}/{kind}/{tag}/{target})"

    return re.sub(r"(!?)\[([^\]]+)\]\(([^)]+)\)", absolute, text)
