"""The rules of docs/architecture.md, read off the source with ``ast``: nothing of the package is imported here."""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "celeb_basis"

CORE = (
    *(
        "basis",
        "diffusion_model",
        "download",
        "errors",
        "evaluation",
        "events",
        "exports",
        "faces",
        "files",
        "identities",
    ),
    *(
        "method",
        "miniature",
        "model_files",
        "names",
        "photos",
        "prompts",
        "provenance",
        "reading",
        "regions",
        "report",
        "sampling",
        "settings",
        "templating",
        "training",
    ),
)
"""Top-level modules and packages that know neither a host nor a page."""

HOST_PROGRAMS = {
    *("modules", "modules_forge", "backend", "ldm_patched", "launch", "installer", "extensions_built_in"),
    *("lora", "networks", "network", "comfy", "nodes", "folder_paths", "comfyui_version"),
}
"""First parts of the module names of the programs that run us."""

ENTRY_POINTS = ("celeb_basis.cli.", "celeb_basis.python_api", "celeb_basis.webui.", "celeb_basis.hosts.detect")
"""Where torch may be imported inside functions, so that starting the command line or the WebUI stays fast."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that an import statement or ``importlib.import_module`` names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and called(node) in ("import_module", "find_spec") and node.args:
        first = node.args[0]
        if isinstance(first, ast.JoinedStr) and first.values:
            first = first.values[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value


def called(node: ast.Call) -> str:
    """Name of the function or method that is called."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def imports_of(name: str) -> set[str]:
    """Modules of the package that a module imports anywhere, also inside functions and for the type checker only."""
    known, found = modules(), set()
    for node in ast.walk(tree(known[name])):
        for target in imported(node):
            parts = target.split(".")
            while parts and ".".join(parts) not in known:
                parts.pop()
            if parts and ".".join(parts) != name:
                found.add(".".join(parts))
    # A package's door imports what lies behind it; who imports something behind it does not import the door.
    return {one for one in found if not name.startswith(f"{one}.")}


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


# The method


def test_the_method_imports_torch_and_nothing_of_a_host() -> None:
    allowed = {"__future__", "dataclasses", "typing", "torch", "celeb_basis"}
    own = {"celeb_basis.settings", "celeb_basis.errors"}
    names = {name for node in ast.walk(tree(PACKAGE / "method.py")) for name in imported(node)}
    assert {name.split(".")[0] for name in names} <= allowed
    assert {".".join(name.split(".")[:2]) for name in names if name.startswith("celeb_basis")} <= own
    assert len((PACKAGE / "method.py").read_text(encoding="utf-8").splitlines()) < 400


EQUATIONS = {
    "eigh",
    "eig",
    "svd",
    "pca_lowrank",
    "svd_lowrank",
    "einsum",
    "leaky_relu",
    "LeakyReLU",
    "mse_loss",
    "add_noise",
}
ELSEWHERE = {
    ("celeb_basis/training/first_guess.py", "svd"): "ridge regression on face vectors, not a basis of names",
}


@pytest.mark.parametrize("name", sorted(EQUATIONS))
def test_equations_are_in_the_method_alone(name: str) -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for module, path in modules().items()
        if module != "celeb_basis.method"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and called(node) == name
    }
    assert found <= {path for path, equation in ELSEWHERE if equation == name}


def test_noise_rates_are_used_by_the_method_alone() -> None:
    readers = {
        module
        for module, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "alphas_cumprod"
    }
    # Samplers integrate over noise levels, of which the paper's equations have one at a time.
    allowed = {"celeb_basis.method", "celeb_basis.sampling"}
    assert {one for one in readers if not one.startswith("celeb_basis.hosts.")} == allowed


# Layers


def test_no_circle_of_imports() -> None:
    graph = {name: imports_of(name) for name in modules()}
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == order[name]:
            start = stack.index(name)
            if len(stack) - start > 1:
                circles.append(stack[start:])
            del stack[start:]

    for name in graph:
        if name not in order:
            visit(name)
    assert not circles


def test_the_core_knows_no_host_and_no_page() -> None:
    outer = ("celeb_basis.hosts", "celeb_basis.webui", "celeb_basis.cli", "celeb_basis.python_api")
    foreign = {"gradio", "fastapi", "starlette", "pydantic", "diffusers"} | HOST_PROGRAMS
    wrong = []
    for module, path in modules().items():
        if module == "celeb_basis" or module.split(".")[1] not in CORE:
            continue
        wrong += [f"{module} -> {other}" for other in imports_of(module) if other.startswith(outer)]
        wrong += [
            where(path, node)
            for node in ast.walk(tree(path))
            if foreign & {name.split(".")[0] for name in imported(node)}
        ]
    assert not wrong


def test_every_part_of_the_package_has_its_layer() -> None:
    parts = {module.split(".")[1] for module in modules() if "." in module}
    assert parts == {*CORE, "hosts", "webui", "cli", "python_api", "__main__"}


def test_hosts_know_neither_pages_nor_the_command_line() -> None:
    outer = ("celeb_basis.webui", "celeb_basis.cli", "celeb_basis.python_api")
    wrong = [
        f"{module} -> {other}"
        for module in modules()
        if module.startswith("celeb_basis.hosts")
        for other in imports_of(module)
        if other.startswith(outer)
    ]
    assert not wrong


def test_only_a_hosts_modules_py_imports_its_program() -> None:
    wrong = [
        where(path, node)
        for module, path in modules().items()
        if not re.fullmatch(r"celeb_basis\.hosts\.\w+\.modules", module)
        for node in ast.walk(tree(path))
        if HOST_PROGRAMS & {name.split(".")[0] for name in imported(node)} and not _asks_where_it_is(node)
    ]
    assert not wrong


def _asks_where_it_is(node: ast.AST) -> bool:
    """``find_spec`` looks a program up and imports nothing of it."""
    return isinstance(node, ast.Call) and called(node) == "find_spec"


def test_gradio_is_imported_by_the_extension_alone() -> None:
    users = {
        module
        for module, path in modules().items()
        for node in ast.walk(tree(path))
        if "gradio" in {name.split(".")[0] for name in imported(node)}
    }
    assert users <= {name for name in modules() if name.startswith("celeb_basis.webui.")}


def test_torch_is_imported_at_the_top_but_at_the_entry_points() -> None:
    wrong = [
        where(path, node)
        for module, path in modules().items()
        if not f"{module}.".startswith(ENTRY_POINTS)
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if "torch" in {name.split(".")[0] for name in imported(node)}
    ]
    assert not wrong


# Files and names


def test_files_are_written_by_one_module() -> None:
    """``celeb_basis.files`` writes to a temporary file, syncs and renames; nothing else opens a file for writing."""
    writers = defaultdict(list)
    for module, path in modules().items():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            modes = [
                one.value for one in [*node.args, *(k.value for k in node.keywords)] if isinstance(one, ast.Constant)
            ]
            opens = called(node) == "open" and any(
                isinstance(m, str) and re.fullmatch(r"[wax]\+?[bt]?", m) for m in modes
            )
            method = isinstance(node.func, ast.Attribute) and called(node) in ("write_text", "write_bytes")
            if opens or method:
                writers[module].append(where(path, node))
    allowed = {"celeb_basis.files", "celeb_basis.download"}  # a download appends to a part of the file, then renames it
    temporary = {
        *("celeb_basis.webui.tasks.basis", "celeb_basis.webui.import_export", "celeb_basis.training.ray_executor"),
        *("celeb_basis.faces.packs", "celeb_basis.hosts.diffusers.configs"),
        "celeb_basis.exports.torch_files",  # a zip archive in memory
    }
    assert set(writers) <= allowed | temporary, {name: writers[name] for name in set(writers) - allowed - temporary}


def test_nothing_is_unpickled() -> None:
    wrong = [
        where(path, node)
        for path in modules().values()
        for node in ast.walk(tree(path))
        if "pickle" in {name.split(".")[0] for name in imported(node)}
        or (isinstance(node, ast.Attribute) and node.attr == "load" and getattr(node.value, "id", "") == "torch")
    ]
    assert not wrong


def test_modules_are_topics() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert not {name: length for name, length in lengths.items() if length > 450}
    assert len(lengths) <= 205
    assert statistics.median(lengths.values()) >= 140


SAME_IN_EACH = {
    *("host", "app", "modules", "model", "text", "tokens", "sampler_hooks"),  # a host's own
    *("basis", "people", "learn", "evaluate", "blend", "invent"),  # a command, a task and a sub-tab of one thing
    *("errors", "prompts"),  # of the package, and of the API or the evaluation
}


def test_a_modules_name_is_its_own() -> None:
    stems = defaultdict(set)
    for name in modules():
        stems[name.rsplit(".", 1)[-1]].add(name)
    assert not {stem: names for stem, names in stems.items() if len(names) > 1 and stem not in SAME_IN_EACH}
    assert not {stem for stem in stems if stem in sys.stdlib_module_names or stem == "gr"} - {"__main__"}


DIALECT = r"\b(told|tells|anew|whoever|meanwhile|of no use|left away|somebody|sooner done|judging)\b"


def test_plain_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in modules().values()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(DIALECT, line, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


# The page


def _named_paths() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return sorted({one for one in re.findall(r"`([\w./*]+)`", text) if "/" in one or one.endswith(".py")})


@pytest.mark.parametrize("named", _named_paths())
def test_every_path_of_the_page_exists(named: str) -> None:
    assert any(ROOT.glob(named.rstrip("/"))) or any(PACKAGE.rglob(named.rstrip("/")))


def test_every_class_of_the_page_exists() -> None:
    nodes = [node for path in modules().values() for node in ast.walk(tree(path))]
    defined = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    defined |= {
        node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    pages = [(ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("architecture.md", "glossary.md")]
    named = {
        one for text in pages for one in re.findall(r"`(?:\w+\.)*([A-Z][a-z]+[A-Za-z]*)(?:\.\w+(?:\(\))?)?`", text)
    }
    assert named
    assert named <= defined


def test_arrows_point_downwards() -> None:
    """The order of the page's table is the order of the layers."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \|", text.split("| in `celeb_basis/` | holds |")[1].split("\n\n")[0], re.MULTILINE)
    rank = {
        part.strip().strip("`").removesuffix("/").removesuffix(".py"): -number
        for number, row in enumerate(rows)
        for part in row.split(",")
    }
    wrong = [
        f"{module} -> {other}"
        for module in modules()
        if module.count(".")
        for other in imports_of(module)
        if other.count(".") and "__" not in module
        if rank[module.split(".")[1]] < rank[other.split(".")[1]]
    ]
    assert not wrong
