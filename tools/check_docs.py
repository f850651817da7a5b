#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every function of the public header has a page, every page a function, and every relative link
of the documentation leads somewhere."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECTIONS = ["**Returns**", "**Example**"]


def declared():
    text = (ROOT / "include" / "llava.h").read_text()
    return set(re.findall(r"^LLAVA_API[^;(]*?(llava_\w+)\(", text, re.M))


def check_pages(problems):
    names = declared()
    pages = {page.stem: page for page in (ROOT / "docs" / "api").glob("llava_*.md")}
    for name in sorted(names - set(pages)):
        problems.append(f"docs/api/{name}.md is missing")
    for name in sorted(names & set(pages)):
        text = pages[name].read_text()
        for section in SECTIONS:
            if section not in text:
                problems.append(f"docs/api/{name}.md: expected a part {section}")
    return len(names)


def check_links(problems):
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                problems.append(f"{page.relative_to(ROOT)}: link to {target} leads nowhere")


def main():
    problems = []
    count = check_pages(problems)
    check_links(problems)
    print("\n".join(problems) if problems else f"docs: {count} functions have their page")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
