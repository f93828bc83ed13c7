"""Benchmarks in their authors' formats, as items."""

from sarsteer.data.benchmarks.benchmark import Benchmark, Variant
from sarsteer.data.benchmarks.load import LoadedBenchmark, load_benchmark
from sarsteer.data.benchmarks.registry import BENCHMARKS, BenchmarkSpec

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkSpec", "LoadedBenchmark", "Variant", "load_benchmark"]
