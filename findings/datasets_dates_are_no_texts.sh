#!/bin/sh
# datasets: answers that are dates, written as text in JSON lines.
#
# Expected: a JSON string is read as text; what is in one row does not change another.
# Happens:  where every answer looks like a date, all become datetime objects, and a verifier that compares texts finds
#           "2021-03-04 00:00:00". With one answer that is no date in the first block, all stay text; with one in a later
#           block, the file cannot be read at all.
. "$(dirname "$0")/lib.sh"
environment datasets==5.2.0
"$python" - 2>"$folder/said" <<'END'
import json, os, tempfile
import datasets
from datasets import load_dataset

datasets.disable_progress_bars()

def read(answers):
    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "rows.jsonl"), "w") as file:
        file.writelines(json.dumps({"answer": answer, "text": "x" * 1000}) + "\n" for answer in answers)
    return load_dataset("json", data_files=file.name, cache_dir=folder, split="train")["answer"][0]

dates, mixed = read(["2021-03-04", "1999-12-31"]), read(["2021-03-04", "Friday"])
print("only dates:", repr(dates), "- one other answer:", repr(mixed))
assert str(dates) == "2021-03-04 00:00:00" and mixed == "2021-03-04"
try:
    late = repr(read(["2021-03-04"] * 12000 + ["Friday"]))
except datasets.exceptions.DatasetGenerationError as error:
    late = str(error.__cause__)
print("the other answer after 12,000 dates:", late)
assert "timestamp" in late
END
