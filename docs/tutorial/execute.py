"""Executes the notebooks, and writes them with their outputs in place.

    python docs/tutorial/execute.py                     # all of them
    python docs/tutorial/execute.py lenet --to FOLDER   # one, written there

Needs the extras "docs", "examples" and "plot". What libraries print on standard error, which
differs from machine to machine, is left out; an error in a cell ends it.
"""

import argparse
import pathlib
import tempfile

import nbclient
import nbformat

HERE = pathlib.Path(__file__).parent


def execute(path):
    """The notebook at `path`, executed in a kernel and a folder of its own."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook,
            timeout=240,  # seconds for a cell
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}  # without the version
    return notebook


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="without .ipynb; all if there are none")
    parser.add_argument("--to", type=pathlib.Path, default=HERE, metavar="FOLDER")
    arguments = parser.parse_args()
    for path in sorted(HERE.glob("*.ipynb")):
        if path.stem in (arguments.names or [path.stem]):
            nbformat.write(execute(path), arguments.to / path.name)


if __name__ == "__main__":
    main()
