# SPDX-License-Identifier: Apache-2.0
"""k-NN and the linear probe against the official evaluation code, run as it is on features made here.

    parity.py check PROBE DINOV_EVAL   stored outputs of the official code (CI); 77 without numpy
    parity.py dump                     makes those outputs; needs DINOV_UPSTREAM, a checkout of facebookresearch/dinov2,
                                       and torchmetrics, fvcore, omegaconf on PYTHONPATH

dump calls the official eval_knn_with_model and run_eval_linear. Replaced are only what needs a GPU, several processes or
data sets: the data package (a set is a list of feature vectors, a batch of training the rows chosen here), the model (it
takes the vector apart), .cuda(), and the collective calls, which for one process are copies. Hard casts to float32 are
lifted, so that the stored results are float64's. Neighbours and votes come from the official KnnModule inside that call;
initial weights are the official ones, rounded to float32.

Limits: similarities 1e-6; the k-NN result file equal in keys and order, in values to 1e-4 of a percent (upstream's are
float32); weights of the probe 2e-6 of their norm after 40 steps; accuracies equal.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

try:
    import numpy as np
except ImportError:
    print("skipped: numpy is missing")
    sys.exit(77)

GOLDEN = Path(__file__).parent / "golden"
KNN_CLASSES, NEAREST = 7, 100
CLASSES, DIM, PATCHES, BATCH, STEPS, RATES = 9, 8, 3, 32, 40, (0.05, 0.5, 5.0)


def knn_sets():
    """Train and test features [n, 24] and labels: overlapping clouds. RandomState's streams never change."""
    dice = np.random.RandomState(20)
    centres = dice.standard_normal((KNN_CLASSES, 24))

    def draw(n):
        labels = dice.randint(0, KNN_CLASSES, n)
        return (0.7 * centres[labels] + dice.standard_normal((n, 24))).astype("<f4"), labels.astype("<i4")

    return draw(500), draw(60)


def linear_sets():
    """Samples [n, 4 * DIM + PATCHES * DIM]: cls of the last four blocks, shallow to deep, then patches of the last."""
    dice = np.random.RandomState(21)
    centres = dice.standard_normal((CLASSES, (4 + PATCHES) * DIM))

    def draw(n):
        labels = dice.randint(0, CLASSES, n)
        return (0.5 * centres[labels] + dice.standard_normal((n, centres.shape[1]))).astype("<f4"), labels.astype("<i4")

    train, test = draw(200), draw(80)
    return train, test, dice.randint(0, 200, (STEPS, BATCH)).astype("<i4")


# ---- The official code ----

def official(batches):
    """dinov2.eval.knn and .linear; batches(dataset, options) gives what their data loaders give."""
    sys.path.insert(0, os.environ["DINOV_UPSTREAM"])
    import torch

    data, transforms = ModuleType("dinov2.data"), ModuleType("dinov2.data.transforms")
    data.SamplerType = SimpleNamespace(DISTRIBUTED="distributed", SHARDED_INFINITE="infinite")
    data.make_dataset = lambda dataset_str, transform: transform(dataset_str)
    data.make_data_loader = batches
    data.DatasetWithEnumeratedTargets = lambda dataset: [(x, (i, y)) for i, (x, y) in enumerate(dataset)]
    transforms.make_classification_eval_transform = transforms.make_classification_train_transform = lambda: None
    sys.modules |= {"dinov2.data": data, "dinov2.data.transforms": transforms}
    torch.Tensor.cuda = lambda self, *rest, **options: self
    torch.nn.Module.cuda = lambda self, *rest: self
    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.synchronize = lambda: None
    torch.distributed.broadcast = lambda tensor, source: None
    torch.distributed.gather = lambda tensor, out, dst: out[0].copy_(tensor)
    torch.distributed.all_gather = lambda out, tensor: out[0].copy_(tensor)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = lambda self: self
    from dinov2.eval import knn, linear
    return torch, data, knn, linear


class Dataset(list):
    def get_targets(self):
        return np.array([y for _, y in self])


def loader(dataset, batch_size, sampler_type, **options):
    import torch

    if sampler_type == "infinite":
        order = linear_sets()[2]
    else:
        order = np.array_split(np.arange(len(dataset)), range(batch_size, len(dataset), batch_size))
    return [torch.utils.data.default_collate([dataset[i] for i in rows]) for rows in order]


def dump_knn(torch, data, knn, folder):
    (train, train_labels), (test, test_labels) = knn_sets()
    sets = {"train": (train, train_labels), "test": (test, test_labels)}
    data.make_dataset = lambda dataset_str, transform: Dataset(
        (torch.tensor(x).double(), int(y)) for x, y in zip(*sets[dataset_str]))
    kept = {}
    neighbours = knn.KnnModule.compute_neighbors

    def compute_neighbors(self, features):
        similarity, labels = neighbours(self, features)
        kept.setdefault(id(self), []).append((similarity, labels))
        return similarity, labels

    knn.KnnModule.compute_neighbors = compute_neighbors
    # 100 a class is more than any class has, so that the subset is the whole set whoever draws it.
    knn.eval_knn_with_model(torch.nn.Identity(), folder, "train", "test", nb_knn=[1, 10, 20, NEAREST], autocast_dtype=torch.float64,
                            transform="none", gather_on_cpu=True, batch_size=25, num_workers=0, n_per_class_list=[-1, 100], n_tries=1)
    similarity, label = (torch.cat(batches).numpy() for batches in zip(*next(iter(kept.values()))))  # of the whole set
    np.savez_compressed(GOLDEN / "knn.npz", similarity=similarity, label=label.astype("<i4"))
    return Path(folder, "results_eval_knn.json").read_text()


class Parts:
    """The model: a sample holds what its last four blocks would give."""
    def eval(self):
        return self

    def get_intermediate_layers(self, x, n, return_class_token):
        patches = x[:, 4 * DIM:].reshape(len(x), PATCHES, DIM)
        return [(patches if i == 3 else patches * 0, x[:, i * DIM:(i + 1) * DIM]) for i in range(4)][-n:]


def dump_linear(torch, data, linear, folder):
    train, test, rows = linear_sets()
    sets = {"train": train, "test": test}
    data.make_dataset = linear.make_dataset = lambda dataset_str, transform: Dataset(
        (torch.tensor(x).double(), int(y)) for x, y in zip(*sets[dataset_str]))
    stored, kept = {}, {}
    setup, run, evaluate = linear.setup_linear_classifiers, linear.eval_linear, linear.evaluate

    class Model(Parts, torch.nn.Module):
        eval = torch.nn.Module.eval

    def setup_linear_classifiers(*arguments):
        classifiers, groups = setup(*arguments)
        for parameter in classifiers.parameters():
            parameter.data = parameter.data.to(torch.float32).double()
        kept["start"] = {k: v.clone() for k, v in classifiers.state_dict().items()}
        return classifiers, groups

    def eval_linear(**options):
        result = run(**options)
        kept["names"], kept["end"] = list(result[2].classifiers_dict), result[2].state_dict()
        return result

    def evaluate_(*arguments):
        kept["scores"] = evaluate(*arguments)
        return kept["scores"]

    linear.setup_linear_classifiers, linear.eval_linear, linear.evaluate = setup_linear_classifiers, eval_linear, evaluate_
    torch.manual_seed(5)
    torch.cuda.amp.autocast = lambda **options: torch.autocast("cpu", enabled=False)
    linear.run_eval_linear(Model(), folder, "train", "test", batch_size=BATCH, epochs=2, epoch_length=STEPS // 2, num_workers=0,
                           save_checkpoint_frequency=20, eval_period_iterations=STEPS // 2, learning_rates=RATES,
                           autocast_dtype=torch.float64, resume=False)
    for i, name in enumerate(kept["names"]):
        for part in ("weight", "bias"):
            stored[f"start-{part}-{i}"] = kept["start"][f"classifiers_dict.{name}.linear.{part}"].numpy().astype("<f4")
            stored[f"end-{part}-{i}"] = kept["end"][f"classifiers_dict.{name}.linear.{part}"].numpy()
    np.savez_compressed(GOLDEN / "linear.npz", **stored)
    scores = kept["scores"][1]
    return {"names": kept["names"], "top-1": [scores[n]["top-1"].item() for n in kept["names"]],
            "top-5": [scores[n]["top-5"].item() for n in kept["names"]], "file": Path(folder, "results_eval_linear.json").read_text()}


def dump():
    torch, data, knn, linear = official(loader)
    import torchmetrics

    knn.make_dataset = lambda **options: data.make_dataset(**options)
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = {"made_by": "tests/eval/parity.py dump", "torch": torch.__version__, "torchmetrics": torchmetrics.__version__,
                "knn_file": dump_knn(torch, data, knn, folder), "linear": dump_linear(torch, data, linear, folder)}
    (GOLDEN / "made.json").write_text(json.dumps(made, indent=1) + "\n")


# ---- Ours ----

def check_knn(probe, program, made, folder):
    (train, train_labels), (test, test_labels) = knn_sets()
    for name, array in (("train", train), ("test", test), ("train-labels", train_labels), ("test-labels", test_labels)):
        np.save(folder / f"{name}.npy", array)
    subprocess.run([probe, "knn", folder, str(NEAREST)], check=True)
    golden = np.load(GOLDEN / "knn.npz")
    error = np.abs(np.load(folder / "similarity.npy") - golden["similarity"]).max()
    labels = train_labels[np.load(folder / "item.npy")]
    assert error < 1e-6, f"similarities differ by {error}"
    assert (labels == golden["label"]).all(), "other neighbours"
    subprocess.run([program, "knn", "-q", "--train", folder / "train.npy", "--train-labels", folder / "train-labels.npy",
                    "--test", folder / "test.npy", "--test-labels", folder / "test-labels.npy", "-k", f"1,10,20,{NEAREST}",
                    "--n-per-class", "-1,100", "-o", folder / "knn.json"], check=True, stdout=subprocess.DEVNULL)
    ours = [json.loads(line) for line in (folder / "knn.json").read_text().splitlines()]
    theirs = [json.loads(line) for line in made["knn_file"].splitlines()]
    assert [list(x) for x in ours] == [list(x) for x in theirs], "other keys in the result file"
    for a, b in zip(ours, theirs):
        (key, x), (y,) = *a.items(), b.values()
        # With one neighbour, four of the official top five are classes without a vote, in the order of torch.topk's ties.
        assert key.endswith(", 1) Top 5") or abs(x - y) < 1e-4, f"{key}: {x}, expected {y}"
    print(f"k-NN: similarities within {error:.1e}, {len(ours)} figures as in the official file")


def check_linear(probe, made, folder):
    train, test, rows = linear_sets()
    golden, worst = np.load(GOLDEN / "linear.npz"), 0
    for prefix, (x, labels) in (("", train), ("test-", test)):
        for block in range(4):
            np.save(folder / f"{prefix}cls{block}.npy", np.ascontiguousarray(x[:, (3 - block) * DIM:(4 - block) * DIM]))
        np.save(folder / f"{prefix}mean.npy", x[:, 4 * DIM:].reshape(-1, PATCHES, DIM).astype("f8").mean(1).astype("<f4"))
        np.save(folder / f"{prefix}labels.npy", labels)
    np.save(folder / "rows.npy", rows)
    for i in range(len(made["names"])):
        for part in ("weight", "bias"):
            np.save(folder / f"{part}-{i}.npy", golden[f"start-{part}-{i}"])
    out = subprocess.run([probe, "linear", folder, str(CLASSES), *map(str, RATES)], check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines] == made["names"], f"other names: {lines}"
    for i, name in enumerate(made["names"]):
        for part in ("weight", "bias"):
            want, have = golden[f"end-{part}-{i}"], np.load(folder / f"final-{part}-{i}.npy").reshape(golden[f"end-{part}-{i}"].shape)
            error = np.linalg.norm(have - want) / np.linalg.norm(want)
            worst = max(worst, error)
            assert error < 2e-6, f"{name} {part}: {error}"
        for top, value in zip(("top-1", "top-5"), lines[i][1:]):
            assert abs(float(value) - made[top][i]) < 1e-6, f"{name} {top}: {value}, expected {made[top][i]}"
    best = json.loads(made["file"].splitlines()[-2])["best_classifier"]["name"]
    assert max(lines, key=lambda line: float(line[1]))[0] == best
    print(f"linear: {len(lines)} classifiers after {STEPS} steps within {worst:.1e}")


def check(probe, program):
    made = json.loads((GOLDEN / "made.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        check_knn(probe, program, made, Path(folder))
        check_linear(probe, made["linear"], Path(folder))


if __name__ == "__main__":
    {"check": check, "dump": dump}[sys.argv[1]](*sys.argv[2:])
