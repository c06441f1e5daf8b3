"""What the site has beside the pages in docs/: README.md and its like as pages, and the reference
that is made from conf/ and the scripts when the site is built. A hook of MkDocs (mkdocs.yml).

Links in all of these files are as GitHub wants them, from file to file.
"""

from __future__ import annotations

import ast
import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Pages whose text stands elsewhere.
ELSEWHERE = {
    "index.md": "README.md",
    "results/benchmarks.md": "benchmarks/README.md",
    "clouds.md": "recipes/launch/README.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "assistants.md": "AGENTS.md",
}
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
MARK = re.compile(r"<!-- generated: (\w+) -->")
# What a reader does when a message of these rooms comes.
TASKS = {
    "Giving a command": ("cli", "recipes", "settings", "run", "preflight", "files"),
    "Preparing and reading data": ("data", "batches"),
    "Loading a checkpoint": ("model",),
    "Changing the vocabulary": ("tokenizer",),
    "Training": ("training", "stages"),
    "Several processes, and Slurm": ("distributed",),
    "Transcribing": ("transcription",),
    "Comparing models": ("evaluation", "scoring"),
    "Exporting": ("export",),
    "Publishing": ("publishing",),
}
# What is put into messages with blanks of its own, or not at all.
BRINGS_SPACE = {"hint": " HINT ", "expected": " EXPECTED", "some": " SOME"}
# Where --help of the recipes of conf/ begins to list keys, which are a page of their own.
KEYS_BEGIN = "\nKeys (key=value)"


def file_of(page: str) -> str:
    """The file, from the root of the repository, that a page of the site is made of."""
    return ELSEWHERE.get(page, f"docs/{page}")


def page_of(file: str) -> str | None:
    """The page, or picture, of the site that a file of the repository is; None if it is none."""
    pages = {source: page for page, source in ELSEWHERE.items()}
    return pages.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)


def links_to_pages(text: str, page: str) -> str:
    """A page's text, with links between files of the repository as links between pages."""

    def changed(match: re.Match[str]) -> str:
        if ":" in match[2]:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(file_of(page)), match[2]))
        target = page_of(file)
        if target is None:
            return match[0]  # the build ends with it
        return match[1] + posixpath.relpath(target, posixpath.dirname(page) or ".") + match[3]

    return LINK.sub(changed, text)


def cell(text: str) -> str:
    """Text as it stands, for a cell of a table or an entry of a list."""

    def escaped(match: re.Match[str]) -> str:
        found = match[0]
        return found if found[0] == "`" else "&lt;" if found == "<" else f"\\{found}"

    return re.sub(r"`[^`]*`|[*<\[\]]", escaped, text).replace("|", "\\|")


def group_of(key: str) -> str:
    """The group of conf/ that a key stands in; nothing for one of the recipe's own."""
    return key.partition(".")[0] if "." in key else ""


def keys() -> str:
    """Tables of every key of conf/ by recipe and group, with its default and comment."""
    from parakeet_ft.run.composition import comments, compose, flatten
    from parakeet_ft.settings.rules import shown

    lines = []
    for recipe in ("finetune", "evaluate"):
        lines += [f"## recipes/{recipe}.py", ""]
        said = comments(recipe)
        settings = flatten(compose(recipe, []))
        for group, found in groupby(sorted(settings, key=group_of), group_of):
            title = group or "without a group"
            lines += [f"### {title} {{ #{recipe}-{title.replace(' ', '-')} }}", ""]
            lines += ["| key | default | what |", "|---|---|---|"]
            for key in found:
                value = cell(f"`{shown(settings[key])}`")
                lines.append(f"| `{key}` | {value} | {cell(said.get(key, ''))} |")
            lines.append("")
    return "\n".join(lines)


def scripts() -> Iterator[Path]:
    """Every command: the recipes, then the scripts of data preparation."""
    for folder in ("recipes", "data_prep"):
        yield from sorted((ROOT / folder).glob("[!_]*.py"))


def help_of(script: Path) -> str:
    """What a script prints for --help, without the keys of conf/."""
    command = [sys.executable, str(script), "--help"]
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise RuntimeError(f"{script.name} --help failed:\n{done.stderr}")
    return done.stdout.partition(KEYS_BEGIN)[0].strip()


def commands() -> str:
    """--help of every script."""
    found = list(scripts())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = list(pool.map(help_of, found))
    lines = []
    for script, text in zip(found, texts, strict=True):
        lines += [f"## {script.relative_to(ROOT)}", "", "```text", text, "```", ""]
    return "\n".join(lines)


def words_of(node: ast.expr) -> str:
    """The text of a message as its source has it; what is put in is a name in capitals, or ..."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(words_of, node.values))
    if isinstance(node, ast.FormattedValue):
        return words_of(node.value) if isinstance(node.value, ast.Constant) else put_in(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return words_of(node.left) + words_of(node.right)
    return put_in(node)


def put_in(node: ast.expr) -> str:
    """A name for what a message holds of a run."""
    name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
    if name in BRINGS_SPACE:
        return BRINGS_SPACE[name]
    return name.strip("_").upper() or "..."


def raised() -> Iterator[tuple[str, str]]:
    """(room, message) of every error that is told without a traceback."""
    for path in sorted([*ROOT.glob("parakeet_ft/**/*.py"), *ROOT.glob("recipes/*.py")]):
        place = path.relative_to(ROOT).with_suffix("").parts
        room = place[1] if place[0] == "parakeet_ft" else place[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            kind = getattr(getattr(node, "func", None), "id", "")
            if kind in ("UserError", "NotBetter", "Stopped", "AudioError") and node.args:
                # Of audio, the first argument is the short reason.
                text = " ".join(words_of(node.args[kind == "AudioError"]).split())
                if len(re.findall(r"[a-z]{2,}", text)) > 2:
                    yield room, text


def messages() -> str:
    """Every message of an error, by what one does when it comes; of rooms without a task, last."""
    task_of = {room: task for task, rooms in TASKS.items() for room in rooms}
    found: dict[str, list[str]] = {task: [] for task in (*TASKS, "Anything else")}
    for room, text in sorted(set(raised())):
        found[task_of.get(room, "Anything else")].append(f"- {cell(text)}")
    return "\n".join(
        line for task, texts in found.items() if texts for line in (f"## {task}", "", *texts, "")
    )


def reasons() -> str:
    """Why data preparation drops an utterance, as summaries and dropped.jsonl have it."""
    from parakeet_ft.data.filters import REASONS

    rows = [f"| `{reason}` | {said} |" for reason, said in REASONS.items()]
    return "\n".join(["| reason | what it means |", "|---|---|", *rows])


def labelled(html: str) -> str:
    """A page whose cells carry the name of their column: docs/site.css shows it where a phone gets
    rows one below the other.
    """

    def with_labels(match: re.Match[str]) -> str:
        titles = re.findall(r"<th\b[^>]*>(.*?)</th>", match[0], re.DOTALL)
        columns = cycle(re.sub("<[^>]+>", "", title).replace('"', "&quot;") for title in titles)
        return re.sub(r"<td\b", lambda _: f'<td data-label="{next(columns)}"', match[0])

    return re.sub(r"<table>.*?</table>", with_labels, html, flags=re.DOTALL)


GENERATED: dict[str, Callable[[], str]] = {
    "keys": keys,
    "commands": commands,
    "messages": messages,
    "reasons": reasons,
}


def on_files(files: Any, config: Any) -> Any:
    """MkDocs: add the pages whose text stands elsewhere."""
    from mkdocs.structure.files import File

    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs: fill a page with what is generated, and lead its links to pages."""
    text = MARK.sub(lambda match: GENERATED[match[1]](), markdown)
    return links_to_pages(text, page.file.src_uri)


def on_page_content(html: str, **_: Any) -> str:
    """MkDocs: name the cells of tables."""
    return labelled(html)
