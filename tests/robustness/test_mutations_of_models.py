"""Damaged work directories and models are noticed."""

import pathlib
import shutil

import pytest

from tests.robustness.campaign import bombs
from tests.robustness.campaign.mutators import flip
from trainer.export import artefact_layout
from trainer.inference.instances import InstanceRules
from trainer.main import COMMANDS
from trainer.run import checkpoints, workdir
from unet_tfrecords.command.cli import main as command
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import checksums


@pytest.mark.parametrize("what", bombs.WELL_FORMED)
def test_strange_json_beside_weights_is_a_line(tmp_path, what):
    text = bombs.WELL_FORMED[what]
    run, folder = tmp_path / "run", str(tmp_path / "run")
    (run / "checkpoints/step-00000001").mkdir(parents=True)
    (run / "checkpoints/step-00000001/about.json").write_bytes(text)
    with pytest.raises(UserError, match="step-00000001: damaged"):
        checkpoints.newest_whole(str(run / "checkpoints"))
    extra = tmp_path / "model/assets.extra"
    extra.mkdir(parents=True)
    (extra / "model.json").write_bytes(text)
    with pytest.raises(UserError, match="model.json: broken"):
        artefact_layout.read_about(str(tmp_path / "model"))
    (run / "metrics.jsonl").write_bytes(text + b'\n{"step": 1}\n')
    workdir.trim_metrics(folder, 1)
    assert workdir.read_metrics(folder)[-1] == {"step": 1}
    (run / workdir.RULES_NAME).write_bytes(text)
    if what in ("deep", "no object", "empty", "zeros", "huge"):
        with pytest.raises(UserError, match="postprocessing.json: broken"):
            workdir.read_rules(folder)


@pytest.mark.slow
def test_changed_settings_of_a_run_are_noticed(trained, tmp_path):
    run = pathlib.Path(shutil.copytree(trained, tmp_path / "run"))
    config = run / "config.json"
    config.write_text(config.read_text().replace('"width": 4', '"width": 5'))
    info = run / "dataset_info.json"
    info.write_text(info.read_text().replace('"normalization": null', '"n": null'))
    for read, path in ((workdir.read_config, config), (workdir.read_info, info)):
        if path.read_text() != (trained / path.name).read_text():
            with pytest.raises(UserError, match=f"{path.name}: not as it was written"):
                read(str(run))
    workdir.write_rules(str(run), InstanceRules(threshold=0.4), {})
    rules = run / workdir.RULES_NAME
    rules.write_text(rules.read_text().replace("0.4", "0.6"))
    with pytest.raises(UserError, match="postprocessing.json: not as it was"):
        workdir.read_rules(str(run))
    (run / checksums.NAME).unlink()  # an older version's, or changed on purpose
    workdir.read_config(str(run))


def predicted(model, source, output) -> int:
    given = f"--model={model}", f"--input={source}", f"--output={output}"
    return command(COMMANDS["predict"], list(given))


@pytest.mark.slow
@pytest.mark.parametrize(
    "version, name", [(2, "saved_model.pb"), (1, "variables.data")]
)
def test_a_bit_of_a_model_is_noticed(models, cells, tmp_path, capfd, version, name):
    model = pathlib.Path(shutil.copytree(models / str(version), tmp_path / "model"))
    path = next(p for p in model.rglob("*") if p.name.startswith(name))
    flip(path, 4 * path.stat().st_size + 3)
    assert predicted(model, cells / "01", tmp_path / "out") == 2
    [line] = [s for s in capfd.readouterr().err.splitlines() if "predict: " in s]
    assert f"{path}: not as it was written" in line


@pytest.mark.slow
def test_a_list_of_digests_that_is_cut_is_no_pardon(models, cells, tmp_path, capfd):
    model = pathlib.Path(shutil.copytree(models / "2", tmp_path / "model"))
    (model / "assets.extra/SHA256SUMS").write_bytes(b"")
    assert predicted(model, cells / "01", tmp_path / "out") == 2
    assert "damaged, it has no line of" in capfd.readouterr().err


def test_damaged_images_among_good_ones(models, cells, tmp_path, capfd):
    source = tmp_path / "in"
    shutil.copytree(cells / "01", source)
    good = {path.stem for path in source.iterdir()}
    whole = (source / "t000.tif").read_bytes()
    bad = {
        "cut.tif": whole[: len(whole) // 2],
        "empty.tif": b"",
        "circle.tif": bombs.tiff_pages(3, last=24),
        "huge.tif": bombs.tiff(65536, 32768, bytes(64)),
        "bomb.png": bombs.IMAGES["zeros.png"][0],
        "text.png": b"not a picture",
        "changed.png": bytes(bombs.png(50, 50)).replace(b"IDAT", b"IDAU"),
    }
    for name, content in bad.items():
        (source / name).write_bytes(content)
    assert predicted(models / "2", source, tmp_path / "out") == 2
    lines = [s for s in capfd.readouterr().err.splitlines() if "predict: " in s]
    for name in bad:
        assert [line for line in lines if str(source / name) in line], (name, lines)
    assert len(lines) == len(bad)
    masks = {path.name for path in (tmp_path / "out").glob("*_mask.png")}
    assert masks == {f"{stem}_mask.png" for stem in good}
