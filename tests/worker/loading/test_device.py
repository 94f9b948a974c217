"""What a worker says about its device: the real calls, with what MLX would answer on a Mac in their place."""

import sys

import mlx.core as mx
import pytest

from worker.engine import working_set_bytes
from worker.loading import device

MAC = {"device_name": "Apple M2", "memory_size": 16 << 30, "max_recommended_working_set_size": 11453251584}


def test_on_a_mac_it_is_what_metal_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: MAC)
    assert device.working_set_bytes() == 11453251584
    assert working_set_bytes() == 11453251584


def test_without_metal_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    assert working_set_bytes() == 0


def test_a_device_that_does_not_say_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", dict)
    assert working_set_bytes() == 0


def test_a_worker_without_mlx_does_not_import_it_for_this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mlx.core")
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    assert working_set_bytes() == 0


@pytest.mark.parametrize(("kind", "computes"), [(mx.cpu, True), (mx.gpu, False)])
def test_what_computes(monkeypatch: pytest.MonkeyPatch, kind: mx.DeviceType, computes: bool) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(kind))
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert device.computes_on_cpu() is computes
    assert device.computes_in_one_thread() is computes
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert device.computes_in_one_thread() is computes
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
    assert not device.computes_in_one_thread()
