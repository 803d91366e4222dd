"""Any text, JSON or bytes: a correct result or a documented error."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_tinyalex.datasets.classes import TINY_IMAGENET_WORDS, select_classes
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.manifest import (
    FORMAT,
    FORMAT_VERSION,
    read_manifest,
)
from keras_tinyalex.datasets.plan import plan_moves
from keras_tinyalex.files import write_json

WNIDS = tuple(sorted(TINY_IMAGENET_WORDS))[:5]
on_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.fixture
def official(tmp_path):
    """Two classes of one train image each, and three val images."""
    for wnid in WNIDS[:2]:
        folder = tmp_path / "source/train" / wnid / "images"
        folder.mkdir(parents=True)
        (folder / f"{wnid}_0.JPEG").write_bytes(b"x")
    (tmp_path / "source/val/images").mkdir(parents=True)
    for index in range(3):
        (tmp_path / f"source/val/images/val_{index}.JPEG").write_bytes(b"x")
    return tmp_path / "source"


names = st.sampled_from(["val_0.JPEG", "val_1.JPEG", "val_2.JPEG"])
lines = st.tuples(
    names | st.text(max_size=12) | st.just("../val_0.JPEG"),
    st.sampled_from(WNIDS[:3]) | st.text(max_size=12),
).map("\t".join)
annotations = st.lists(lines | st.text(max_size=20), max_size=6).map("\n".join)
correct = st.permutations(
    [f"val_{i}.JPEG\t{WNIDS[i % 2]}\t0\t0\t9\t9" for i in range(3)]
)


@on_one_folder
@given(
    content=st.binary(max_size=80)
    | annotations.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | correct.map(lambda found: "\r\n".join(found).encode())
)
def test_annotations(official, content):
    (official / "val/val_annotations.txt").write_bytes(content)
    try:
        source = open_source(official)
    except ValueError as error:
        assert "val_annotations.txt" in str(error)  # noqa: PT017
        return
    # Accepted: each val image has a line of its own and one of the train classes.
    found = {image.name.rpartition("/")[2]: image for image in source.images["val"]}
    assert sorted(found) == ["val_0.JPEG", "val_1.JPEG", "val_2.JPEG"]
    text = content.decode("utf-8-sig")
    for name, image in found.items():
        assert image.class_name in WNIDS[:2]
        assert any(
            line.split("\t")[:2] == [name, image.class_name]
            or (
                line.split("\t")[:1] == [name]
                and line.split("\t")[1].strip() == image.class_name
            )
            for line in text.splitlines()
            if "\t" in line
        )


choice = (
    st.integers()
    | st.text(max_size=30)
    | st.lists(st.sampled_from(WNIDS) | st.text(max_size=9), max_size=5)
    | st.lists(st.sampled_from(WNIDS), max_size=60).map(",".join)
    | st.booleans()
    | st.floats()
)


@settings(deadline=None)
@given(spec=choice)
def test_classes(spec):
    try:
        chosen = select_classes(WNIDS, spec)
    except ValueError as error:
        assert "`classes`" in str(error)  # noqa: PT017
        return
    assert chosen == tuple(sorted(set(chosen)))
    assert 1 <= len(chosen) <= 5
    assert set(chosen) <= set(WNIDS)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
files = st.lists(
    st.fixed_dictionaries(
        {"path": st.text(), "size": st.integers(), "sha256": st.text()}
    )
    | values,
    max_size=3,
)
manifests = st.fixed_dictionaries(
    {
        "format": st.just(FORMAT),
        "format_version": st.just(FORMAT_VERSION),
        "source": st.text() | values,
        "mode": st.text() | values,
        "classes": values,
        "class_names": st.lists(st.text(), max_size=3) | values,
        "files": files | values,
    }
)


@on_one_folder
@given(content=st.binary(max_size=50) | (manifests | values).map(json.dumps))
def test_manifest(tmp_path, content):
    body = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "manifest.json").write_bytes(body)
    manifest = read_manifest(tmp_path)
    if manifest is None:
        return
    assert isinstance(manifest["source"], str)
    for file in manifest["files"]:
        assert isinstance(file["path"], str)
        assert isinstance(file["size"], int)
    write_json(tmp_path / "manifest.json", manifest)
    assert read_manifest(tmp_path) == manifest


def test_manifest_nested_too_deep(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    assert read_manifest(tmp_path) is None


file_names = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", ".."))


@on_one_folder
@given(found=st.lists(file_names, max_size=6, unique=True))
def test_plan(tmp_path_factory, found):
    """Unicode, spaces and special characters: each image once, in its class folder."""
    root = tmp_path_factory.mktemp("plan")
    folder = root / "source" / WNIDS[0]
    folder.mkdir(parents=True)
    (folder / "first.JPEG").write_bytes(b"x")
    for name in found:
        (folder / f"{name}.jpeg").write_bytes(b"x")
    try:
        plan = plan_moves(open_source(root / "source"), root / "target")
    except ValueError as error:
        assert "is not the plain name" in str(error)  # noqa: PT017
        assert any("\\" in name for name in found)
        return
    paths = [move.path for move in plan.moves]
    seen = {name for name in found if not name.startswith(".")}
    assert len(paths) == len(set(paths)) == 1 + len(seen)
    for path in paths:
        split, class_name, _ = path.split("/")
        assert (split, class_name) == ("train_images", WNIDS[0])
