"""README.md and docs/: commands parse, keys and options exist, links lead somewhere, nothing
stands twice.
"""

import ast
import functools
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from parakeet_ft.cli import find_script
from parakeet_ft.run import composition

ROOT = Path(__file__).resolve().parents[1]


def hook():
    """docs/generated.py, as MkDocs loads it."""
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs/generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generated = hook()
# {page of the site: its text}, README.md among them.
PAGES = {
    page: (ROOT / generated.file_of(page)).read_text()
    for page in sorted(
        {
            *generated.ELSEWHERE,
            *(str(p.relative_to(ROOT / "docs")) for p in ROOT.glob("docs/**/*.md")),
        }
    )
}
README = PAGES["index.md"]
ALL = "\n".join(PAGES.values())
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
STARTS = re.compile(r"(\.venv/bin/)?python (-m )?\w|make |parakeet-ft \w")


def lines_of_code(text):
    """Lines of shell blocks and of indented blocks, and code inside of lines, without comments."""
    blocks = [code for kind, code in FENCED.findall(text) if kind in ("", "bash", "sh", "console")]
    rest = FENCED.sub("", text)
    blocks += re.findall(r"(?:^    \S.*\n)+", rest, re.MULTILINE)
    blocks += [code for code in re.findall(r"`([^`\n]+)`", rest) if "..." not in code]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            yield line.partition(" #")[0].strip().removeprefix("$ ")


COMMANDS = sorted({line for line in lines_of_code(ALL) if STARTS.match(line)})


def test_there_are_commands_to_hold():
    assert {"make demo", "make test"} <= {*lines_of_code(README)}
    assert len(COMMANDS) > 50


def test_the_readme_is_short_and_holds_two_commands_then_one_a_block():
    assert len(README.splitlines()) <= 150
    blocks = [list(lines_of_code(found[0])) for found in re.finditer(FENCED, README)]
    assert [len(block) for block in blocks] == [2, 1, 1, 1, 1]


def test_a_command_over_several_lines_is_read_as_one():
    text = "```bash\npython a.py \\\n  --out b\npython c.py\n```\n"
    assert [" ".join(line.split()) for line in lines_of_code(text)] == [
        "python a.py --out b",
        "python c.py",
    ]


@functools.cache
def options(script):
    """What a script's --help says; of what imports torch for it, the source."""
    if script.parent.name in ("recipes", "data_prep"):
        return generated.help_of(script)
    return script.read_text()


def check_settings(recipe, words):
    """Keys, groups and options of a recipe with a configuration exist."""
    given = [word for word in words if word not in ("--help", "--multirun")]
    if recipe == "finetune":
        given = composition.expand_shorthand(given)
    composition.compose(recipe, given)


def script_of(words):
    """The script that a command runs and what it is given; None for a module of others."""
    program, first, *rest = words
    if program == "parakeet-ft":
        return find_script(words[1:])
    if first == "-m":
        path = ROOT / (rest[0].replace(".", "/") + ".py")
        return (path, rest[1:]) if rest[0].startswith("parakeet_ft") else (None, [])
    return ROOT / first, rest


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses(command):
    words = shlex.split(re.split(r" (?:\||&&|>|2>) ?", command)[0].rstrip(";"), comments=True)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        known = re.search(r"\.PHONY: (.*)", makefile).group(1).split()
        known += re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)
        assert [word for word in words[1:] if word.partition("=")[0] not in known] == []
        return
    if words[-1] == "NAME":
        return
    script, rest = script_of(words)
    if script is None:
        return
    assert script.is_file(), f"{script} does not exist"
    if script.parent.name == "recipes" and script.stem in ("finetune", "evaluate"):
        check_settings(script.stem, rest)
        return
    given = {word.partition("=")[0] for word in rest if word.startswith("--")} - {"--help"}
    assert [option for option in given if option not in options(script)] == []


def test_an_option_or_key_that_is_none_would_be_found():
    with pytest.raises(AssertionError):
        test_a_command_parses("python data_prep/check.py --quickly")
    with pytest.raises(composition.UserError):
        test_a_command_parses("python recipes/finetune.py optim.learning_rate=1")
    with pytest.raises(AssertionError):
        test_a_command_parses("make coffee")


def keys():
    """Every key of both recipes, with any option of a group."""
    found = set()
    for recipe in ("finetune", "evaluate"):
        found |= set(composition.comments(recipe))
        found |= set(composition.flatten(composition.compose(recipe, [])))
    return found


def test_every_key_that_a_page_names_exists():
    known = keys()
    roots = {key.partition(".")[0] for key in known if "." in key}
    named = {
        code.partition("=")[0]
        for code in re.findall(r"`([a-z_]+\.[a-z_.]+(?:=[^`]*)?)`", ALL)
        if code.partition(".")[0] in roots and not code.endswith((".md", ".json", ".data"))
    }
    unknown = {
        key
        for key in named
        if key not in known and not any(one.startswith(f"{key.rstrip('.')}.") for one in known)
        if not key.startswith(("data.guards", "hydra."))
    }
    assert len(named) > 40 and unknown == set()


@functools.cache
def anchors(page):
    """Names that a link may lead to on a page, as GitHub and MkDocs both make them."""
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", PAGES[page]), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", t)) for t in titles]
    return {title.strip().lower().replace(" ", "-") for title in plain}


def links(page):
    """(target, file, anchor) of each link of a page within the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", PAGES[page])):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            own = ROOT / generated.file_of(page)
            yield target, (own.parent / path).resolve() if path else own, anchor


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_page_or_picture_of_the_site(page):
    bad = []
    for target, file, anchor in links(page):
        there = generated.page_of(str(file.relative_to(ROOT)))
        found = file.is_file() and there is not None
        if not found or (anchor and anchor not in anchors(there)):
            bad.append(target)
    assert bad == []


def test_links_between_files_become_links_between_pages():
    text = "[a](docs/faq.md#x) ![b](docs/report.webp) [c](recipes/launch/README.md) [d](http://e.f)"
    assert generated.links_to_pages(text, "index.md") == (
        "[a](faq.md#x) ![b](report.webp) [c](clouds.md) [d](http://e.f)"
    )
    text = "[a](../../benchmarks/README.md#start) [b](../results/index.md)"
    assert generated.links_to_pages(text, "guides/gpus.md") == (
        "[a](../results/benchmarks.md#start) [b](../results/index.md)"
    )


def test_a_cell_of_a_table_carries_the_name_of_its_column():
    row = "<tr><td>ours</td><td style='x'><code>5</code></td></tr>"
    table = f'<table><tr><th></th><th>the "<b>WER</b>"</th></tr>{row}{row}</table>'
    found = re.findall(r'<td data-label="([^"]*)"', generated.labelled(f"<p>a</p>{table}"))
    assert found == ["", "the &quot;WER&quot;"] * 2


def test_every_page_is_in_the_menu_and_every_entry_is_a_page():
    entries = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(PAGES)


def test_the_readme_leads_to_every_page_that_stands_in_docs():
    led = {generated.page_of(str(file.relative_to(ROOT))) for _, file, _ in links("index.md")}
    assert set(PAGES) - led <= {"index.md", "changes.md"}


def test_no_sentence_stands_twice():
    seen, twice = {}, []
    for page, text in PAGES.items():
        prose = re.sub(r"^(\||    ).*$", "\n", FENCED.sub("\n\n", text), flags=re.MULTILINE)
        for paragraph in re.split(r"\n\s*\n|\n(?=[-\d#])", prose):
            for sentence in re.split(r"(?<=[.:;!?])\s+", " ".join(paragraph.split())):
                if len(sentence) > 40:
                    if sentence in seen:
                        twice.append(f"{page} and {seen[sentence]}: {sentence}")
                    seen[sentence] = page
    assert twice == [] and len(seen) > 500


def test_the_reference_has_every_key_with_its_comment():
    table = generated.keys()
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `.*?` \| (.*) \|$", table, re.MULTILINE))
    assert {key for key in composition.flatten(composition.compose("finetune", []))} - set(
        rows
    ) == set()
    assert "absolute WER" in rows["evaluation.guard_tolerance"]
    assert sorted(key for key, said in rows.items() if not said) == []


def strings_of_the_sources():
    """All text in string constants; of an f-string, what stands between the values."""
    for folder in ("parakeet_ft", "recipes", "data_prep"):
        for path in ROOT.glob(f"{folder}/**/*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_every_message_that_is_quoted_is_still_in_the_sources():
    quoted = re.findall(r"^\| `([^`]+)`", PAGES["troubleshooting.md"], re.MULTILINE)
    parts = {part.strip() for quote in quoted for part in quote.split("...") if part.strip()}
    assert len(quoted) >= 30
    sources = "\n".join(strings_of_the_sources())
    assert [part for part in parts if part not in sources] == []


def test_the_reference_has_every_message_with_names_for_what_is_put_in():
    listed = generated.messages()
    assert "- DIRECTORY is in use by another process. Wait for it, or give another" in listed
    assert "Unknown command NAME. HINT Expected one of ...." in listed
    titles = re.findall(r"^## (.*)$", listed, re.MULTILINE)
    assert listed.count("\n- ") > 250 and titles == [*generated.TASKS]
    assert "| `too_long` | longer than the limit |" in generated.reasons()


def test_the_reference_has_every_command_without_the_keys():
    named = {str(path.relative_to(ROOT)) for path in generated.scripts()}
    assert {"recipes/finetune.py", "data_prep/from_table.py"} <= named and len(named) > 25
    shown = generated.help_of(ROOT / "recipes/finetune.py")
    assert "Groups (group=option)" in shown and "optim.lr=" not in shown
    assert "--speaker-from" in generated.help_of(ROOT / "data_prep/from_folder.py")


@pytest.mark.parametrize(
    "words",
    [
        "--dev-share 0",
        "[export]",
        "[ui]",
        "[slurm]",
        "[dask]",
        "bundled:guard_dev.jsonl",
        "name=",
        "device=cpu",
    ],
)
def test_what_a_reader_looks_for_stands_somewhere(words):
    assert words in ALL


def test_pages_install_only_extras_that_there_are():
    known = re.search(
        r"optional-dependencies\](.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.S
    )
    extras = set(re.findall(r"^(\w+) =", known.group(1), re.M))
    assert set(re.findall(r"(?:parakeet-ft|\.)\[(\w+)\]", ALL)) <= extras
