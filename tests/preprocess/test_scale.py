"""Many frames: a plan in files, what is known of frames in parts, nothing lost."""

import collections
import json

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from preprocess import inspection, plan
from preprocess.beam import pipeline
from preprocess.beam.runners import parse_options
from preprocess.inspection import FrameTotals, Inspection, totals_of
from tests.commands import TINY, mistakes, run
from trainer.evaluation import evaluate_run
from trainer.input import whole_frames
from trainer.run import workdir
from unet_tfrecords.dataset import dataset_info, shards, verify
from unet_tfrecords.dataset.images.frames import Frame
from unet_tfrecords.dataset.images.layouts import look_for_frames
from unet_tfrecords.dataset.images.pages import Page


def many(number: int, split: str = "train") -> list[Frame]:
    """Frames without files."""
    return [
        Frame("set", f"{i // 1000:03d}", f"t{i % 1000:03d}", "ctc", Page(f"{i}.tif"))
        for i in range(number)
    ]


def preprocess(source, output, *more) -> int:
    given = *TINY, "--config.data.num_shards=2", *more
    return run("preprocess", *given, input=source, output=output)


def test_a_plan_comes_out_of_its_files_as_it_went_in(tmp_path):
    odd = Frame(
        "s", "é ü", "a/b", "ctc", Page("x\udcff", 3), None, Page("y"), None, "t"
    )
    given = [plan.PlannedFrame(odd, 3, 17, 2, 5)]
    given += plan.plan_frames(many(10), augmentations=4, num_shards=3, seed=1)
    paths = plan.write_plan(str(tmp_path), iter(given), len(given), parts=4)
    assert len(paths) == 4
    assert [each for path in paths for each in plan.read_plan(path)] == given


def test_frames_are_never_compared_with_each_other(cells, config, monkeypatch):
    """A search for each among all took 30 s for 10,000 frames, hours for 100,000."""

    def compared(*_):
        raise AssertionError("two frames are compared")

    monkeypatch.setattr(Frame, "__eq__", compared)
    assert len(look_for_frames(config.data, str(cells)).frames) == 8
    assert len(plan.plan_dataset(str(cells), config).frames) == 8


@pytest.mark.slow
def test_a_hundred_thousand_elements_arrive(tmp_path):
    """Beam's local runner with threads lost some, or broke them, in most such runs."""
    number, augmentations, most = 4000, 20, 64
    planned = list(
        plan.plan_frames(
            many(number), augmentations=augmentations, num_shards=most, seed=1
        )
    )
    expected = collections.Counter(u.shard for each in planned for u in each.units())
    paths = plan.write_plan(str(tmp_path), planned, number, parts=1)
    with beam.Pipeline(options=parse_options([])) as job:
        units = job | beam.Create(paths) | pipeline.ReadPlan()
        sizes = (
            units
            | beam.FlatMap(lambda each: [(u.shard, u) for u in each.units()])
            | beam.GroupByKey()
            | beam.Map(lambda element: len({unit.key for unit in element[1]}))
        )
        assert_that(sizes, equal_to(list(expected.values())))


@pytest.fixture
def in_parts(monkeypatch):
    """As if three frames were many."""
    monkeypatch.setattr(shards, "PART_FRAMES", 3)


@pytest.fixture
def parted(cells, in_parts, tmp_path):
    assert preprocess(cells, tmp_path / "data") == 0
    return tmp_path / "data"


@pytest.mark.slow
def test_sources_in_parts_are_those_in_one(cells, parted, tmp_path, monkeypatch):
    info = dataset_info.read_info(str(parted))
    assert not info.sources and len(info.source_parts) == 3
    monkeypatch.undo()
    assert preprocess(cells, tmp_path / "whole") == 0
    whole = dataset_info.read_info(str(tmp_path / "whole"))
    assert len(whole.sources) == 8 and not whole.source_parts
    there = sorted(info.read_sources(str(parted)), key=lambda s: s.frame)
    assert tuple(there) == whole.sources
    assert info.splits == whole.splits
    assert verify.verify(str(parted)) == verify.verify(str(tmp_path / "whole"))


@pytest.mark.slow
def test_a_damaged_part_is_found_and_made_again(cells, parted, capsys):
    part = parted / "sources-00001-of-00003.jsonl"
    good = part.read_bytes()
    part.write_bytes(good.replace(b"t00", b"t09", 1))
    assert run("verify", data=parted) == 2
    assert f"{part}: its sha256 is not that in the info" in capsys.readouterr().err
    part.unlink()
    assert run("verify", data=parted) == 2
    assert str(part) in capsys.readouterr().err
    assert preprocess(cells, parted) == 0
    assert "made again: sources-00001-of-00003.jsonl" in capsys.readouterr().out
    assert part.read_bytes() == good
    assert preprocess(cells, parted) == 0
    assert "complete already" in capsys.readouterr().out


@pytest.mark.slow
def test_fewer_frames_leave_no_part_behind(cells, parted, monkeypatch):
    monkeypatch.setattr(shards, "PART_FRAMES", 100)
    assert preprocess(cells, parted, "--overwrite") == 0
    assert not list(parted.glob("sources-*"))


@pytest.mark.slow
def test_a_run_keeps_what_it_learns_from(cells, parted, tmp_path, config):
    """The data may go once it is trained; what was trained on must not be scored."""
    folder = str(tmp_path / "run")
    steps = "--config.train.steps=2"
    assert run("train", *TINY, steps, data=parted, workdir=folder) == 0
    info = workdir.read_info(folder)
    sizes = whole_frames.frame_sizes(folder, info, "validation")
    assert list(sizes.values()) == [(128, 128)]
    frames = plan.plan_dataset(str(cells), config).frames
    unseen = [frame for frame in frames if frame.split == "test"]
    origin = evaluate_run.origin_of(unseen, folder, info, config.data)
    assert origin == "from the same video as the training frames"
    given = (frames, folder, info, config.data)
    assert len(mistakes(evaluate_run.origin_of, *given)) == 5


# --- The summary of a data set --------------------------------------------------------


def sources(number: int, config) -> list[Inspection]:
    found = []
    for i, frame in enumerate(many(number)):
        split = ("train", "validation", "test")[i % 3]
        frame = Frame(
            "set", frame.sequence, frame.name, "ctc", frame.image, split=split
        )
        moments = inspection.moments(inspection.np.full((4, 4, 1), i, "uint8"))
        problems = (f"{frame.image}: broken",) if i % 7 == 0 else ()
        looked = Inspection(frame, 60, 60 + i, 8, (i % 2,), moments, problems)
        found.append(looked._replace(digests=(f"{i:064x}",)))
    return found


def added_up(parts):
    total = FrameTotals()
    for part in parts:
        total.add(part)
    return total


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_facts_do_not_depend_on_how_they_are_added_up(config, policy):
    config.data.on_bad_frame, config.data.normalization = policy, "dataset"
    given = sources(50, config)

    def added(parts) -> inspection.DatasetSummary:
        sums = [added_up(totals_of(s, config, "in") for s in part) for part in parts]
        return inspection.conclude(added_up(sums), [], [], config)

    one = added([given])
    assert added([given[i::4] for i in (2, 0, 3, 1)]) == one
    assert added([[source] for source in reversed(given)]) == one
    assert len(one.problems) == (8 if policy == "fail" else 0)
    assert len(one.skipped) == (0 if policy == "fail" else 8)
    # Every third frame is trained on; those whose number 7 divides are bad.
    values = [i for i in range(0, 50, 3) if i % 7]
    assert one.moments.mean == pytest.approx([sum(values) / len(values)])
    changed = given[:-1] + [given[-1]._replace(digests=("f" * 64,))]
    assert added([changed]).digest != one.digest


def all_bad(number: int, config) -> FrameTotals:
    """What is known of so many broken frames."""
    sums = FrameTotals()
    for frame in many(number):
        bad = Inspection(frame, problems=(f"{frame.image}: broken",), digests=("",))
        sums.add(totals_of(bad, config, "in"))
    return sums


def test_where_all_are_bad_it_is_said_why(config):
    config.data.on_bad_frame = "skip"
    told = inspection.conclude(all_bad(3, config), [], [], config).problems
    assert told == ("0.tif: broken", "1.tif: broken", "2.tif: broken")


@pytest.mark.slow
def test_parts_are_not_written_where_there_are_problems(source, in_parts, tmp_path):
    (source / "01/t003.tif").write_text("broken")
    assert preprocess(source, tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_split_whose_frames_are_all_bad_is_said(source, tmp_path, capsys):
    (source / "01/t005.tif").write_text("broken")  # the one of validation
    out = tmp_path / "out"
    assert preprocess(source, out, "--on_bad_frame=skip") == 0
    assert "validation: all of its frames were bad" in capsys.readouterr().err
    assert not list(out.glob("validation-*"))
    assert verify.verify(str(out)) > 0


def test_a_thousand_problems_are_enough(config, monkeypatch):
    monkeypatch.setattr(inspection, "MOST_PROBLEMS", 10)
    sums = all_bad(100, config)
    assert len(sums.problems) <= 20
    told = inspection.conclude(sums, [], ["stray.tif: label without image"], config)
    assert told.problems[0] == "0.tif: broken" and len(told.problems) == 12
    assert told.problems[-1] == "and up to 90 more like these"
    assert json.dumps(told.problems)
