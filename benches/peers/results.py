"""Rows of benches/results/<suite>.csv, for the scripts here; the schema is that of benches/src/results.rs."""

import csv
import datetime
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = "suite,case,metric,value,unit,goal,rival,rival_value,command,machine,date,commit".split(",")


def path(suite):
    return ROOT / "benches" / "results" / f"{suite}.csv"


def read(file):
    """The rows of a file of figures, none if there is no such file yet."""
    if not file.exists():
        return []
    with file.open(newline="") as text:
        reader = csv.DictReader(text)
        if reader.fieldnames != HEADER:
            sys.exit(f"{file} has another schema")
        return list(reader)


def record(suite, figures, command, machine=None, file=None):
    """Puts figures, dicts of columns, in place of the rows of the same case, metric and rival; into the suite's own file, and as
    measured on this machine, unless told otherwise."""
    file = pathlib.Path(file) if file else path(suite)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    common = dict.fromkeys(HEADER, "") | {
        "suite": suite,
        "command": command,
        "machine": machine or processor(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit.stdout.strip(),
    }
    new = [common | figure for figure in figures]

    def key(row):
        return tuple(row[column] for column in ("suite", "case", "metric", "rival"))

    replaced = {key(row) for row in new}
    rows = [row for row in read(file) if key(row) not in replaced] + new
    scratch = file.with_suffix(".csv.tmp")
    scratch.parent.mkdir(parents=True, exist_ok=True)
    with scratch.open("w", newline="") as text:
        writer = csv.DictWriter(text, HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    scratch.replace(file)


def processor():
    """As the other suites write it: processor and number of cores."""
    model = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}; {len(os.sched_getaffinity(0))} cores"
