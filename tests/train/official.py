# SPDX-License-Identifier: Apache-2.0
"""One DINOv2 training step put together from the official modules, for comparisons; needs DINOV_UPSTREAM.

The official step cannot run here as it is: it wants CUDA, FSDP and xFormers. Its classes can: vision transformer,
heads, losses, parameter groups, masking and collation are upstream's own. What is written here is what joins them,
in the order of upstream's train/ssl_meta_arch.py and train/train.py:

- each crop group is forwarded by itself (upstream packs both into one sequence with a block-diagonal attention mask);
- stochastic depth takes a subset of the batch for any rate above 0, as the packed path does;
- no process group: one process, nothing to reduce.
"""
import importlib
import os
import sys
import warnings
from functools import partial
from types import ModuleType, SimpleNamespace

LOSSES = ("dino_local_crops_loss", "dino_global_crops_loss", "koleo_loss", "ibot_loss")


def data_module(name):
    """A module of dinov2.data without the package, which would pull in torchvision and the readers of data sets."""
    package = sys.modules.setdefault("dinov2_data", ModuleType("dinov2_data"))
    package.__path__ = [f"{os.environ['DINOV_UPSTREAM']}/dinov2/data"]
    return importlib.import_module(f"dinov2_data.{name}")


def upstream():
    """The official classes and functions used here."""
    root = os.environ["DINOV_UPSTREAM"]
    sys.path.insert(0, root)
    warnings.filterwarnings("ignore")
    import torch
    from dinov2.layers import DINOHead, MemEffAttention, NestedTensorBlock, block
    from dinov2.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss
    from dinov2.models.vision_transformer import DinoVisionTransformer
    from dinov2.utils.param_groups import fuse_params_groups, get_params_groups_with_decay

    if not torch.distributed.is_initialized():
        # The iBOT loss counts masked patches over all processes without asking whether there is more than one.
        torch.distributed.all_reduce = lambda tensor, *rest, **options: None
    return SimpleNamespace(
        DinoVisionTransformer=DinoVisionTransformer, NestedTensorBlock=NestedTensorBlock, MemEffAttention=MemEffAttention, block=block,
        DINOHead=DINOHead, DINOLoss=DINOLoss, iBOTPatchLoss=iBOTPatchLoss, KoLeoLoss=KoLeoLoss,
        get_params_groups_with_decay=get_params_groups_with_decay, fuse_params_groups=fuse_params_groups,
        MaskingGenerator=data_module("masking").MaskingGenerator, collate=data_module("collate").collate_data_and_cast)


def backbone(up, model, drop_path=0.0):
    """model: the "model" part of a case (see parity.py)."""
    class Subset(up.NestedTensorBlock):
        # A plain tensor takes the subset path only above a rate of 0.1; the packed path, which training takes, always.
        def forward(self, x):
            if not self.training or not 0 < self.sample_drop_ratio <= 0.1:
                return super().forward(x)
            for branch in (lambda y: self.ls1(self.attn(self.norm1(y))), lambda y: self.ls2(self.mlp(self.norm2(y)))):
                x = up.block.drop_add_residual_stochastic_depth(x, branch, self.sample_drop_ratio)
            return x

    assert model["grid_h"] == model["grid_w"]
    return up.DinoVisionTransformer(
        img_size=model["grid_h"] * model["patch"], patch_size=model["patch"], embed_dim=model["dim"], depth=model["depth"],
        num_heads=model["heads"], mlp_ratio=4, qkv_bias=model["qkv_bias"], init_values=model.get("layerscale_init", 1e-5) if
        model["layerscale"] else None, ffn_layer={"mlp": "mlp", "swiglu": "swiglufused"}[model["ffn"]], block_chunks=0,
        num_register_tokens=model["registers"], interpolate_antialias=model["interp_antialias"],
        interpolate_offset=model["interp_offset"], drop_path_rate=drop_path, drop_path_uniform=True,
        block_fn=partial(Subset, attn_class=up.MemEffAttention))


def draw_masks(up, images, size, patch, ratio=(0.1, 0.5), probability=0.5):
    """bool [2*images, patches] and the upper bound of masked patches, as the official collation draws them."""
    import torch

    crop, grid = torch.zeros(1), size // patch
    samples = [({"global_crops": [crop, crop], "local_crops": [crop]},)] * images
    generator = up.MaskingGenerator(input_size=(grid, grid), max_num_patches=0.5 * size // patch * size // patch)
    batch = up.collate(samples, ratio, probability, torch.float32, n_tokens=grid * grid, mask_generator=generator)
    return batch["collated_masks"], batch["upperbound"]


class Training:
    """Student, teacher, losses and optimiser of one case, in the default dtype at the time of construction."""

    def __init__(self, up, case, optimizer={"foreach": True}):
        import torch

        self.case, model = case, case["model"]
        self.separate = case["ibot"]["separate_head"]

        def parts(drop_path):
            head = lambda h: up.DINOHead(in_dim=model["dim"], out_dim=h["n_prototypes"], hidden_dim=h["hidden"],
                                         bottleneck_dim=h["bottleneck"], nlayers=h["nlayers"])
            modules = {"backbone": backbone(up, model, drop_path), "dino_head": head(case["dino"])}
            return torch.nn.ModuleDict(modules | ({"ibot_head": head(case["ibot"])} if self.separate else {}))

        self.student, self.teacher = parts(case["drop_path"]).train(), parts(0.0).eval()
        self.teacher.requires_grad_(False)
        self.dino_loss = up.DINOLoss(case["dino"]["n_prototypes"])
        self.ibot_loss = up.iBOTPatchLoss(case["ibot" if self.separate else "dino"]["n_prototypes"])
        self.koleo_loss = up.KoLeoLoss()
        groups = []
        for module in self.student.values():
            groups += up.fuse_params_groups(up.get_params_groups_with_decay(
                model=module, lr_decay_rate=case["layerwise_decay"], patch_embed_lr_mult=case["patch_embed_lr_mult"]))
        self.optimizer = torch.optim.AdamW([dict(g, **optimizer) for g in groups], betas=(case["beta1"], case["beta2"]))

    def centers(self):
        """Both centres with the update that is still pending."""
        for loss in (self.dino_loss, self.ibot_loss):
            loss.apply_center_update()
        return {"dino": self.dino_loss.center.flatten(), "ibot": self.ibot_loss.center.flatten()}

    def masked_rows(self, patches, where, upperbound):
        """The masked patch tokens, padded with zeros to a size known before the masks are."""
        import torch

        rows = torch.index_select(patches.flatten(0, 1), 0, where)
        return torch.cat([rows, rows.new_zeros(upperbound - len(rows), rows.shape[1])])

    def targets(self, global_crops, masks, upperbound, temperature):
        """The teacher's distributions: [2, images, K] for cls (views swapped), [masked, K] for patches."""
        import torch

        with torch.no_grad():
            out = self.teacher["backbone"](global_crops, is_training=True)
            first, second = out["x_norm_clstoken"].chunk(2)
            cls, n = torch.cat([second, first]), len(global_crops)
            where = masks.flatten().nonzero().flatten()
            rows = self.masked_rows(out["x_norm_patchtokens"], where, upperbound)
            if self.separate:
                cls, patches = self.teacher["dino_head"](cls), self.teacher["ibot_head"](rows)[:len(where)]
            else:
                both = self.teacher["dino_head"](torch.cat([cls, rows]))
                cls, patches = both[:n], both[n:n + len(where)]
            if self.case["centering"] == "centering":
                cls_targets = self.dino_loss.softmax_center_teacher(cls, teacher_temp=temperature)
                self.dino_loss.update_center(cls)
                patch_targets = self.ibot_loss.softmax_center_teacher(patches.unsqueeze(0), teacher_temp=temperature).squeeze(0)
                self.ibot_loss.update_center(patches.unsqueeze(0))
            else:
                cls_targets = self.dino_loss.sinkhorn_knopp_teacher(cls, teacher_temp=temperature)
                patch_targets = self.ibot_loss.sinkhorn_knopp_teacher(
                    patches, teacher_temp=temperature, n_masked_patches_tensor=torch.tensor([len(where)]))
            return cls_targets.view(2, -1, cls_targets.shape[-1]), patch_targets

    def losses(self, global_crops, local_crops, masks, upperbound, targets):
        """The losses as upstream logs them, and the sum that is differentiated."""
        import torch

        cls_targets, patch_targets = targets
        dino, ibot = self.case["dino"], self.case["ibot"]
        n_local = self.case["local_crops"]
        where = masks.flatten().nonzero().flatten()
        out = self.student["backbone"](global_crops, masks=masks, is_training=True)
        global_cls = out["x_norm_clstoken"]
        inputs = [global_cls]
        if n_local:
            inputs.insert(0, self.student["backbone"](local_crops, is_training=True)["x_norm_clstoken"])
        rows = self.masked_rows(out["x_norm_patchtokens"], where, upperbound)
        if not self.separate:
            inputs.append(rows)
        outputs = list(self.student["dino_head"](torch.cat(inputs)).split([len(i) for i in inputs]))
        patches = self.student["ibot_head"](rows) if self.separate else outputs.pop()
        global_out = outputs.pop()

        # A term for each pair of a student view and another teacher view. Without local crops one is still counted.
        terms = 2 + max(2 * n_local, 1)
        total, logged = 0.0, {}
        if n_local:
            logged["dino_local_crops_loss"] = self.dino_loss(outputs.pop().chunk(n_local), cls_targets) / terms
            total = total + dino["loss_weight"] * logged["dino_local_crops_loss"]
        logged["dino_global_crops_loss"] = self.dino_loss([global_out], [cls_targets.flatten(0, 1)]) * 2 / terms
        total = total + dino["loss_weight"] * logged["dino_global_crops_loss"]
        if dino["koleo_loss_weight"] > 0:
            koleo = dino["koleo_loss_weight"] * sum(self.koleo_loss(view) for view in global_cls.chunk(2))
            logged["koleo_loss"], total = koleo / 2, total + koleo
        patch_loss = self.ibot_loss.forward_masked(
            patches[:len(where)], patch_targets, student_masks_flat=masks, n_masked_patches=len(where)) * 2 * (1.0 / 2)
        logged["ibot_loss"], total = patch_loss / 2, total + ibot["loss_weight"] * patch_loss
        return {name: logged[name].item() if name in logged else 0.0 for name in LOSSES}, total

    def step(self, global_crops, local_crops, masks, schedule, watch=None):
        """A whole optimiser step: (losses as logged, gradient norms before clipping). watch is called between backward
        and clipping. schedule: lr, last_layer_lr, wd, momentum, teacher_temp, upperbound."""
        import torch

        for group in self.optimizer.param_groups:
            group["weight_decay"] = schedule["wd"] * group["wd_multiplier"]
            group["lr"] = schedule["last_layer_lr" if group["is_last_layer"] else "lr"] * group["lr_multiplier"]
        self.optimizer.zero_grad(set_to_none=True)
        targets = self.targets(global_crops, masks, schedule["upperbound"], schedule["teacher_temp"])
        logged, total = self.losses(global_crops, local_crops, masks, schedule["upperbound"], targets)
        total.backward()
        if watch:
            watch(self)
        limit = self.case["clip_grad"] or float("inf")
        norms = [torch.nn.utils.clip_grad_norm_(module.parameters(), limit).item() for module in self.student.values()]
        self.optimizer.step()
        with torch.no_grad():
            mine, theirs = list(self.student.parameters()), list(self.teacher.parameters())
            torch._foreach_mul_(theirs, schedule["momentum"])
            torch._foreach_add_(theirs, mine, alpha=1 - schedule["momentum"])
        return logged, norms
