# SPDX-License-Identifier: Apache-2.0
"""The same weights under other people's names, rule by rule as their own sources have them: facts for the
tests, written apart from convert/names.c."""
from collections import OrderedDict

from weightfiles import ITEM, Storage, Tensor

HF = [("cls_token", "embeddings.cls_token"), ("pos_embed", "embeddings.position_embeddings"), ("mask_token", "embeddings.mask_token"),
      ("register_tokens", "embeddings.register_tokens"), ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
      ("norm.", "layernorm."), ("blocks.", "encoder.layer."), ("attn.proj.", "attention.output.dense."), ("ls1.gamma", "layer_scale1.lambda1"),
      ("ls2.gamma", "layer_scale2.lambda1"), ("mlp.w12.", "mlp.weights_in."), ("mlp.w3.", "mlp.weights_out.")]
HF_5 = [("attention.attention.query", "attention.q_proj"), ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"), ("attention.output.dense", "attention.o_proj"),
        ("mlp.weights_out", "mlp.down_proj")]


def hf_name(name):
    at = 0
    for hub, theirs in HF:
        if name.startswith(hub, at):
            name = name[:at] + theirs + name[at + len(hub):]
            if hub != "blocks.":
                return name
            at = name.index(".", len(theirs)) + 1
    for hub, theirs in HF[7:]:
        if at and name.startswith(hub, at):
            return name[:at] + theirs + name[at + len(hub):]
    return name


def rows(tensor, part, parts):
    """One of equal runs of rows, as a tensor of its own."""
    raw, count = tensor.bytes(), tensor.shape[0] // parts
    size = len(raw) // parts
    return Tensor(Storage(0, tensor.storage.dtype, raw[part * size:(part + 1) * size]), (count,) + tensor.shape[1:])


def split(out, hub, tensor):
    """Replaces a qkv of the hub's by three tensors."""
    block, kind = hub.split(".")[1], hub.rsplit(".", 1)[1]
    del out[hf_name(hub)]
    for part, name in enumerate(("query", "key", "value")):
        out["encoder.layer.%s.attention.attention.%s.%s" % (block, name, kind)] = rows(tensor, part, 3)


def hf(state, version=4):
    """transformers: 4.x as in files, 5.x as in memory."""
    out = OrderedDict((hf_name(k), v) for k, v in state.items())
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            split(out, name, tensor)
    if version == 4:
        return out
    new = OrderedDict()
    for name, tensor in out.items():
        for old, theirs in HF_5:
            name = name.replace(old, theirs)
        if ".weights_in." in name:
            for part, half in enumerate(("gate_proj", "up_proj")):
                new[name.replace("weights_in", half)] = rows(tensor, part, 2)
        else:
            new[name] = tensor
    return new


def timm(state):
    """timm: no mask_token; with registers the class token carries its position."""
    out = OrderedDict((k.replace("register_tokens", "reg_token").replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"), v)
                      for k, v in state.items() if k != "mask_token")
    if "reg_token" in out:
        pos = out["pos_embed"]
        size = ITEM[pos.storage.dtype] * pos.shape[2]
        out["pos_embed"] = Tensor(Storage(0, pos.storage.dtype, pos.bytes()[size:]), (1, pos.shape[1] - 1, pos.shape[2]))
    return out


def chunked(state, chunks):
    """FSDP's chunks of blocks: the second number is the block's own."""
    depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
    per = depth // chunks
    return OrderedDict((k if not k.startswith("blocks.") else "blocks.%d.%s" % (int(k.split(".")[1]) // per, k[7:]), v)
                       for k, v in state.items())
