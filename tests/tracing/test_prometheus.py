"""Prometheus text of a lab: names, types and units as a collector writes them, and nothing without bound."""

from __future__ import annotations

import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.metricstore import BUCKETS, LABEL_CHARACTERS, LABELS, SERIES_PER_NODE, STALE_S, Kind, MetricStore
from lab.prometheus import exposed_names, metric_name, render
from lab.senders import Sender
from tests.tracing.otlp import DELTA, Metrics

PCSCF = Sender("pcscf-a", "PCSCF")
GATEWAY = Sender("imsagw-a", "IMS_AGW")


class Kept:
    def __init__(self) -> None:
        self.now = 0.0
        self.store = MetricStore(lambda: self.now)

    def take(self, told: Metrics, sender: Sender = PCSCF) -> None:
        self.store.take(told.request, sender)

    def families(self):
        return {family.name: family for family in text_string_to_metric_families(render(self.store))}

    def samples(self, name: str):
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in self.families().values()
            for sample in family.samples
            if sample.name == name
        }


@pytest.mark.parametrize(
    ("name", "unit", "kind", "found"),
    [
        ("imslab.calls", "{call}", Kind.COUNTER, ("imslab_calls_total",)),
        ("media.streams", "{stream}", Kind.GAUGE, ("media_streams",)),
        ("rpc.server.call.duration", "s", Kind.HISTOGRAM, tuple(f"rpc_server_call_duration_seconds_{part}" for part in ("bucket", "count", "sum"))),
        ("imslab.otlp.forward.queue", "By", Kind.GAUGE, ("imslab_otlp_forward_queue_bytes",)),
        ("media.streams.use", "1", Kind.GAUGE, ("media_streams_use_ratio",)),
        ("imslab.kms.pruned", "1", Kind.COUNTER, ("imslab_kms_pruned_total",)),
    ],
)  # fmt: skip
def test_names_are_those_of_a_collectors_exporter(name, unit, kind, found):
    assert exposed_names(name, unit, kind) == found


def test_a_unit_that_is_in_the_name_is_not_repeated():
    assert metric_name("x.seconds", "s", Kind.GAUGE) == "x_seconds"


def test_a_counter_is_a_counter_and_keeps_its_last_value():
    it = Kept()
    it.take(Metrics("pcscf-a").counter("imslab.calls", 1, imslab__result="answered"))
    it.take(Metrics("pcscf-a").counter("imslab.calls", 5, imslab__result="answered"))
    it.take(Metrics("pcscf-b").counter("imslab.calls", 2, imslab__result="answered"), Sender("pcscf-b", "PCSCF"))
    family = it.families()["imslab_calls"]
    assert (family.type, family.documentation) == ("counter", "what imslab.calls counts")
    common = [("imslab_nf_type", "PCSCF"), ("imslab_result", "answered")]
    assert it.samples("imslab_calls_total") == {
        (*common, ("service_name", "pcscf-a")): 5.0,
        (*common, ("service_name", "pcscf-b")): 2.0,
    }


def test_a_histogram_has_cumulated_buckets_with_sum_and_count():
    it = Kept()
    it.take(Metrics("pcscf-a").histogram("rpc.client.call.duration", [0.1, 1.0], [3, 2, 1], 4.5))
    found = {
        dict(labels)["le"]: value for labels, value in it.samples("rpc_client_call_duration_seconds_bucket").items()
    }
    assert found == {"0.1": 3, "1": 5, "+Inf": 6}
    (count,) = it.samples("rpc_client_call_duration_seconds_count").values()
    (total,) = it.samples("rpc_client_call_duration_seconds_sum").values()
    assert (count, total) == (6, 4.5)


def test_what_a_node_says_of_itself_is_target_info():
    it = Kept()
    it.take(Metrics("pcscf-a", **{"service.version": "1", "imslab.nf_type": "PCSCF"}).gauge("media.streams", 1))
    assert it.samples("target_info") == {
        (("imslab_nf_type", "PCSCF"), ("service_name", "pcscf-a"), ("service_version", "1")): 1.0
    }


@pytest.mark.peer("promtool")
def test_promtool_finds_nothing_wrong():
    it = Kept()
    told = Metrics("pcscf-a", **{"service.version": "1"}).counter("imslab.calls", 1, imslab__result='with "quotes"\n')
    it.take(
        told.gauge("media.streams", 3).histogram("sip.transaction.duration", [0.1], [1, 0], 0.05, sip__role="client")
    )
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=render(it.store), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr, checked.stdout) == (0, "", "")


def test_a_node_that_is_silent_is_forgotten():
    it = Kept()
    it.take(Metrics("pcscf-a").gauge("media.streams", 1))
    it.now = STALE_S / 2
    it.take(Metrics("imsagw-a").gauge("media.streams", 2), GATEWAY)
    it.now = STALE_S + 1
    assert [dict(labels)["service_name"] for labels in it.samples("media_streams")] == ["imsagw-a"]
    assert list(it.store.resources()) == ["imsagw-a"]


# what a hostile node may try


@pytest.mark.attack("T7")
def test_series_of_a_node_are_bounded_and_those_of_others_unharmed():
    it = Kept()
    told = Metrics("pcscf-a")
    for number in range(SERIES_PER_NODE + 10):
        told.gauge("media.streams", 1, imslab__result=str(number))
    it.take(told)
    it.take(Metrics("imsagw-a").gauge("media.streams", 2), GATEWAY)
    assert len(it.samples("media_streams")) == SERIES_PER_NODE + 1
    assert it.store.dropped == 10


@pytest.mark.attack("T7")
@pytest.mark.parametrize("name", ["", "9x", "a b", 'x{a="b"}', "x\n# TYPE y counter", "ü", "a" * 300])
def test_a_name_that_is_none_is_dropped(name):
    it = Kept()
    it.take(Metrics("pcscf-a").gauge(name, 1))
    assert not [family for family in it.families() if not family.startswith("target")]
    assert it.store.dropped == 1


@pytest.mark.attack("T7")
def test_labels_are_cut_and_stand_in_their_quotes():
    it = Kept()
    it.take(Metrics("pcscf-a").gauge("media.streams", 1, imslab__result='"} 1\nforged 2\n' + "x" * 500))
    assert "forged" not in it.families()
    ((labels, _),) = it.samples("media_streams").items()
    assert len(dict(labels)["imslab_result"]) == LABEL_CHARACTERS


def test_a_metric_that_is_told_as_another_kind_or_as_a_difference_is_dropped():
    it = Kept()
    it.take(Metrics("pcscf-a").gauge("imslab.calls", 1))
    it.take(Metrics("imsagw-a").counter("imslab.calls", 1), GATEWAY)
    it.take(Metrics("pcscf-a").counter("media.drops", 1, temporality=DELTA))
    assert [family for family in it.families() if not family.startswith("target")] == ["imslab_calls"]
    assert it.store.dropped == 2


@pytest.mark.attack("T7")
def test_a_histogram_whose_buckets_do_not_fit_is_dropped():
    it = Kept()
    it.take(Metrics("pcscf-a").histogram("sip.transaction.duration", [0.1, 0.2], [1], 1.0))
    assert not it.samples("sip_transaction_duration_seconds_count")


UE = Sender("alice", "UE")


@pytest.mark.attack("T8", "T9")
@pytest.mark.parametrize("label", ["service_name", "service.name", "imslab_nf_type", "imslab.nf_type", "__name__"])
def test_a_node_tells_nothing_under_the_name_of_another(label):
    it = Kept()
    it.take(Metrics("imsagw-a").counter("media.drops", 7, "{packet}", imslab__cause="replay"), GATEWAY)
    forged = Metrics("alice").counter("media.drops", 0, "{packet}", imslab__cause="replay", **{label: "imsagw-a"})
    it.take(forged, UE)
    drops = it.samples("media_drops_total")
    assert {
        (dict(labels)["service_name"], dict(labels)["imslab_nf_type"]): value for labels, value in drops.items()
    } == {
        ("imsagw-a", "IMS_AGW"): 7.0,
        ("alice", "UE"): 0.0,
    }
    it.take(Metrics("alice", service_name="imsagw-a").gauge("target.info", 5), UE)
    assert {dict(labels)["service_name"] for labels in it.samples("target_info")} == {"alice", "imsagw-a"}
    assert set(it.samples("target_info").values()) == {1.0}


@pytest.mark.attack("T9")
def test_what_a_metric_of_the_lab_is_no_node_changes_for_others():
    it = Kept()
    for lie in (Metrics("alice").gauge("media.drops", 1), Metrics("alice").counter("media.drops", 1, "By")):
        it.take(lie, UE)
    it.take(Metrics("imsagw-a").counter("media.drops", 7, "{packet}"), GATEWAY)
    (told,) = it.samples("media_drops_total").items()
    assert (dict(told[0])["service_name"], told[1]) == ("imsagw-a", 7.0)
    assert it.store.dropped == 2


@pytest.mark.attack("T9")
def test_two_names_that_become_one_are_one_family():
    it = Kept()
    it.take(Metrics("imsagw-a").gauge("media.streams", 7), GATEWAY)
    it.take(Metrics("alice").gauge("media_streams", 1), UE)
    it.take(Metrics("alice").histogram("media/streams", [0.1], [1, 0], 0.05), UE)
    text = render(it.store)
    assert text.count("# TYPE media_streams gauge") == 1
    assert len(it.samples("media_streams")) == 2


@pytest.mark.attack("T7")
def test_labels_buckets_and_texts_are_bounded():
    it = Kept()
    it.take(Metrics("alice").gauge("x.many", 1, **{f"l{number}": "v" for number in range(LABELS + 1)}), UE)
    bounds = [float(number) for number in range(BUCKETS)]
    it.take(Metrics("alice").histogram("x.long", bounds, [1] * (BUCKETS + 1), 1.0), UE)
    assert it.store.dropped == 2
    assert not it.store.metrics()
    it.take(Metrics("alice", **{f"r{number}": "v" for number in range(1000)}).gauge("x" * 250, 1, "u" * 100_000), UE)
    assert len(render(it.store)) < 4000


@pytest.mark.attack("T7")
def test_labels_of_one_series_cost_the_others_nothing():
    it = Kept()
    told = Metrics("alice")
    for number in range(1000):
        told.gauge("x.y", 1, **{f"l{number}": "v"})
    it.take(told, UE)
    assert len(render(it.store)) < 1000 * 100
