"""Build a TensorRT engine from a bundle's ONNX bytes, on the device that will run it.

The network is strongly typed: FP16 and INT8 come from the graph's own types and Q/DQ pairs, in every version the same
way. Builder flags for precisions exist in 10.x alone and are not used; TF32 is off, because it keeps ten bits of the
mantissa: units near their kink would decide otherwise, and gradients jump.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_runtime.backends.keys import AMPERE, BuildOptions, Platform, Profile, capability
from edge_runtime.backends.profiles import input_shapes
from edge_runtime.backends.tensorrt_api import first_line, last_error, make_logger, started
from edge_runtime.errors import InputError, ProviderError
from edge_runtime.manifest import InputSpec

LEVELS = range(6)


@dataclass(frozen=True)
class Recipe:
    """What to build: the verified ONNX bytes of the file ``name``, its profiles, and how."""

    model: bytes
    name: str
    spec: InputSpec
    profiles: tuple[Profile, ...]
    options: BuildOptions


@dataclass(frozen=True)
class Built:
    """A serialised engine, and the timing cache that its build left."""

    plan: bytes
    timing: bytes


def build_engine(trt: Any, recipe: Recipe, timing: bytes = b"") -> Built:
    """Build an engine; this takes minutes. ``timing`` is an earlier build's timing cache on this platform.

    Raises ProviderError with TensorRT's reason where it cannot.
    """
    logger = make_logger(trt)
    builder = started(trt, trt.Builder, logger)
    network, parser = parsed(trt, builder, recipe, logger)
    config = configured(trt, builder, recipe.options)
    add_profiles(builder, network, config, recipe)
    cache = config.create_timing_cache(timing)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")  # another GPU's or version's: start anew
        config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    del parser  # until here it holds the weights that the network refers to
    if plan is None:
        raise ProviderError(f"TensorRT builds no engine of {recipe.name} ({last_error(logger)}); use provider cuda")
    left = config.get_timing_cache()
    return Built(plan=bytes(plan), timing=bytes(left.serialize()))


def check_options(options: BuildOptions, here: Platform) -> None:
    """Raise InputError for what TensorRT does not know, or not on this device."""
    if options.optimization_level not in LEVELS:
        raise InputError(f"optimization level is {options.optimization_level}; give {LEVELS[0]} to {LEVELS[-1]}")
    if options.hardware_compatible and here.l4t_release:
        raise InputError("TensorRT knows no hardware compatibility on Jetson; build without it")
    if options.hardware_compatible and capability(here) < AMPERE:
        raise InputError(
            f"hardware compatibility begins with Ampere (8.0), this GPU has {here.compute_capability}; build without it"
        )


def parsed(trt: Any, builder: Any, recipe: Recipe, logger: Any) -> tuple[Any, Any]:
    """Return the network of the ONNX bytes and the parser, which holds its weights.

    Raises ProviderError with the parser's first objection.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(recipe.model):
        reason = parser_error(parser) if parser.num_errors else last_error(logger)
        raise ProviderError(f"TensorRT {trt.__version__} does not parse {recipe.name} ({reason}); use provider cuda")
    return network, parser


def parser_error(parser: Any) -> str:
    first = parser.get_error(0)
    return first_line(first.desc())


def configured(trt: Any, builder: Any, options: BuildOptions) -> Any:
    """Return the builder's configuration."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.builder_optimization_level = options.optimization_level
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    return config


def add_profiles(builder: Any, network: Any, config: Any, recipe: Recipe) -> None:
    """Give every profile the shapes of all inputs."""
    for profile in recipe.profiles:
        shapes = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            least, usual, most = input_shapes(tensor.name, profile, recipe.spec)
            try:
                shapes.set_shape(tensor.name, least, usual, most)
            except ValueError as error:
                raise refused(recipe, profile, first_line(error)) from None
        if config.add_optimization_profile(shapes) < 0:
            raise refused(recipe, profile, "an input has another shape")


def refused(recipe: Recipe, profile: Profile, reason: str) -> ProviderError:
    return ProviderError(f"TensorRT refuses the sizes of {recipe.name} ({profile}: {reason}); export the bundle again")
