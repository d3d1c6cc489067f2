#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2"]
# ///
"""Tasks of developers: `nox -s lint`, `tests`, `docs`, `bench`, `aarch64`; `nox` runs two."""

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
PYTHONS = [name.rpartition(" ")[2] for name in nox.project.load_toml()["project"]["classifiers"]
           if name.startswith("Programming Language :: Python :: 3.")]  # fmt: skip


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install the checkout with extras and dependency groups."""
    options = [option for group in groups for option in ("--group", group)]
    if session.venv_backend == "virtualenv":
        session.install("pip>=25.1")  # which knows groups
    session.install("-e", f".{extras}", *options)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types."""
    install(session, "lint")
    session.run("codespell")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on each Python that is installed, or `nox -s tests-3.12 -- FILES`."""
    install(session, "test")
    session.run("pytest", *(session.posargs or ["-n", "auto", "--dist", "worksteal"]))


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the site into docs/_build/html."""
    install(session, "docs")
    session.run("python", "-m", "sphinx", "-W", "-n", "docs", "docs/_build/html")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Compare speeds: fastxent with other implementations, each installed."""
    install(session, "dev", extras="[bench,peers]")
    session.run("pytest", "bench", *session.posargs)


@nox.session(default=False)
def aarch64(session: nox.Session) -> None:
    """Run tests on emulated 64-bit ARM CPUs, on x86-64 Debian."""
    install(session, "test")
    session.run("python", "tests/aarch64/run.py", *session.posargs)


if __name__ == "__main__":
    nox.main()
