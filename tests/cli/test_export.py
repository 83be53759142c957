"""``dicomnode export`` and ``verify``, against nodes of ours and other people's tools."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydicom.fileset import FileSet

from dicomnode.integrity.exporting import export
from tests import peers
from tests.audit.reading import read_file
from tests.cli.commands import STUDY, make_study, run, written
from tests.conftest import RunningNode, StartNode
from tests.integrity.certificates import ec_signer
from tests.integrity.exports import ed25519_signer, small_object
from tests.integrity.exports import written as objects_in


def filled(node: RunningNode, folder: Path, objects: int = 3) -> list[Path]:
    """Send a study to a node; return its files."""
    paths = make_study(folder, objects, series=2)
    assert run("send", written(node.dicom_address), folder).code == 0
    return paths


@pytest.mark.interop("storescu")
def test_what_a_modality_sent_is_exported_and_verified_until_a_byte_changes(
    node: RunningNode, tmp_path: Path
) -> None:
    paths = make_study(tmp_path / "in", 3, series=2)
    host, port = node.dicom_address
    sent = peers.run_tool("storescu", "-aec", "DICOMNODE", host, port, *paths)
    assert sent.returncode == 0, sent.output
    out = tmp_path / "out"
    exported = run("export", "--study", STUDY, "--to", out, "--config", node.config)
    assert exported.code == 0, exported.err
    assert "exported 3 objects" in exported.out

    good = run("verify", out)
    assert (good.code, good.lines[0]) == (0, "Integrity verified")
    image = next(out.rglob("IM000001"))
    assert run("verify", image).code == 0

    content = bytearray(image.read_bytes())
    content[-1000] ^= 1
    image.write_bytes(content)
    bad = run("verify", out)
    assert (bad.code, bad.lines[0]) == (1, "Integrity check FAILED")
    name = image.relative_to(out)
    assert f"  file       {name}: its bytes are not those that were exported" in bad.lines
    alone = run("verify", image)
    assert (alone.code, alone.lines[0]) == (1, "Integrity check FAILED")


def test_files_are_those_of_the_archive_and_the_node_keeps_record_of_it(
    node: RunningNode, tmp_path: Path
) -> None:
    filled(node, tmp_path / "in")
    out = tmp_path / "out"
    told = run("export", "--study", STUDY, "--to", out, "--config", node.config)
    exported = sorted(path.read_bytes() for path in out.rglob("IM00000?"))
    assert exported == sorted(path.read_bytes() for path in node.files())
    story = json.loads(run("custody", STUDY, "--json", "--config", node.config).out)
    records = [each for each in story if each["event"] == "exported"]
    assert len(records) == 3
    digest = subprocess.run(
        ["sha256sum", out / "SHA256SUMS"], capture_output=True, check=True, text=True
    ).stdout.split()[0]
    assert {each["details"]["manifest_sha256"] for each in records} == {digest}
    assert digest in told.out
    # Of each object its reception goes with it.
    (sidecar, *_) = out.rglob("*.dcm.sig")
    snapshot = json.loads(sidecar.read_text())["snapshot"]
    assert [each["event"] for each in snapshot] == ["received"]


def test_a_node_that_does_not_run_is_exported_from_and_has_it_recorded(
    start_node: StartNode, tmp_path: Path
) -> None:
    node = start_node()
    filled(node, tmp_path / "in")
    node.stop()
    out = tmp_path / "out.zip"
    told = run("export", "--patient", "4711", "--to", out, "--config", node.config, "--json")
    assert told.code == 0, told.err
    verified = json.loads(run("verify", out, "--json").out)
    said = json.loads(told.out)
    assert (said["to"], said["objects"], said["signed_with"]) == (str(out), 3, None)
    assert verified["verified"] and verified["manifest_sha256"] == said["manifest_sha256"]
    events = json.loads(run("custody", STUDY, "--json", "--config", node.config).out)
    assert [each["event"] for each in events].count("exported") == 3
    assert run("custody", "--check", "--config", node.config).code == 0


def test_all_that_is_named_has_to_be_there_and_of_one_patient(
    node: RunningNode, tmp_path: Path
) -> None:
    paths = make_study(tmp_path / "in", 2)
    paths += make_study(tmp_path / "in" / "other", 1, study="1.2.9", name="Roe^Richard")
    for path, born in zip(paths, ("19700131", "19700131", "20010101"), strict=True):
        image = pydicom.dcmread(path)
        image.PatientBirthDate = born
        image.save_as(path)
    assert run("send", written(node.dicom_address), tmp_path / "in").code == 0
    for named, words in (
        (("--patient", "4711", "--patient", "4712"), "holds nothing of 4712; nothing"),
        (("--study", STUDY, "--study", "1.2"), "holds nothing of 1.2; nothing"),
        (("--study", STUDY, "--series", "1.2"), "1.2 that is also of the rest that was given"),
        (("--study", STUDY, "--patient", "4712"), "4712 that is also of the rest"),
        (("--patient", "4711"), "2 patients have the ID 4711: export their studies"),
    ):
        told = run("export", *named, "--to", tmp_path / "out", "--config", node.config)
        assert told.code == 1 and words in told.err, told.err
        assert not (tmp_path / "out").exists()


def test_an_export_that_is_stopped_leaves_nothing(node: RunningNode, tmp_path: Path) -> None:
    filled(node, tmp_path / "in", 1)
    (tmp_path / "to").mkdir()
    slow = (
        "import dicomnode.integrity.exporting as exporting, signal\n"
        "def describe(file):\n    print('waiting', flush=True)\n    signal.pause()\n"
        "exporting.describe = describe\n"
        "from dicomnode.cli import main\nmain()\n"
    )
    options = ("--study", STUDY, "--to", tmp_path / "to" / "out", "--config", node.config)
    command = (sys.executable, "-c", slow, "export", *options)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            assert list((tmp_path / "to").iterdir())
            process.send_signal(number)
            _, told = process.communicate(timeout=60)
        assert (process.returncode, told) == (130, "dicomnode: interrupted\n")
        assert list((tmp_path / "to").iterdir()) == []


def patients(export: Path) -> list[pydicom.Dataset]:
    """Return the patients of a DICOMDIR."""
    records = pydicom.dcmread(export / "DICOMDIR").DirectoryRecordSequence
    return [record for record in records if record.DirectoryRecordType == "PATIENT"]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert run("deidentify-key", tmp_path / "key", "--project", "TRIAL").code == 0
    return tmp_path / "key"


@pytest.mark.interop("dcmftest")
def test_de_identified_copies_are_exported_with_nothing_of_the_originals(
    node: RunningNode, tmp_path: Path, key: Path
) -> None:
    paths = filled(node, tmp_path / "in")
    out = tmp_path / "out"
    command = ("export", "--study", STUDY, "--to", out, "--config", node.config)
    told = run(*command, "--deidentify", "--project", key, "--shift-dates")
    assert told.code == 0, told.err
    assert "exported 3 objects" in told.out and "de-identified, left out 0" in told.out
    assert run("verify", out).lines[0] == "Integrity verified"
    original = pydicom.dcmread(paths[0])
    secrets = [STUDY, original.PatientID, str(original.PatientName)]
    for path in out.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [secret for secret in secrets if secret.encode() in content], path
    names = {record.PatientID for record in patients(out)}
    assert len(names) == 1 and names.pop().startswith("TRIAL-")
    images = sorted(out.rglob("IM00000?"))
    assert peers.run_tool("dcmftest", *images).returncode == 0
    story = json.loads(run("custody", STUDY, "--json", "--config", node.config).out)
    records = [each["details"] for each in story if each["event"] == "exported"]
    assert [details["deidentified_for"] for details in records] == ["TRIAL"] * 3


def test_what_cannot_be_de_identified_ends_the_export_or_is_left_out(
    node: RunningNode, tmp_path: Path, key: Path
) -> None:
    paths = make_study(tmp_path / "in", 3, series=2)
    risky = pydicom.dcmread(paths[0])
    risky.BurnedInAnnotation = "YES"
    risky.save_as(paths[0])
    assert run("send", written(node.dicom_address), tmp_path / "in").code == 0
    out = tmp_path / "out"
    command = ("export", "--study", STUDY, "--to", out, "--config", node.config)
    command = (*command, "--deidentify", "--project", key)
    told = run(*command)
    assert told.code == 1 and not out.exists()
    assert f"{risky.SOPInstanceUID}: Burned In Annotation" in told.err
    assert "Nothing was exported; --skip-refused" in told.err
    told = run(*command, "--skip-refused")
    assert told.code == 0, told.err
    assert "exported 2 objects" in told.out and "left out 1" in told.out
    assert f"left out: {risky.SOPInstanceUID}: Burned In" in told.err
    story = json.loads(run("custody", STUDY, "--json", "--config", node.config).out)
    exported = {each["sop_instance_uid"] for each in story if each["event"] == "exported"}
    assert len(exported) == 2 and risky.SOPInstanceUID not in exported


def test_options_of_copies_are_for_copies_alone(node: RunningNode, tmp_path: Path) -> None:
    command = ("export", "--study", STUDY, "--to", tmp_path / "out", "--config", node.config)
    for option in ("--shift-dates", "--skip-refused"):
        assert "need --deidentify" in run(*command, option).err
    assert "needs --project" in run(*command, "--deidentify").err


def test_what_is_not_held_or_is_there_already_is_not_exported(
    node: RunningNode, tmp_path: Path
) -> None:
    filled(node, tmp_path / "in")
    config = ("--config", node.config)
    absent = run("export", "--study", STUDY, "--study", "1.2", "--to", tmp_path / "a", *config)
    assert (absent.code, absent.out) == (1, "")
    assert "the archive holds nothing of 1.2" in absent.err
    there = run("export", "--study", STUDY, "--to", tmp_path / "in", *config)
    assert there.code == 1
    assert "is there already" in there.err
    assert run("export", "--to", tmp_path / "a", *config).code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "node"]


def test_a_file_that_is_not_what_was_received_is_never_exported(
    node: RunningNode, tmp_path: Path
) -> None:
    filled(node, tmp_path / "in")
    damaged = node.files()[-1]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    told = run("export", "--study", STUDY, "--to", tmp_path / "out", "--config", node.config)
    assert told.code == 1
    assert str(damaged) in told.err
    assert "nothing was exported" in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "node"]


@pytest.mark.interop("dcmftest", "dcmdump", "gdcmscanner")
def test_other_toolkits_open_every_file_and_the_directory(
    node: RunningNode, tmp_path: Path
) -> None:
    paths = filled(node, tmp_path / "in")
    out = tmp_path / "out"
    run("export", "--study", STUDY, "--to", out, "--config", node.config)
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=out, check=True
    )
    files = [out / "DICOMDIR", *out.rglob("IM00000?")]
    assert peers.run_tool("dcmftest", *files).returncode == 0
    for file in files:
        dumped = peers.run_tool("dcmdump", "-q", "+E", file)
        assert dumped.returncode == 0, dumped.output
    scanned = peers.run_tool("gdcmscanner", "-d", out / "DICOM", "-r", "-p", "-t", "0008,0018")
    assert scanned.output.count(f"{STUDY}.") >= len(paths)
    found = FileSet(out / "DICOMDIR")
    assert len(found) == len(paths)
    assert found.find_values("SeriesInstanceUID") == [f"{STUDY}.1", f"{STUDY}.2"]
    uids = {each.load().SOPInstanceUID for each in found}
    assert uids == {each.SOPInstanceUID for each in found}
    # pydicom leaves that to the garbage collector, which would warn in some other test.
    found._stage["t"].cleanup()


def test_openssl_agrees_with_both_kinds_of_signature(node: RunningNode, tmp_path: Path) -> None:
    filled(node, tmp_path / "in", 1)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    for signer, options, verify in (
        (
            ed25519_signer(),
            (),
            "pkeyutl -verify -pubin -inkey SIGNER.PEM -rawin -in SHA256SUMS"
            " -sigfile SHA256SUMS.SIG",
        ),
        (
            ec_signer(),
            ("--certificate", certificate),
            "cms -verify -binary -inform DER -in SHA256SUMS.P7S -content SHA256SUMS"
            f" -CAfile {certificate} -purpose any -out /dev/null",
        ),
    ):
        out = tmp_path / signer.file_name
        key.write_bytes(signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        certificate.write_bytes(signer.public)
        told = run(
            *("export", "--study", STUDY, "--to", out, "--sign", key, *options),
            *("--config", node.config),
        )
        assert told.code == 0, told.err
        agreed = peers.run_tool("openssl", *verify.split(), directory=out)
        assert agreed.returncode == 0, agreed.output
        assert run("verify", out, "--public-key", certificate).code == 0
        (out / "SHA256SUMS").write_bytes((out / "SHA256SUMS").read_bytes()[:-1] + b" ")
        assert peers.run_tool("openssl", *verify.split(), directory=out).returncode != 0
        assert run("verify", out).code == 1


def test_a_file_without_its_sidecar_proves_nothing(node: RunningNode, tmp_path: Path) -> None:
    filled(node, tmp_path / "in", 1)
    out = tmp_path / "out"
    run("export", "--study", STUDY, "--to", out, "--config", node.config)
    image = next(out.rglob("IM000001"))
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(image.read_bytes())
    alone = run("verify", copy)
    assert alone.code == 1
    assert f"  missing    {tmp_path}/copy.dcm.sig: there is no sidecar" in alone.out
    assert run("verify", copy, image.with_name("IM000001.dcm.sig")).code == 0
    assert "is a sidecar: name the file" in run("verify", image.with_name("IM000001.dcm.sig")).err
    as_json = json.loads(run("verify", copy, "--json").out)
    assert as_json["verified"] is False
    assert as_json["findings"][0]["kind"] == "missing"


def test_a_name_that_is_no_text_is_told_by_the_json_report_as_well(tmp_path: Path) -> None:
    export(objects_in(tmp_path / "in", [small_object(1)]), tmp_path / "out")
    Path(os.fsdecode(bytes(tmp_path / "out") + b"/\xff\x1b[31m.txt")).write_text("x")
    told = run("verify", tmp_path / "out", "--json")
    (finding,) = json.loads(told.out)["findings"]
    assert (told.code, finding["kind"], finding["name"]) == (1, "added", "\udcff\x1b[31m.txt")


@pytest.mark.parametrize("custody", [True, False], ids=["with custody", "without custody"])
def test_exports_are_in_the_audit_trail_those_of_a_node_that_does_not_run_once_it_does(
    start_node: StartNode, tmp_path: Path, custody: bool
) -> None:
    trail, directory = tmp_path / "audit.xml", tmp_path / "node"
    audit = {"enabled": True, "file": str(trail)}
    more = {"audit": audit, "custody": {"enabled": custody}}
    node = start_node(directory=directory, **more)
    filled(node, tmp_path / "in")
    for name in ("running", "stopped"):
        told = run("export", "--study", STUDY, "--to", tmp_path / name, "--config", node.config)
        assert told.code == 0, told.err
        node.stop()
    start_node(directory=directory, **more).stop()
    messages = [each for each in read_file(trail) if each.event == "110106"]
    assert [each.participants[1]["UserID"] for each in messages] == ["running", "stopped"]
    assert {(each.study, each.patient) for each in messages} == {(STUDY, ("4711", "Doe^Jane"))}
    assert [sum(each.sop_classes.values()) for each in messages] == [3, 3]
