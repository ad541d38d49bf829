"""`python -m triton_launches`: kernels of a step with compiled layers, by the code that inductor generates for CUDA.

No card is needed: graphs are traced on the CPU, their nodes moved to a CUDA device that is not there, and the generated
code is read, not run. Prints, as JSON, launches of a compiled layer and of an eager one, forward and backward, and of
all else in a step with one layer. In a process of its own, since what PyTorch knows of CUDA is replaced.
"""

import copy
import json
import re
from types import SimpleNamespace

import torch
from on_fake_gpu import study
from tiny import tiny_lm
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.device_interface import CudaInterface
from torch._dynamo.utils import detect_fake_mode
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import scheduler
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes import post_grad
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _triton
from torch.utils._pytree import tree_map

from engine.lm import prefix_sharing
from engine.lm.language_model import FrozenLM
from engine.lm.prefix_sharing import Layout, packed_as

CUDA = torch.device("cuda", 0)
STEP = {"runs": 1, "images": 32, "asked": 2, "batch": 32, "steps": 2, "suffix": 16, "dtype": "bfloat16"}
H100 = SimpleNamespace(
    major=9, minor=0, multi_processor_count=132, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048,
    max_threads_per_block=1024, warp_size=32, total_memory=80 * 2**30, name="H100", gcnArchName="",
    L2_cache_size=50 * 2**20, shared_memory_per_block_optin=232448, shared_memory_per_block=49152,
    shared_memory_per_multiprocessor=233472,
)  # fmt: skip
ATTENTION = ("flash_attention", "flash_attention_backward", "efficient_attention", "efficient_attention_backward")


def pretend():
    """What inductor asks about the card and about Triton, and what CUDA's attention gives, without values."""
    scheduler.has_triton = _triton.has_triton = lambda *_, **__: True
    _triton.triton_hash_with_backend = lambda: ""
    torch.cuda.get_device_properties = lambda *_, **__: H100
    torch.cuda.get_device_capability = lambda *_, **__: (9, 0)
    torch.cuda.current_device = lambda: 0
    CudaInterface.get_compute_capability = staticmethod(lambda *_, **__: 90)
    CudaInterface.get_device_properties = staticmethod(lambda *_, **__: H100)
    CudaInterface.Worker.get_device_properties = staticmethod(lambda *_, **__: H100)
    CudaInterface.get_multi_processor_count = staticmethod(lambda *_, **__: 132)
    CudaInterface.is_available = staticmethod(lambda *_, **__: True)
    library = torch.library.Library("aten", "IMPL")
    for name in ATTENTION:
        name = f"_scaled_dot_product_{name}"
        library.impl(name, of_that_shape(getattr(torch.ops.aten, name).default), "CPU")
    return library  # kept alive


def of_that_shape(operation):
    """`operation` that gives zeros, of the shapes and strides that it has on CUDA."""

    def run(*given, **more):
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            made = operation(*tree_map(lambda x: fake.from_tensor(x) if type(x) is torch.Tensor else x, given), **more)
        return tree_map(zeros, made)

    return run


def zeros(x):
    return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype).zero_() if torch.is_tensor(x) else x


def launches(graph, inputs, backward):
    """Of one graph: kernels of Triton, matrix products and attention."""
    values = (node.meta.get("val") for node in graph.graph.nodes)
    fake = detect_fake_mode(inputs) or next(x.fake_mode for x in values if isinstance(x, FakeTensor))

    def moved(x):
        return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=CUDA) if torch.is_tensor(x) else x

    with V.set_fake_mode(fake):
        post_grad.post_grad_passes(graph, is_inference=False)
        with fake:
            for node in graph.graph.nodes:
                if "val" in node.meta:
                    node.meta["val"] = tree_map(moved, node.meta["val"])
                if "device" in node.kwargs:
                    node.kwargs = {**node.kwargs, "device": CUDA}
        given = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
        lowered = GraphLowering(graph, given, fake.shape_env, is_backward=backward)
        with V.set_graph_handler(lowered), V.set_debug_handler(Silent()):
            lowered.run(*given)
            code, *_ = lowered.codegen()
    body = getattr(code, "value", code).partition("def call(")[2]
    return len(re.findall(r"^\s+triton_\w+\.run|extern_kernels\.\w+\(|ops\.aten\._scaled_dot\w+\.\w+\(", body, re.M))


class Silent:
    def __getattr__(self, _):
        return lambda *_, **__: None


def compiled_layer():
    """Launches of one layer, forward and backward, for rows of any size."""
    found = []

    def compiler(backward):
        def compile(graph, inputs):
            found.append(launches(copy.deepcopy(graph), inputs, backward))
            return graph

        return compile

    backend = aot_autograd(
        fw_compiler=compiler(False), bw_compiler=compiler(True), decompositions=select_decomp_table(),
        partition_fn=min_cut_rematerialization_partition,
    )  # fmt: skip
    sizes = {"num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    lm = FrozenLM.wrap(tiny_lm("qwen3", **sizes), None, torch.device("cpu"), "never")
    lm.model.to(torch.bfloat16).set_attn_implementation(prefix_sharing.IMPLEMENTATION)
    layout, layer = Layout(((16, 2),), 256, 16), lm.decoder.layers[0]
    positions = layout.position_ids(lm.device)
    x = torch.randn(1, positions.shape[1], 256, dtype=torch.bfloat16, requires_grad=True)
    turned = tuple(each.detach() for each in lm.decoder.rotary_emb(x, positions))
    prefix_sharing.matmul_attention = lambda *row, **_: prefix_sharing.sdpa_attention(*row)
    layer.compile(dynamic=True, fullgraph=True, backend=backend)
    with packed_as(layout):
        made = layer((x * 1).clone(), attention_mask=None, position_embeddings=turned, position_ids=positions)
    made.float().sum().backward()
    assert len(found) == 2
    return sum(found)


if __name__ == "__main__":
    two, three = (max(step["launches"] for step in study(layers=layers, **STEP)["steps"]) for layers in (2, 3))
    kept = pretend()
    print(json.dumps({"compiled": compiled_layer(), "eager": three - two, "one": 2 * two - three}))
