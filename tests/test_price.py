"""The price of a machine from each of its sources, and what their silence and nonsense become."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from x1 import config as configuration
from x1 import power, price
from x1.ledger import Instant
from x1.text import UserError

NOW = Instant(wall_ms=1_790_000_000_000, boot_ms=5_000, boot_id="first-boot")
OFFER = """
[[offer]]
hardware = "{hardware}"
provider = "a provider"
usd_per_hour = {usd}
date = {day}
"""


def reader(source: str, hardware: str = "a100-80gb") -> price.Reader:
    settings = (f"money.hardware='{hardware}'", f"money.price_source={json.dumps(source)}")
    return price.Reader(configuration.build("x1-50m", settings=settings))


def offers(path: Path, *entries: tuple[str, str, str]) -> Path:
    texts = [OFFER.format(hardware=name, usd=usd, day=day) for name, usd, day in entries]
    path.write_text('format = "x1-prices-1"\n' + "".join(texts))
    return path


def fault(source: str) -> UserError:
    with pytest.raises(UserError) as caught:
        reader(source).read(NOW)
    return caught.value


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    path = offers(tmp_path / "p.toml", ("a100-80gb", "1.39", "2026-11-01"))
    asked = reader(f"file:{path}")
    assert asked.read(NOW).usd_per_hour == 1.39
    offers(path, ("a100-80gb", "1.39", "2026-11-01"), ("a100-80gb", "4.17", "2026-11-02"))
    read = asked.read(NOW)
    assert (read.usd_per_hour, read.date) == (4.17, "2026-11-02")
    assert read.source == f"{path}: a provider"


@pytest.mark.parametrize("content", [None, "[[offer", "offer = 3", 'format = "x1-prices-1"', "\0"])
def test_a_file_that_says_nothing_is_unreadable(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "p.toml"
    if content is not None:
        path.write_text(content)
    assert isinstance(fault(f"file:{path}"), UserError)


def test_an_undated_offer_is_unreadable(tmp_path: Path) -> None:
    assert fault(f"file:{offers(tmp_path / 'p.toml', ('a100-80gb', '1.39', '1'))}").key == (
        "money.no_date"
    )


@pytest.mark.parametrize("said", ["0.0", "-1.5", "nan", "inf"])
def test_an_impossible_price_is_handed_on(tmp_path: Path, said: str) -> None:
    """What a source says is the guard's to judge; another machine's nonsense is not."""
    path = offers(tmp_path / "p.toml", ("a100-80gb", said, "2026-11-01"))
    for source in (f"file:{path}", f"command:echo {said}"):
        read = reader(source).read(NOW)
        assert not price.is_possible(read.usd_per_hour)
        assert repr(read.usd_per_hour) == repr(float(said))
    offers(path, ("l4", said, "2026-11-01"), ("a100-80gb", "1.39", "2026-11-01"))
    assert fault(f"file:{path}").key == "money.positive"


def test_a_command_prints_the_price() -> None:
    read = reader("command:echo 1.19").read(NOW)
    assert (read.usd_per_hour, read.source, read.date) == (
        1.19,
        "command: echo 1.19",
        "2026-09-21",
    )


@pytest.mark.parametrize(
    "command", ["false", "echo one dollar", "/no/such/program", "echo", "'", "sh -c 'exit 3'"]
)
def test_a_command_that_fails_is_unreadable(command: str) -> None:
    assert fault(f"command:{command}").key == "price.unreadable"


def test_a_source_that_hangs_is_unreadable_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price, "TIMEOUT_S", 0.2)
    assert fault("command:sleep 60").key == "price.unreadable"
    with pytest.raises(TimeoutError):
        price.within(0.05, lambda: time.sleep(1))


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """A price API on this machine; returns its address."""
    answers: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answers[-1])))
            self.end_headers()
            self.wfile.write(answers[-1])

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()

    def begin(answer: bytes) -> str:
        answers.append(answer)
        return f"query:http://127.0.0.1:{server.server_port}/prices"

    yield begin
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_a_query_reads_a_field(serve: Callable[[bytes], str]) -> None:
    address = serve(b'{"Items": [{"retailPrice": 3.673, "currencyCode": "USD"}]}')
    assert reader(f"{address}#Items.0.retailPrice").read(NOW).usd_per_hour == 3.673
    assert fault(f"{address}#Items.1.retailPrice").key == "price.unreadable"
    assert fault(f"{address}#Items.0.currencyCode").key == "price.unreadable"
    serve(b'{"Items": [{"retailPrice": NaN}]}')
    assert not price.is_possible(reader(f"{address}#Items.0.retailPrice").read(NOW).usd_per_hour)
    serve(b"<html>")
    assert fault(f"{address}#Items").key == "price.unreadable"


@pytest.mark.parametrize("url", ["http://prices.invalid/p#a", "http://127.0.0.1.invalid/p#a"])
def test_nothing_is_asked_without_encryption(url: str) -> None:
    assert "https" in str(fault(f"query:{url}"))


def test_only_named_sources_are_taken() -> None:
    for bad in ("1.10", "https://example.com#a", "query:ftp://a#b", "file:", "query:https://a"):
        with pytest.raises(UserError) as caught:
            reader(bad)
        assert caught.value.values["field"] == "money.price_source"
    assert fault_of_own().key == "price.of_own"


def fault_of_own() -> UserError:
    with pytest.raises(UserError) as caught:
        reader("command:echo 1", "own-rtx-4090").read(NOW)
    return caught.value


NVML = """
energy_mj, inited = 0, False
class NVMLError(Exception): pass
def nvmlInit():
    global inited
    inited = True
def nvmlDeviceGetCount(): return COUNT
def nvmlDeviceGetHandleByIndex(index):
    assert inited
    return index
def nvmlDeviceGetTotalEnergyConsumption(card):
    if BROKEN: raise NVMLError
    return energy_mj
def nvmlDeviceGetEnforcedPowerLimit(card): return 450_000
"""


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A library of NVML's names and units in a file, found and called as the real one is."""

    def install(count: int = 1, broken: bool = False) -> Any:
        (tmp_path / "pynvml.py").write_text(f"COUNT, BROKEN = {count}, {broken}" + NVML)
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("pynvml", None)
        library = power.nvml()
        return library or sys.modules["pynvml"]

    yield install
    sys.modules.pop("pynvml", None)


def own(*settings: str) -> price.Reader:
    chosen = ("money.hardware='own-rtx-4090'", "money.tariff_usd_per_kwh=0.20", *settings)
    return price.Reader(configuration.build("x1-50m", settings=chosen))


def test_ones_own_gpu_is_metered(nvml: Callable[..., Any]) -> None:
    library, asked = nvml(), own()
    first = asked.read(NOW)
    assert first.usd_per_hour == pytest.approx(0.450 * 0.20)  # the card's limit, until it is known
    library.energy_mj = 900 * 300 * 1000  # 300 W for 15 minutes
    later = asked.read(Instant(NOW.wall_ms, NOW.boot_ms + 900_000, NOW.boot_id))
    assert later.usd_per_hour == pytest.approx(0.300 * 0.20)
    assert "300 W measured on the GPU" in later.source
    assert own("money.watts=500.0").read(NOW).usd_per_hour == pytest.approx(0.1)  # stated: the wall


@pytest.mark.parametrize("faulty", [{"count": 0}, {"broken": True}])
def test_without_a_measurement_the_rating_counts(
    nvml: Callable[..., Any], faulty: dict[str, Any]
) -> None:
    nvml(**faulty)
    read = own().read(NOW)
    assert "W assumed, not measured" in read.source
    assert read.usd_per_hour == pytest.approx(0.450 * 0.20)
