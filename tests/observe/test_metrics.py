"""The metrics: what each call counts, and that labels stay bounded."""

from prometheus_client.parser import text_string_to_metric_families

from dicomnode import __version__
from dicomnode.observe.metrics import Metrics
from dicomnode.observe.sources import Waiting
from dicomnode.registry import AE, Registry

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def made() -> Metrics:
    registry = Registry([AE(title="CT_1")])
    return Metrics(lambda title: title in registry)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_associations_are_counted_and_the_open_ones_shown() -> None:
    metrics = made()
    metrics.connection_opened()
    metrics.association_accepted("CT_1")
    metrics.association_accepted("CT_1")
    metrics.association_ended()
    metrics.association_rejected("Called AE title not recognized")
    metrics.association_aborted("peer", "aborted by peer")
    assert value(metrics, "dicomnode_connections_total") == 1
    assert value(metrics, "dicomnode_associations_active") == 1
    assert value(metrics, "dicomnode_associations_accepted_total", calling_aet="CT_1") == 2
    reason = "Called AE title not recognized"
    assert value(metrics, "dicomnode_associations_rejected_total", reason=reason) == 1
    name = "dicomnode_associations_aborted_total"
    assert value(metrics, name, by="peer", reason="aborted by peer") == 1


def test_a_request_counts_by_service_title_and_status_with_its_time_and_bytes() -> None:
    metrics = made()
    metrics.request_finished("C-STORE", "CT_1", 0x0000, 0.004, 512)
    metrics.request_finished("C-STORE", "CT_1", 0xA700, 0.004)
    labels = {"service": "C-STORE", "calling_aet": "CT_1"}
    assert value(metrics, "dicomnode_dimse_requests_total", status="0000", **labels) == 1
    assert value(metrics, "dicomnode_dimse_requests_total", status="A700", **labels) == 1
    assert value(metrics, "dicomnode_received_bytes_total", calling_aet="CT_1") == 512
    assert value(metrics, "dicomnode_dimse_request_seconds_count", service="C-STORE") == 2


def test_a_query_counts_by_level_and_a_level_that_is_none_as_other() -> None:
    metrics = made()
    metrics.query_finished("STUDY", 12, 900, 0.02)
    metrics.query_finished("STUDY", 0, 0, 0.02)
    metrics.query_finished("ATTACKER", 1, 0, 0.02)
    assert value(metrics, "dicomnode_query_matches_total", level="STUDY") == 12
    assert value(metrics, "dicomnode_query_empty_total", level="STUDY") == 1
    assert value(metrics, "dicomnode_query_seconds_count", level="other") == 1
    assert value(metrics, "dicomnode_sent_bytes_total") == 900


def test_a_retrieval_counts_its_sub_operations_bytes_and_time() -> None:
    metrics = made()
    metrics.retrieve_finished("C-MOVE", {"completed": 10, "failed": 2}, 5000, 1.5)
    name = "dicomnode_retrieve_sub_operations_total"
    assert value(metrics, name, service="C-MOVE", result="completed") == 10
    assert value(metrics, name, service="C-MOVE", result="failed") == 2
    assert value(metrics, "dicomnode_retrieve_bytes_total", service="C-MOVE") == 5000
    assert value(metrics, "dicomnode_retrieve_seconds_sum", service="C-MOVE") == 1.5
    assert value(metrics, "dicomnode_sent_bytes_total") == 5000


def test_requested_associations_count_by_title_and_result() -> None:
    metrics = made()
    metrics.outgoing_association("CT_1", "accepted")
    metrics.outgoing_association("CT_1", "failed")
    assert value(metrics, "dicomnode_outgoing_associations_active") == 1
    metrics.outgoing_association_ended()
    assert value(metrics, "dicomnode_outgoing_associations_active") == 0
    name = "dicomnode_outgoing_associations_total"
    assert value(metrics, name, called_aet="CT_1", result="failed") == 1


def test_titles_that_the_registry_does_not_know_share_one_label() -> None:
    metrics = made()
    for number in range(50):
        metrics.request_finished("C-ECHO", f"PEER_{number}", 0, 0.001)
        metrics.association_accepted(f"PEER_{number}")
    assert value(metrics, "dicomnode_associations_accepted_total", calling_aet="other") == 50
    assert b"PEER_" not in metrics.render()


def test_spellings_of_one_title_share_one_label() -> None:
    metrics = made()
    metrics.association_accepted("CT_1")
    metrics.association_accepted("ct_1")
    assert value(metrics, "dicomnode_associations_accepted_total", calling_aet="CT_1") == 2


def test_a_title_counts_by_name_once_a_reloaded_registry_knows_it() -> None:
    known: set[str] = set()
    metrics = Metrics(known.__contains__)
    metrics.request_finished("C-ECHO", "MR", 0, 0.001)
    known.add("MR")
    metrics.request_finished("C-ECHO", "MR", 0, 0.001)
    labels = {"service": "C-ECHO", "status": "0000"}
    assert value(metrics, "dicomnode_dimse_requests_total", calling_aet="other", **labels) == 1
    assert value(metrics, "dicomnode_dimse_requests_total", calling_aet="MR", **labels) == 1


def test_refused_contexts_count_by_uid_when_the_standard_has_it() -> None:
    metrics = made()
    words = "abstract syntax not supported"
    metrics.context_refused(CT_IMAGE_STORAGE, words)
    for number in range(20):
        metrics.context_refused(f"1.2.3.{number}", words)
    name = "dicomnode_contexts_refused_total"
    assert value(metrics, name, abstract_syntax=CT_IMAGE_STORAGE, reason=words) == 1
    assert value(metrics, name, abstract_syntax="other", reason=words) == 20


def test_reasons_beyond_a_number_share_one_label() -> None:
    metrics = made()
    for number in range(1000):
        metrics.association_aborted("us", f"reason {number}")
    name = "dicomnode_associations_aborted_total"
    assert value(metrics, name, by="us", reason="reason 0") == 1
    assert value(metrics, name, by="us", reason="other") == 1000 - 64


def test_what_is_held_is_read_when_it_is_asked_for() -> None:
    metrics = made()
    figures = {"instances": 1, "studies": 2, "bytes": 3, "free_bytes": 4, "identity_conflicts": 5}
    metrics.set_archive_source(lambda: figures)
    metrics.set_receive_buffer_source(lambda: (6, 7))
    metrics.set_log_source(lambda: 8)
    figures["instances"] = 9
    assert value(metrics, "dicomnode_objects") == 9
    assert value(metrics, "dicomnode_studies") == 2
    assert value(metrics, "dicomnode_objects_bytes") == 3
    assert value(metrics, "dicomnode_storage_free_bytes") == 4
    assert value(metrics, "dicomnode_identity_conflicts") == 5
    assert value(metrics, "dicomnode_receive_buffer_bytes") == 6
    assert value(metrics, "dicomnode_receive_buffer_limit_bytes") == 7
    assert value(metrics, "dicomnode_log_lines_dropped_total") == 8
    assert value(metrics, "dicomnode_archive_readable") == 1


def test_a_scrape_shows_the_rest_when_the_index_does_not_answer() -> None:
    def fails() -> dict[str, float]:
        raise OSError

    metrics = made()
    metrics.set_archive_source(fails)
    metrics.association_accepted("CT_1")
    assert value(metrics, "dicomnode_archive_readable") == 0
    assert value(metrics, "dicomnode_objects") is None
    assert b'accepted_total{calling_aet="CT_1"} 1.0' in metrics.render()


def test_counts_by_label_are_read_and_one_that_cannot_be_read_leaves_the_rest() -> None:
    metrics = Metrics(known_title=lambda title: True)

    def fails() -> dict[str, int]:
        raise OSError("gone")

    metrics.add_counts_source("dicomnode_a", "A.", "state", fails)
    metrics.add_counts_source("dicomnode_b", "B.", "state", lambda: {"IN PROGRESS": 3})
    assert metrics.registry.get_sample_value("dicomnode_b", {"state": "IN PROGRESS"}) == 3
    assert b"dicomnode_a{" not in metrics.render()


def test_the_exposition_can_be_parsed_and_every_name_of_ours_has_the_prefix() -> None:
    metrics = made()
    metrics.query_finished("STUDY", 2, 100, 0.1)
    metrics.objects_conflicting("keep_first")
    families = list(text_string_to_metric_families(metrics.render().decode()))
    names = {family.name for family in families}
    assert all(name.startswith(("dicomnode_", "process_")) for name in names)
    assert not any(name.endswith("_created") for name in names)
    assert all(family.documentation for family in families)
    assert value(metrics, "dicomnode_info", version=__version__) == 1


def test_two_nodes_in_one_process_count_apart() -> None:
    one, other = made(), made()
    one.connection_opened()
    assert value(other, "dicomnode_connections_total") == 0


def test_what_was_set_aside_in_the_outbox_is_counted_and_does_not_age() -> None:
    metrics = made()
    metrics.set_outbox_source(
        lambda: [Waiting("CT_1", "dead", 3, 9000.0), Waiting("CT_1", "ready", 2, 60.0)]
    )
    depth, oldest = "dicomnode_outbox_depth", "dicomnode_outbox_oldest_seconds"
    assert value(metrics, depth, destination="CT_1", state="dead") == 3
    assert value(metrics, oldest, destination="CT_1") == 60.0
