"""References, paths and manifests: what is written is read back, what is odd is refused."""

import json
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.artifacts import (
    ArtifactRef,
    FileEntry,
    IntegrityError,
    InvalidRef,
    Kind,
    Manifest,
    UnsafePath,
    canonical_json,
    seal,
)
from tunewright.artifacts.layout import checked_path, file_key

ids = st.text("0123456789abcdef", min_size=64, max_size=64)
refs = st.builds(ArtifactRef, st.sampled_from(Kind), ids)
plain = st.characters(exclude_categories=["Cs"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(plain),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(plain), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text(plain), values, max_size=4)
entries = st.builds(FileEntry, path=st.text(plain), size_bytes=st.integers(0), sha256=ids)
manifests = st.builds(
    Manifest,
    kind=st.sampled_from(Kind),
    created_by=st.text(plain),
    spec=documents,
    metrics=documents,
    parents=st.dictionaries(st.text(plain), refs.map(str), max_size=3),
    seed=st.none() | st.integers(),
    files=st.lists(st.builds(FileEntry, path=st.text(plain), size_bytes=st.integers(0), sha256=ids), max_size=3).map(
        tuple
    ),
)


@given(refs)
def test_a_reference_is_read_as_it_was_written(ref: ArtifactRef) -> None:
    assert ArtifactRef.parse(str(ref)) == ref


@given(st.text())
def test_a_text_is_a_reference_or_refused(text: str) -> None:
    try:
        ref = ArtifactRef.parse(text)
    except InvalidRef:
        return
    assert str(ref) == text


@given(manifests)
def test_a_manifest_is_read_as_it_was_written(manifest: Manifest) -> None:
    read = Manifest.from_json(manifest.to_json())
    assert read == manifest
    assert read.ref == manifest.ref


@given(manifests, documents, st.text(plain))
def test_figures_versions_and_maker_do_not_change_the_id(
    manifest: Manifest, metrics: dict[str, object], maker: str
) -> None:
    assert manifest.model_copy(update={"metrics": metrics, "created_by": maker}).ref == manifest.ref


@given(manifests, st.binary(max_size=20), st.data())
def test_a_changed_manifest_is_refused_or_has_the_same_identity(
    manifest: Manifest, noise: bytes, data: st.DataObject
) -> None:
    good = manifest.to_json()
    start = data.draw(st.integers(0, len(good)))
    try:
        read = Manifest.from_json(good[:start] + noise + good[start + len(noise) :])
    except IntegrityError:
        return
    assert read.ref == manifest.ref


def test_a_manifest_whose_id_is_not_its_hash_is_refused() -> None:
    good = Manifest(kind=Kind.CHECKPOINT, created_by="trainer", spec={"step": 1}).to_json()
    with pytest.raises(IntegrityError, match="contents hash to"):
        Manifest.from_json(good.replace(b'"step": 1', b'"step": 2'))


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b"1", b"{}", b'{"id": 1}', b'"id"', b"[" * 100_000])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="not a manifest"):
        Manifest.from_json(data)


@given(st.text() | st.lists(st.sampled_from(["..", ".", "a", "", "ü", "~", "C:"])).map("/".join))
def test_a_path_stays_in_its_folder_or_is_refused(path: str) -> None:
    try:
        checked = checked_path(path)
    except UnsafePath:
        return
    base = Path("/base")
    assert checked == path
    assert (base / path).resolve().is_relative_to(base)
    assert (base / path).resolve() != base
    assert file_key("prefix/", path, "0" * 64).startswith(("prefix/files/", "prefix/logs/"))
    assert PurePosixPath(path).as_posix().encode().decode() == path


@pytest.mark.parametrize("path", ["a" * 901, "bad\udcff", "tab\t", "bell\a", "\x7f", "\ufffe"])
def test_a_name_that_s3_cannot_carry_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        checked_path(path)


@pytest.mark.parametrize("path", ["a", "a b", "汉字　全角", "a/b.c", "..a", "a..", "~", "%2e%2e", "é", "🦀"])
def test_usual_names_in_any_script_are_kept(path: str) -> None:
    assert checked_path(path) == path


def test_equal_values_have_equal_canonical_json() -> None:
    assert canonical_json({"b": 1, "a": [1.5, "ü"]}) == canonical_json(json.loads('{"a": [1.5, "\\u00fc"], "b": 1}'))
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


def test_the_id_is_that_of_the_content_and_not_of_the_logs(tmp_path: Path) -> None:
    draft = Manifest(kind=Kind.MODEL, created_by="trainer", spec={"seed": 0})
    (tmp_path / "logs").mkdir()
    (tmp_path / "model").write_text("weights")
    (tmp_path / "logs" / "events").write_text("today")
    first = seal(draft, tmp_path, {})
    assert [entry.path for entry in first.files] == ["logs/events", "model"]
    (tmp_path / "logs" / "events").write_text("tomorrow")
    assert seal(draft, tmp_path, {}).ref == first.ref
    assert seal(draft, tmp_path, {"base": first.ref}).ref != first.ref
    (tmp_path / "model").write_text("others")
    assert seal(draft, tmp_path, {}).ref != first.ref
