# SPDX-License-Identifier: Apache-2.0
"""PyTorch on the same weights, the same GPU, in the same run: transformers' Dinov2Model in bf16 with eager attention, with
SDPA, and compiled. Outputs are compared before a time counts; rates are medians of five.

usage: peer.py BUNDLE LIBRARIES FORWARD SECONDS
    BUNDLE      tests/gpu/pack's folder        LIBRARIES   where NVIDIA's libraries are, for LD_LIBRARY_PATH
    FORWARD     what gpu_bench forward printed in this run        SECONDS     how long this may take
"""
import os
import re
import subprocess
import sys
import tempfile
import time

try:
    import numpy as np
    import torch
    import transformers
except ImportError as why:
    print("PyTorch is not compared with:", why)
    sys.exit(0)
transformers.utils.logging.disable_progress_bar()
if not torch.cuda.is_available():
    print("PyTorch is not compared with: it sees no GPU")
    sys.exit(0)

BUNDLE, LIBRARIES, FORWARD, SECONDS = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
DEADLINE = time.monotonic() + SECONDS - 10
SHAPES = {"S": [], "B": ["--dim", "768"], "L": ["--dim", "1024", "--depth", "24"],
          "g": ["--dim", "1536", "--depth", "40", "--swiglu"]}
OURS = {}
with open(FORWARD, encoding="utf-8") as file:
    for line in file:
        found = re.match(r"forward (\S+)\s+(\d+)\s+batch (\d+)\s+\S+ ms\s+(\S+) img/s", line)
        if found:
            OURS[found[1], int(found[2]), int(found[3])] = float(found[4])


def run(program, *words):
    environment = dict(os.environ, LD_LIBRARY_PATH=BUNDLE + "/lib:" + LIBRARIES)
    subprocess.run([os.path.join(BUNDLE, "bin", program), *words], check=True, env=environment, stderr=subprocess.DEVNULL)


def rate(model, pixels):
    """Pictures a second."""
    with torch.inference_mode():
        for _ in range(3):
            model(pixels)
        torch.cuda.synchronize()
        times = []
        for _ in range(5):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for _ in range(4):
                model(pixels)
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 4000)
    return len(pixels) / sorted(times)[2]


def least_cosine(a, b):
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return torch.nn.functional.cosine_similarity(a, b, dim=-1).min().item()


print("torch %s, transformers %s" % (torch.__version__, transformers.__version__))
bad = False
for name, shape in SHAPES.items():
    with tempfile.TemporaryDirectory() as folder:
        if time.monotonic() > DEADLINE - 20:
            print("peer %-4s not measured: out of time" % name)
            continue
        weights, hf, array, out = (os.path.join(folder, part) for part in ("m.safetensors", "hf", "x.npy", "out"))
        run("dinov-demo-model", "-o", weights, "--no-proof", *shape)
        run("dinov-convert", weights, "-o", hf, "--to", "hf", "--no-check")
        np.save(array, np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype("<f4"))
        run("dinov-infer", "-m", weights, "-o", out, "--device", "cuda", "--compute", "bf16", array)
        ours = np.load(os.path.join(out, "part-000000.cls.npy"))
        exact = transformers.AutoModel.from_pretrained(hf).cuda().eval()
        with torch.inference_mode():
            want = exact(torch.from_numpy(np.load(array)).cuda()).last_hidden_state[:, 0].cpu()
        del exact
        cosine = least_cosine(ours, want)
        bad |= not cosine >= 0.999
        print("peer %-4s our bf16 against its float32: cosine %.6f%s" % (name, cosine, "" if cosine >= 0.999 else "  FAILED"))
        models = {}
        for how in ("eager", "sdpa"):
            models[how] = transformers.AutoModel.from_pretrained(hf, attn_implementation=how, dtype=torch.bfloat16).cuda().eval()
        models["compile"] = torch.compile(models["sdpa"])
        for side, batch in ((224, 256 if name != "g" else 128), (518, 32)):
            pixels = torch.randn(batch, 3, side, side, device="cuda", dtype=torch.bfloat16)
            rates = {}
            for how, model in models.items():
                if time.monotonic() > DEADLINE - (45 if how == "compile" else 5):
                    print("peer %-4s %d %s not measured: out of time" % (name, side, how))
                    continue
                rates[how] = rate(model, pixels)
            ours_rate = OURS.get((name, side, batch), 0)
            print("peer %-4s %d  batch %-4d" % (name, side, batch), " ".join(
                "  %s %.0f img/s (ours %.2fx)" % (how, r, ours_rate / r) for how, r in rates.items()), flush=True)
        del models, pixels
        torch.cuda.empty_cache()
sys.exit(bad)
