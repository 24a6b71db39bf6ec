# SPDX-License-Identifier: Apache-2.0
"""The safetensors package opens our files: python safetensors_package.py

Every good- vector: same names, dtypes, shapes and bytes as the second reader finds, and the metadata.
"""
import glob
import os
import sys

try:
    from safetensors import deserialize, safe_open
    import numpy  # noqa: F401, what safe_open hands out
except ImportError as error:
    print("skipped: %s" % error)
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "spec"))
import reader  # noqa: E402

paths = sorted(glob.glob(os.path.join(ROOT, "spec", "vectors", "good-*.safetensors")))
assert len(paths) >= 10
tensors_seen = 0
for path in paths:
    with open(path, "rb") as file:
        data = file.read()
    document, tensors, start = reader.open_checkpoint(data)
    theirs = dict(deserialize(data))
    assert len(theirs) == len(tensors), path
    for name, dtype, shape, begin, end in tensors:
        assert theirs[name]["dtype"] == dtype and theirs[name]["shape"] == shape, (path, name)
        assert bytes(theirs[name]["data"]) == data[start + begin:start + end], (path, name)
        tensors_seen += 1
    with safe_open(path, "np") as file:
        assert sorted(file.keys()) == sorted(theirs)
        metadata = file.metadata()
        assert sorted(metadata) == ["dinov", "dinov_header", "format"] and metadata["format"] == "pt"
        assert reader.read_document(metadata["dinov"], "backbone") == document
print("%d files, %d tensors agree" % (len(paths), tensors_seen))
