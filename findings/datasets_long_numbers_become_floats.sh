#!/bin/sh
# datasets: integers of many digits as answers in JSON lines.
#
# Expected: they are read exactly, or refused.
# Happens:  an integer beyond 64 bits turns the column into floats without a word, so that the digits behind the sixteenth
#           are gone; one fraction in the column does the same to integers beyond 2^53. from_list refuses both.
. "$(dirname "$0")/lib.sh"
environment datasets==5.2.0
"$python" - 2>"$folder/said" <<'END'
import json, os, tempfile
import datasets
import pyarrow
from datasets import Dataset, load_dataset

datasets.disable_progress_bars()

def read(answers):
    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "rows.jsonl"), "w") as file:
        file.writelines(json.dumps({"answer": answer}) + "\n" for answer in answers)
    return load_dataset("json", data_files=file.name, cache_dir=folder, split="train")["answer"][0]

for answers in ([12345678901234567890123, 7], [9007199254740993, 0.5]):
    found = read(answers)
    print(f"{answers[0]} is read as {found!r}")
    assert isinstance(found, float) and int(found) != answers[0]
    try:
        Dataset.from_list([{"answer": answer} for answer in answers])
        raise SystemExit("from_list takes it")
    except (OverflowError, pyarrow.ArrowInvalid) as error:
        print("  from_list:", type(error).__name__)
END
