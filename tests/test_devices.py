"""Where commands compute and in which number type: one place decides, and says what is missing."""

import re

import pytest
import torch

from latentdiff import devices
from latentdiff.errors import UserError

CPU = torch.device("cpu")


def test_auto_is_the_first_device_that_is_there(monkeypatch):
    monkeypatch.setattr(devices, "has_device", lambda kind: kind == "cpu")
    assert devices.find_device() == CPU
    monkeypatch.setattr(devices, "has_device", lambda kind: kind in ("cuda", "mps", "cpu"))
    assert devices.find_device("auto", index=3) == torch.device("cuda", 3)
    assert devices.find_device("auto", among=("mps", "cpu")).type == "mps"
    assert devices.find_device("cpu", index=3) == CPU


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(devices, "has_device", lambda kind: kind == "cpu")
    with pytest.raises(UserError, match="device is cuda:1, but torch finds no CUDA device; use"):
        devices.find_device("cuda:1")
    with pytest.raises(UserError, match="device is mps, but torch finds no MPS device"):
        devices.find_device("mps")


def test_auto_takes_bfloat16_only_where_the_processor_multiplies_it(monkeypatch):
    for fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device, fast=fast: fast)
        assert devices.find_dtype("auto", CPU) == dtype
        assert devices.find_dtype("float32", CPU) == torch.float32


def test_a_number_type_that_cannot_be_or_is_slow_is_told(monkeypatch):
    with pytest.raises(UserError, match="float16 is for GPUs"):
        devices.find_dtype("float16", CPU)
    with pytest.raises(UserError, match="float8"):
        devices.find_dtype("float8", CPU)
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: False)
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    note = devices.slow_dtype_note(torch.bfloat16, CPU) or ""
    assert re.search(r"takes [\d,]+ times as long as in float32; leave the choice to auto", note)
    assert "\n" not in note
    assert devices.slow_dtype_note(torch.float32, CPU) is None
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: True)
    assert devices.slow_dtype_note(torch.bfloat16, CPU) is None


def test_autocast_follows_the_option_then_the_launcher(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert devices.autocast_dtype("auto", CPU) is None
    assert devices.autocast_dtype("bf16", CPU) == torch.bfloat16
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert devices.autocast_dtype("auto", CPU) == torch.bfloat16
    assert devices.autocast_dtype("no", CPU) is None
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(UserError, match="the launcher asks for fp8"):
        devices.autocast_dtype("auto", CPU)
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        devices.autocast_dtype("fp16", CPU)


def test_the_instructions_of_the_processor_and_what_a_user_forbade_are_named(monkeypatch):
    for name in devices.LIMITS_OF_INSTRUCTIONS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert devices.instruction_set(CPU) == "AVX2"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX")
    assert devices.instruction_set(CPU) == "AVX2, ONEDNN_MAX_CPU_ISA=AVX"


def test_threads_are_as_they_were_after_the_block():
    before = torch.get_num_threads()
    with devices.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with devices.threads(0):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
