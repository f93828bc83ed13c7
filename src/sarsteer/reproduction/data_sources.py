"""How to get the paper's benchmarks, and the limits of their licenses."""

from __future__ import annotations

_SPOKEN = "git clone https://github.com/linweiii/SARSteer; --data {0}=SARSteer"
_HUB = "hf download --repo-type dataset {0} --local-dir {1}; --data {2}={1}"
HOW_TO_GET = {
    "figstep": _SPOKEN.format("figstep"),
    "advbench": _SPOKEN.format("advbench"),
    "sorry_bench": "accept its terms at https://huggingface.co/datasets/sorry-bench/sorry-bench-202503, then: "
    + _HUB.format("sorry-bench/sorry-bench-202503", "sorry-bench", "sorry_bench"),
    "ajailbench": _HUB.format("MBZUAI/AudioJailbreak", "AudioJailbreak", "ajailbench"),
    "air_bench_chat": _HUB.format("qyang1021/AIR-Bench-Dataset --include 'Chat/*'", "AIR-Bench", "air_bench_chat"),
}
LIMITS = {
    "sorry_bench": "its license forbids giving the prompts to models that generate anything but text",
    "air_bench_chat": "no commercial use",
}
