"""Sessions for several Pythons: `nox -s tests-3.12`, `nox -s docs`."""

import nox

nox.options.default_venv_backend = "venv"
PYTHONS = ["3.11", "3.12", "3.13"]


@nox.session(python=PYTHONS)
def tests(session):
    """What CI runs: the test command of the README, and what is slow."""
    session.install("-e", ".[tests]")
    session.run("python", "-m", "pytest", "-n", "auto", "--dist", "loadfile", *session.posargs)
    slow = ("-m", "slow and not sweep")
    session.run("python", "-m", "pytest", *slow, "-n", "auto", "--dist", "loadfile")


@nox.session(python=PYTHONS[0])
def docs(session):
    """The site, in `site/`."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
