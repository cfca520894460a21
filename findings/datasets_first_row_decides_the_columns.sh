#!/bin/sh
# datasets: rows of which only some have a field, such as a hint, made into a data set.
#
# Expected: Dataset.from_list has all fields, with None where a row has none, as reading the same rows from a file.
# Happens:  the columns are those of the first row; fields that only later rows have are dropped without a word.
. "$(dirname "$0")/lib.sh"
environment datasets==5.2.0
"$python" - <<'END'
import json, os, tempfile
import datasets
from datasets import Dataset, load_dataset

datasets.disable_progress_bars()
rows = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4", "hint": "count"}]
listed = Dataset.from_list(rows).column_names
folder = tempfile.mkdtemp()
with open(os.path.join(folder, "rows.jsonl"), "w") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)
read = load_dataset("json", data_files=file.name, cache_dir=folder, split="train").column_names
print("from_list:", listed, "from a file of the same rows:", read)
assert "hint" not in listed and "hint" in read
END
